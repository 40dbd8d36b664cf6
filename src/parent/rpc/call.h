/* One call: its id, callback, time limit, request, the error that is pending, and what
 * the rpc that has it knows of it. A pool puts what it needs behind it, and gives the
 * same record, with the same id, to the rpc of one worker after the other. Runs in the
 * parent.
 *
 *   call_new -> [away: with a process, it keeps its id] -> answered: call_free
 *      |                 \-> call_fail: abandoned; its answer is awaited, then freed
 *      \---> call_fail: a task calls its callback with the error, and frees it
 */
#ifndef PARENT_RPC_CALL_H
#define PARENT_RPC_CALL_H

#include "base/idmap.h"
#include "parent/loop/context.h"
#include "parent/rpc/payload.h"

struct call {
  struct list link;         /* in the queue of its pool, or a list of its rpc */
  struct list pending_link; /* empty: no callback pending */
  struct deadline deadline; /* of the answer */
  struct call_set *set;
  uint64_t id, made_us;
  mf_reply_cb cb;
  void *data;
  struct payload *payload; /* while it is held here; its set's ops let it go */
  unsigned timeout_ms;
  int code, started; /* of the pending error; code 0: the failure of rpc or pool */
  int away;          /* a process has it, or may have it */
  int notified;      /* its callback was called, its answer is awaited and dropped */

  /* Of the rpc that has it: */
  struct mf_rpc *rpc;
  unsigned type;               /* RPC_CALL or RPC_CHUNK */
  int flying;                  /* it is framed, and has no answer yet */
  uint64_t end;                /* bytes that were put when its last one was */
  unsigned traced;             /* number of the trace that has its beginning; 0: none */
  int lost_code, lost_started; /* why a pool's call comes back; code 0: rpc's failure */
};

struct call_ops {
  size_t size;                         /* of a record; a call is its first member */
  size_t spare_max;                    /* records kept for reuse */
  void (*leave_queue)(struct call *c); /* it has failed and is not away */
  /* Fills *e, perhaps with a text in text[n]; it is about to be told to the callback. */
  void (*describe)(struct call *c, char *text, size_t n, mf_error *e);
  void (*let_go)(struct call *c); /* what it holds */
  int timed; /* made_us is exact; else to some milliseconds, unless a trace is written */
};

struct call_set {
  const struct call_ops *ops;
  struct context *context;
  struct task *task; /* calls calls_notify */
  struct idmap ids;
  struct list pending, spare;
  size_t nspare;
  size_t nwaiting; /* callbacks to come */
};

void calls_init(struct call_set *s, const struct call_ops *ops, struct context *context,
                struct task *task);
void calls_deinit(struct call_set *s); /* none is left */
/* A record, zero but for this part. NULL: no memory. */
void *call_new(struct call_set *s, mf_reply_cb cb, void *data);
void call_free(struct call *c);
/* From now on; MF_NO_TIMEOUT: none. */
void call_set_timeout(struct call *c, unsigned timeout_ms);
/* A callback of an error is pending, or was called. */
static inline int call_is_settled(const struct call *c) {
  return c->notified || !list_empty(&c->pending_link);
}
/* The task will call its callback with that error. Nothing happens when it is settled. */
void call_fail(struct call *c, int code, int started);
/* By id: 0, or -ESRCH: there is none that is not settled. */
int calls_cancel(struct call_set *s, uint64_t id);
/* Calls pending callbacks, as many as the turn has steps for. 1 when more are pending. */
int calls_notify(struct call_set *s);

#endif
