/* One process that serves commands: a template, or a clone that has not run yet. There is
 * one of these in a process (server_self), and everything in this folder works on it; and
 * one for each clone that is a thread of the template's process (thread/thread_clone.h).
 *
 * Its life: template_enter makes it; serve executes commands until a fork makes this very
 * process a clone (SERVED_BORN), or run is to be entered (SERVED_RUN); both leave the
 * loop by returning to entry.c, which goes on with the clone or the function. Every other
 * end is inside, by server_exit. */
#ifndef TEMPLATE_SERVER_SERVER_H
#define TEMPLATE_SERVER_SERVER_H

#include "template/audit/audit.h"
#include "template/heap/collector.h"
#include "template/server/accepting.h"
#include "template/server/args.h"
#include "template/server/connection.h"
#include "template/server/failure_record.h"
#include "template/server/gather.h"
#include "template/server/leash.h"
#include "template/server/options_parse.h"
#include "template/server/report.h"
#include "template/server/slots.h"
#include "wire/parts.h"
#include "wire/proto.h"
#include <moonfork/template.h>
#include <stdatomic.h>

enum serve_phase { /* doc/design.md */
                   SERVE_BOOT,
                   SERVE_SERVING,
                   SERVE_ENDING,
                   SERVE_COUNT
};

enum served {                  /* what a handler and serve return besides 0 */
              SERVED_BORN = 1, /* this process is a new clone */
              SERVED_RUN = 2   /* enter the function */
};

struct command {
  unsigned type;
  unsigned flags; /* FRAME_... of a FORK */
  uint64_t id;
  const unsigned char *body; /* borrowed */
  size_t length;
  struct fdset *fds;     /* handlers steal, the dispatcher closes the rest */
  int lost_fds;          /* the kernel dropped some of them, or LOST_AT_AGENT */
  struct gather *gather; /* owns the body where it came in parts, else NULL */
};

/* The agent that passed it on had no free descriptor for one of them (remote/mux.h). */
enum { LOST_AT_AGENT = 2 };

enum { SERVER_TITLE_MAX = 303 };

struct hibernate_call;
struct lazy;
struct rpc_server;
struct thread;

struct server {
  lua_State *L;       /* where user code runs; NULL before SETUP of a program */
  lua_State *given;   /* an interpreter that was running before, or NULL */
  lua_State *program; /* a function that was suspended in another process; or NULL */
  const mf_template_options *options; /* may be NULL */
  struct heap *heap;                  /* NULL: the host's allocator */
  struct collector collector;
  struct connection conn;
  int intake_fd;      /* a far template's, for its clones; -1: there is none */
  struct slots slots; /* of its clones */
  struct args args;
  struct leash leash;
  struct accepting accepting;
  struct parts parts; /* a command in parts under way */
  struct gather gather;
  int gather_lost;
  enum serve_phase phase;
  unsigned executing; /* the type of the command under way and 1; 0: none */
  uint64_t
      user_since_ns; /* when user code was entered (server_enter_user); 0: it was not */
  uint64_t nforks;
  int exit_code;
  int is_clone;
  int exiting;     /* inside clone.exit */
  int asked_code;  /* and with what */
  unsigned nbirth; /* so that an inherited marker of it is none (lua/clone_lib.c) */
  /* Called by server_exit and before an exec, where it is set: what user code believes to
   * be written. */
  void (*before_exit)(void);
  /* It is a thread, which ends in the place of its process; or NULL. */
  struct thread *thread;
  int life; /* a thread's: where it tells of its end */
  void (*leave)(struct server *s, int code) __attribute__((noreturn));
  void (*ending)(struct server *s); /* a thread's: it is going to end */
  /* The template sleeps until this is called: before any code of the user's but the
   * beginning of the function, or with its first bytes (lua/function_begin.h). NULL: it
   * was. */
  void (*release)(void);
  struct last_words *last_words; /* of a process without a slot; or NULL */
  char *words;                   /* its last words, which go with the news of its end */
  size_t words_max, *nwords;
  atomic_int nthreads; /* clones of it that are threads, and live */
  /* The last command was a FORK of one: their life (thread/thread_ready.h). Or NULL. */
  void (*lends)(struct server *s);
  int lends_lazy; /* with that option */
  /* Until they have ended (ms -1); or for so long at most until those have whose end has
   * begun: how many are left. */
  int (*await_threads)(const struct server *s, int ms);
  /* A template's: what is to be done before its interpreter changes, since clones are
   * still copied from it (thread/thread_lazy.h). 0, or -ENOMEM: it must not change. NULL:
   * nothing. */
  int (*before_change)(struct server *s);
  struct lazy *lazy;      /* a clone's that is copied as it touches its memory; or NULL */
  uint64_t *copied_hooks; /* its objects with __clone (thread/thread_copy.c) */
  size_t ncopied_hooks;
  struct rpc_server *rpc; /* a thread's; or NULL */
  void (*free_rpc)(struct rpc_server *rpc);
  int title_stale;
  pid_t pid;          /* who serves; a copy that user code forks is another one */
  uint64_t owner_pid; /* of the parent */
  int may_sibling;    /* the owner is the parent, and may be that of clones, too */
  int owner_is_agent; /* the parent is the far end of a link (doc/remote-protocol.md) */
  char name[128];
  int leash_mode;    /* enum mf_leash */
  int to_socket[3];  /* standard streams that become the socket at run */
  struct slot *slot; /* our own, among the template's; or NULL */
  char *slot_text;
  int audit_level;   /* MF_SEAL_AUDIT_...; 0: refuse what audit_check refuses */
  int hide_args;     /* hooks of a birth must not see arguments */
  int limits_nofile; /* it was given a limit on descriptors: */
  uint64_t nofile;
  int being_born; /* executing the inner commands of a FORK */
  struct {        /* a clone between fork() and clone_born */
    struct options options;
    uint64_t id;                     /* of the FORK */
    int sibling;                     /* a child of the template's parent */
    unsigned flags;                  /* of the FORK */
    int (*settle)(struct server *s); /* a copy of a running function: what it does before
                                        anything else in Lua (fork/promote.h); or NULL */
    int is_seeded;                   /* its random numbers are its own */
    struct slot *slot;
    char *slot_text;
    struct fdset fds; /* long, and seldom more than its beginning is written */
  } birth;
  struct { /* a function about to be entered */
    int nargs;
    int is_fresh;  /* by the command that forked it: its socket is as the parent made it,
                     for it alone, blocking */
    int goes_on;   /* it is s->program */
    int failed;    /* it raised: s->failure */
    int is_silent; /* it has returned before any function of C's could be called, and no
                      fork handler was: there is nothing to flush, for that was done
                      before the fork */
    const struct hibernate_call *call; /* the innermost; NULL: none runs, or it can't be
                                          left (lua/hibernate.h) */
    char title[128];
  } run;
  char title[SERVER_TITLE_MAX + 1]; /* what the kernel shows, where it could be moved */
  /* The storage of conn.in. What a FORK is lies at its beginning, in the page of all that
   * is written at a birth (storage.c). From its end on clones don't write, or seldom.
   */
  unsigned char room[INBOX_ROOM_MIN];
  struct fdset gather_fds;
  struct audit audit;
  struct failure_record failure; /* of the last protected call that failed */
};

extern struct server server_storage; /* for entry.c */
/* The server of this process or thread, or NULL where it is none (a plain parent). */
struct server *server_self(void);
void server_set_self(struct server *s);
void server_report(
    struct report *ret); /* for report_start; of the server of this process */

/* Fails the command under way with what s->failure says: FAILED is queued, nothing is
 * executed any more. */
void server_fail(struct server *s);
/* The same with a text in the manner of printf; error is an errno or 0. */
void server_fail_at(const char *origin, struct server *s, int code, int phase, int error,
                    const char *format, ...) __attribute__((format(printf, 6, 7)));
#define server_fail_with(...) server_fail_at(ORIGIN, __VA_ARGS__)
/* Its body breaks the protocol. 0. */
int server_malformed_at(const char *origin, struct server *s, const char *what);
#define server_malformed(...) server_malformed_at(ORIGIN, __VA_ARGS__)
/* Queues ANS_HELLO: who this is, and how many commands it has executed. */
void server_answer_hello(struct server *s);
/* Whether the descriptor is the library's own, one that its owner sent, or one that has
 * come for commands further on. */
int server_has_fd(const struct server *s, int fd);
/* Bytes in use in the state. */
uint64_t server_lua_live(struct server *s);
/* Calls s->before_change, where there is one. 0 or -ENOMEM. */
static inline int server_before_change(struct server *s) {
  return s->before_change ? s->before_change(s) : 0;
}
/* Calls s->release, once. */
void server_release(struct server *s);
/* Around user code other than the function of run: what was answered is sent, the leash
 * is armed, the mask empty, and the heap is no longer sealed. */
void server_enter_user(struct server *s);
void server_leave_user(struct server *s);
/* Behind any user code: whoever comes back from it must be who went in. A copy that the
 * code has forked by itself would be a second server on one socket, so it ends here, with
 * 0. */
void server_end_copy(const struct server *s);
/* Who comes back is asked at every call from now on: without a system call, where the
 * kernel can (Linux 4.14). It costs a fork of this process a page. */
void server_mark_original(void);
/* This process is the server, and not what it was forked from. */
void server_take_pid(struct server *s);
/* kind: "template" or "clone"; NULL: the function (s->run.title). */
void server_title(struct server *s, const char *kind);
/* The title stands in the page that births write to, from now on. */
void server_move_title(struct server *s);
/* The program's own preparations, NULL when done: template_main.c. */
extern void (*server_before_first_fork)(void);
/* Flushes stdio and leaves. No atexit handler, no lua_close. A process with clones that
 * are threads waits for their end first. */
_Noreturn void server_exit(struct server *s, int code);

#endif
