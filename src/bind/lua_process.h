/* A raw process: one mf_process behind a userdata. Runs in the parent. */
#ifndef BIND_LUA_PROCESS_H
#define BIND_LUA_PROCESS_H

#include "bind/completion.h"

/* An open mf_process. Freed when it is closed and its completions have been popped. */
struct proc {
  struct resident resident;
  struct reactor *reactor;
  mf_process *process; /* NULL: closed */
  struct completion exit, error;
  unsigned holds;  /* the library's, and one for each completion that is not popped */
  int watched;     /* somebody wants to be told of its end */
  int known, told; /* exit has the status; it was queued */
  int asked;       /* the library was asked for its end */
  struct list
      *behind; /* where its completions wait, while a reply of its rpc is read; or NULL */
  int lent;    /* an rpc or a pool has the process; it closes it */
  int dropped; /* closed by Lua, and lent still */
  int pid;     /* when the process is gone, or -1 */
  /* The common path (object.c): nobody's cell; exit's reference is the callback of
   * on_exit. */
  int common;
  int failed;     /* error has the failure; nobody was told */
  int popped;     /* on_exit's callback was told */
  int is_dropped; /* its object is gone: closed when that has been told */
  struct handle *handle;
  struct completion run; /* begins when it is asked for */
};

/* Registers the metatable of raw processes. */
void bound_open(lua_State *L);
/* What stands for any of the original's processes in a copy of its interpreter. */
extern struct proc bound_of_others;
/* A process without one of the library's yet; refs: of the cell. NULL: no memory. */
struct proc *proc_new(struct reactor *r, int ref);
void proc_begin(struct proc *p, mf_process *process);
void proc_unhold(struct proc *p);
/* Asks the library for the end, once. It counts as outstanding where somebody watches it.
 */
void proc_ask_exit(struct proc *p);

/* The raw process at idx, which must be open. */
struct proc *bound_check(lua_State *L, int idx);
/* The same where the process may be gone with the rpc or pool that had it. */
struct proc *bound_check_any(lua_State *L, int idx);
/* Ends a call that gave work to the library. -> true; or nil, error */
int bound_done(lua_State *L, struct proc *p, int rc);
/* The same; a completion that nobody will tell goes. NULL: none */
int bound_refused(lua_State *L, struct proc *p, struct completion *c, int rc);
/* -> nil, error */
int bound_unsupported(lua_State *L, const char *why);
/* An rpc has taken the process (bound_gone follows), or a pool, which may close it at
 * any time. */
void bound_lend(struct proc *p);
void bound_give(struct proc *p);
/* The library has closed, or is about to close, the process that was lent. */
void bound_gone(struct proc *p);
/* Closes it without any Lua: cancels what is under way. */
void bound_release(struct proc *p);
/* Pushes a raw process that is still empty, its cell (the value at idx) referenced. Gives
 * NULL, having pushed `nil, error`, where memory is short. */
struct proc *bound_push(lua_State *L, struct reactor *r, int cell);
/* Puts the library's process (when rc is 0) into the raw process on top of the stack.
 * -> raw; or nil, error */
int bound_fill(lua_State *L, struct proc *p, int rc, mf_process *process);

/* A request that is answered with a socket: from the one that has to be told to the
 * values that pop() gives, "kind" (NULL: without), target, error, socket | nil. Gives how
 * many. */
int proc_push_socket(lua_State *L, struct completion *c, const char *kind);

#endif
