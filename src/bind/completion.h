/* Completions: what the library has decided, on its way to Lua. Each has the ops of those
 * who made it. Runs in the parent. */
#ifndef BIND_COMPLETION_H
#define BIND_COMPLETION_H

#include "bind/reactor.h"
#include "bind/values.h"

struct completion;
struct completion_ops {
  /* Pushes what pop() gives, and ends it; how many values; negative: so many without a
   * kind, a function and its arguments. 0: not now, and it is no longer in done. What
   * raises (memory) leaves it in done, to be popped again. */
  int (*push)(lua_State *L, struct completion *c);
  /* Ends it, on no list any more, without Lua. */
  void (*forget)(struct completion *c);
};
/* A request that is answered with an error or nothing. */
extern const struct completion_ops completion_call;

struct completion {
  struct list link;
  const struct completion_ops *ops;
  struct trash trash; /* ref: a function, or the cell of a process */
  struct reactor *reactor;
  struct list *const *behind; /* where that is a list it has to wait there; NULL: never */
  struct proc *starts;        /* a run of the common path: it is held; else NULL */
  int keep;                   /* its object */
  int code, started;          /* code 0: success */
  int os_error;
  char *message, *traceback;
  void *value; /* packed; NULL: none */
  size_t value_size;
  int has_ending;
  struct ending ending;
  int fd; /* owned; -1: none */
  union { /* the answer */
    mf_memory_info memory;
    mf_drain_report drained;
  };
};

/* A new request whose completion goes to the function at idx, or NULL (no memory). May
 * raise. From here to the library's call nothing may raise. */
struct completion *completion_new(lua_State *L, struct reactor *r,
                                  const struct completion_ops *ops, int idx);
void completion_init(struct completion *c, struct reactor *r,
                     const struct completion_ops *ops);
/* Takes back a request that the library refused. */
void completion_drop(lua_State *L, struct completion *c);
void completion_set_error(struct completion *c, const mf_error *error);
/* It is decided: appends it to the reactor's done. */
void completion_done(struct completion *c);
/* -> kind, target, error | nil, value...; or (is_call) a function and its arguments; or
 * nothing when none waits. kind is "call"
 * (target: the function), "ran" (the same with the object behind the value: a run
 * of the common path that process.lua has to hear of), "exit" or "error" (target: the
 * cell of the process), "event", "trouble", "closed", "drain" or "worker" (target: the
 * cell of the service). */
int completion_pop(lua_State *L, struct reactor *r, int *ret_is_call);
/* Frees what is inside; memory and reference stay. */
void completion_clear(struct completion *c);
/* For the ops: pushes kind, the target, and the error or nil. Gives 3. */
int completion_push(lua_State *L, const struct completion *c, const char *kind);
/* The same without the kind. */
int completion_push_answer(lua_State *L, const struct completion *c);
/* The error object of one whose code is not 0. */
void completion_push_failure(lua_State *L, const struct completion *c);
/* For the ops of a request: it was popped, or is forgotten. */
void completion_end(struct completion *c);
/* Ends all that wait; for the end of the state. */
void completion_forget_all(struct reactor *r);

#endif
