/* The pseudo-processes of this program: who there is, whose child it is, and how it
 * ended. Each is an interpreter in a region of its own and a thread. One lock for all of
 * it; everything here may be called by any of them.
 *
 * A record lives until its process has ended and its status was taken, or nobody is left
 * to take it. Numbers are given once. */
#ifndef PSEUDO_FAMILY_H
#define PSEUDO_FAMILY_H

#include <lua.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

struct heap;
struct surroundings;

/* What the program's coroutine wants of its driver when it yields. */
enum family_want { WANT_NOTHING, WANT_FORK, WANT_END };

struct family_member {
  long id, parent; /* parent 0: there is none, or it has ended */
  struct family_member *next;
  pthread_t thread;
  bool has_thread, ended;
  int code, signal; /* once it has ended; signal 0: it has a code */
  _Atomic int
      ending; /* 0, or its Lua code is to be left: ENDING_EXIT, or a signal's number */

  /* What only its own thread uses. */
  struct heap *heap;
  lua_State *L, *program;      /* the main thread; the coroutine that the script is */
  lua_State *volatile running; /* the coroutine whose code runs */
  struct surroundings *surroundings;
  enum family_want want;
  jmp_buf left; /* where its driver goes on when it is ended in a system call */
  bool can_leave;
  long result; /* of a fork: a number, 0 in the copy, negative: why_not says why */
  char why_not[600];
  int exit_code;
  bool close_state;    /* of os.exit(code, true) */
  bool closes;         /* its program has returned or failed, and what it has is closed */
  bool warns, warning; /* the function warn: on; in the middle of a message */
};

enum { ENDING_EXIT = -1 };

/* The process whose thread this is; NULL in threads of others. */
extern __thread struct family_member *family_self;

/* A new one, which counts as alive from now on. NULL: no memory. */
struct family_member *family_add(long parent);
/* The calling thread is m's, from now on. */
void family_enter(struct family_member *m);
/* It never began: takes the record back. */
void family_withdraw(struct family_member *m);
/* Its end, for everybody to see. Its children have no parent from now on. */
void family_end(struct family_member *m, int code, int signal);
/* Waits until every one has ended. */
void family_wait_for_all(void);

enum family_waited { WAITED_ENDED, WAITED_RUNNING, WAITED_NONE, WAITED_LEFT };
/* Waits for a child of m: this one, or with id -1 any. WAITED_RUNNING only without
 * `block`; WAITED_NONE: it is no child of m, or was waited for; WAITED_LEFT: m is to end.
 */
enum family_waited family_wait(struct family_member *m, long id, bool block, long *ret_id,
                               int *ret_code, int *ret_signal);
/* Asks it to leave its code. 0, or -ESRCH. signal 0 only asks whether it lives. */
int family_kill(long id, int signal);
long family_parent(const struct family_member *m);

/* The signal that interrupts what a thread is waiting in. Its handler is installed now, and
 * again where a module has its own when somebody is killed; hook: what is called then in
 * the thread, by lua_sethook's rules. */
int family_watch(lua_Hook hook);

#endif
