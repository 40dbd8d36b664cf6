/* The Lua binding of the parent's side: what its files share. Runs in the parent (and
 * lies idle in copies of it that template() and early made).
 *
 * moonfork.core is raw: a function checks its arguments, calls the library once and
 * pushes. What is pleasant - chains, options, waiting, error handling - is Lua
 * (lua/moonfork). The contract of each Lua function stands at its C function; "-> x" is
 * what it returns.
 *
 *   box (one per Lua state, a userdata in the registry)
 *    '- reactor (one per process that uses it; a forked copy gets a new one)
 *        |- uv_loop_t, private, turned only by reactor_turn: never inside itself
 *        |- done: completions, in the order in which they came, waiting for pop()
 *        |- procs: every mf_process that is not closed
 *        '- trash: what is freed in a Lua context only (registry references)
 *
 * A callback of the library never runs Lua. It fills a completion that was allocated when
 * the request was made, and so needs no memory to be told. Lua pops it later.
 */
#ifndef BIND_BIND_H
#define BIND_BIND_H

#include "base/list.h"
#include "parent/private.h"
#include <lauxlib.h>
#include <lua.h>
#include <moonfork.h>
#include <sys/types.h>
#include <uv.h>

/* The names carry the side and the version, so that the template program's never match.
 */
#define BIND_ID "moonfork.module." MF_VERSION_STRING "."
#define BIND_BOX BIND_ID "box"
#define BIND_PROCESS BIND_ID "process"
#define BIND_OBJECT BIND_ID "object"
#define BIND_WATCH BIND_ID "watch"
#define BIND_ERROR BIND_ID "error"

/* ---- completions ---- */

enum completion_kind {
  DONE_CALL,
  DONE_SOCKET,
  DONE_MEMORY,
  DONE_EXIT,
  DONE_ERROR,
  DONE_REPLY, /* from here on: service.c's, inside of a struct reply */
  DONE_EVENT,
  DONE_TROUBLE,
  DONE_CLOSED,
  DONE_DRAIN
};

/* A status with a text of its own. */
struct ending {
  mf_exit exit; /* error is not used */
  char *error;
};

struct trash { /* a registry reference and a block, freed together */
  struct list link;
  int ref;
  void *block;
};

struct completion {
  struct list link;
  enum completion_kind kind;
  struct trash trash; /* ref: a function, or the cell of a process */
  struct reactor *reactor;
  struct proc *proc; /* DONE_EXIT, DONE_ERROR: embedded in it; else NULL */
  struct proc *starts; /* a run of the common path: it is held; else NULL */
  int keep;            /* its object */
  int code, started; /* code 0: success */
  char *message, *traceback;
  void *value; /* packed; NULL: none */
  size_t value_size;
  int has_ending;
  struct ending ending;
  int fd; /* DONE_SOCKET: owned */
  mf_memory_info memory;
};

/* An open mf_process. Freed when it is closed and its completions have been popped. */
struct proc {
  struct list link; /* reactor->procs */
  struct reactor *reactor;
  mf_process *process; /* NULL: closed */
  struct completion exit, error;
  unsigned holds; /* the library's, and one for each completion that is not popped */
  int watched;    /* somebody wants to be told of its end */
  int known, told; /* exit has the status; it was queued */
  int asked;      /* the library was asked for its end */
  struct list *behind; /* where its completions wait, while a reply of its rpc is read; or NULL */
  int lent;       /* an rpc or a pool has the process; it closes it */
  int dropped;    /* closed by Lua, and lent still */
  int pid;        /* when the process is gone, or -1 */
  /* The common path (object.c): nobody's cell; exit's reference is the callback of on_exit. */
  int common;
  int failed; /* error has the failure; nobody was told */
  int popped; /* on_exit's callback was told */
  int orphan; /* its object is gone: closed when that has been told */
  struct handle *handle;
};

/* A process without one of the library's yet; refs: of the cell. NULL: no memory. */
struct proc *proc_new(struct reactor *r, int ref);
void proc_begin(struct proc *p, mf_process *process);
void proc_unhold(struct proc *p);
/* Asks the library for the end, once. It counts as outstanding where somebody watches it. */
void proc_ask_exit(struct proc *p);

/* A new request whose completion goes to the function at idx, or NULL (no memory). May
 * raise. From here to the library's call nothing may raise. */
struct completion *completion_new(lua_State *L, struct reactor *r,
                                  enum completion_kind kind, int idx);
void completion_init(struct completion *c, struct reactor *r, enum completion_kind kind);
/* Takes back a request that the library refused. */
void completion_drop(lua_State *L, struct completion *c);
void completion_set_error(struct completion *c, const mf_error *error);
void completion_set_ending(struct ending *e, const mf_exit *exit);
/* It is decided: appends it to the reactor's done. */
void completion_done(struct completion *c);
/* -> kind, target, error | nil, value...; or nothing when none waits. kind is "call" or
 * "reply" (target: the function), "ran" (the same with the object behind the value: a run of
 * the common path that process.lua has to hear of), "exit" or "error" (target: the cell of the
 * process), "event", "trouble", "closed" or "drain" (target: the cell of the service). */
int completion_pop(lua_State *L, struct reactor *r);
/* Frees what is inside; memory and reference stay. */
void completion_clear(struct completion *c);

/* ---- the reactor ---- */

struct reactor {
  uv_loop_t loop;
  uv_async_t wake; /* keeps the descriptor readable while completions wait */
  struct list done, procs, trash;
  pid_t pid;     /* of the process that made it */
  int turned;    /* what libuv watches is known to the kernel */
  int exposed;   /* somebody else polls the descriptor */
  int attention; /* a waiting call has its answer and has not looked yet */
  struct list watches, services;
  struct list reading;  /* replies that are long and are read in steps (service.c) */
  uint64_t read_until;  /* when this turn has read enough of them, as proc_now_ns */
  size_t undelivered;   /* bytes of replies and events that wait in done or to be read */
  int nclosing; /* processes whose close callback is due */
  struct guest *guest;
};

struct box {
  struct reactor *reactor; /* NULL: not needed yet */
  uv_loop_t *host;         /* use_loop's, or NULL */
  int closed;              /* the state is closing */
  int has_waiter;          /* set_waiter: coroutines wait by a function of the program's */
};

/* The box of the state: upvalue 1 of every function of the module. */
struct box *box_get(lua_State *L);
/* Makes the box, pushes it. Its finaliser cancels everything and empties the loop. */
struct box *box_open(lua_State *L);
/* The reactor, made on first use and after a fork; NULL where that fails, having pushed
 * `nil, error`: never after it was made in this process, as whoever has one of its objects
 * may rely on. Raises when the state is closing. */
struct reactor *reactor_get(lua_State *L);
/* The same, but NULL where there is none in this process yet. */
struct reactor *reactor_peek(lua_State *L);
int reactor_foreign(const struct reactor *r);
/* One turn without waiting; calls no Lua. */
void reactor_turn(struct reactor *r);
/* Makes the descriptor readable when somebody should look. */
void reactor_arm(struct reactor *r);
/* Work was given to the library: a host's loop has to stay alive. */
void reactor_touch(struct reactor *r);
/* Work under way that the library or this module knows of. */
int reactor_outstanding(struct reactor *r);
/* Milliseconds until it wants a turn, -1: none. 0 while completions wait. */
int reactor_timeout(struct reactor *r);
/* The same for other loops: 0 also while a suspended waiting call has its answer. */
int reactor_due(struct reactor *r);
void reactor_discard(struct reactor *r, struct trash *t); /* freed at the next tidy */
void reactor_tidy(lua_State *L, struct reactor *r);
/* In a forked copy: closes the loop's descriptors. The rest is left as it is. */
void reactor_abandon(struct reactor *r);
/* Once per forked copy and before anything else of the library is used there. */
void reactor_forked(void);

int bind_to_ms(lua_Number seconds); /* rounded up */

/* ---- guest.c: the reactor on a host's loop ---- */

int guest_open(lua_State *L, struct reactor *r, uv_loop_t *host); /* 0 or -errno */
void guest_touch(struct guest *g);
void guest_close(struct guest *g); /* its memory goes when the host's loop turns */

/* ---- watch.c: one descriptor, once ---- */

/* A descriptor that is readable as soon as fd is ready for events (UV_READABLE |
 * UV_WRITABLE), without touching fd's flags, as uv_poll_t would. -EPERM: fd is of a kind
 * that is always ready. wrap_epoll.c or wrap_kqueue.c. */
int watch_wrap(int fd, int events);
void watch_open(lua_State *L); /* registers the metatable */
/* In a forked copy: closes the wraps. */
void watch_abandon(struct reactor *r);

/* ---- values.c ---- */

/* The name of a code, of the closed set of the API. */
const char *bind_error_name(int code);
/* Pushes an error object. Strings may be NULL. */
void bind_error_push(lua_State *L, const char *code, const char *message,
                     const char *traceback, int started, const struct ending *ending);
/* true, or nil and an error object, for what a function of the library returned. Raises
 * where the object belongs to another process. */
/* The error of a completion whose code is not 0. */
void bind_failure_push(lua_State *L, const struct completion *c);
int bind_result_push(lua_State *L, int rc);
void bind_ending_push(lua_State *L, const struct ending *e);
void bind_memory_push(lua_State *L, const mf_memory_info *m);
void bind_error_open(lua_State *L); /* registers the metatable */

/* ---- options.c ---- */

/* Options from the normalised table at idx (nil: none), in memory that lives as long as
 * the values it pushes: an unknown number of stack slots stays in use. May raise. */
void bind_options_read(lua_State *L, int idx, struct reactor *r, mf_options *ret);

/* ---- service.c: rpcs and pools ---- */

void service_open(lua_State *L); /* registers the metatables */
/* completion_pop for the kinds of this file; 0: it has to be read in steps first, and is no
 * longer in done. */
int service_pop(lua_State *L, struct completion *c);
/* Where a completion has to wait because an earlier one of the same service or process is being
 * read; or NULL. */
struct list *service_before(const struct completion *c);
/* Goes on reading long replies for some milliseconds; those that are read are next in done. */
void service_read_on(lua_State *L, struct reactor *r);
/* Whether so much is undelivered that nothing more should be taken in. */
int service_is_full(const struct reactor *r);
/* Puts what is being read, and what waits for it, back into done, to be forgotten. */
void service_stop_reading(struct reactor *r);
/* Ends a completion of these kinds that is on no list any more. */
void service_forget(struct completion *c);
/* Gives up all that is under way; for the end of the state. */
void service_release_all(struct reactor *r);

/* ---- functions of the module, by file ---- */

extern const luaL_Reg bind_process_functions[], bind_reactor_functions[],
    bind_watch_functions[], bind_copy_functions[], bind_system_functions[],
    bind_service_functions[], bind_object_functions[];

/* The raw process at idx whatever became of it. */
struct proc *bound_check(lua_State *L, int idx);
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

#endif
