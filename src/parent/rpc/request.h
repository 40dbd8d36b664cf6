/* One call, as an rpc and a pool have it: its id, callback, time limit, and the error
 * that is pending. Each embeds it first in a record of its own. Runs in the parent.
 *
 *   request_new -> [away: with a process, it keeps its id] -> answered: request_free
 *        |                 \-> request_fail: abandoned; its answer is awaited, then freed
 *        \---> request_fail: a task calls its callback with the error, and frees it
 */
#ifndef PARENT_RPC_REQUEST_H
#define PARENT_RPC_REQUEST_H

#include "base/idmap.h"
#include "parent/loop/context.h"
#include "parent/rpc/payload.h"

struct request {
  struct list link;         /* its owner's */
  struct list pending_link; /* empty: no callback pending */
  struct deadline deadline; /* of the answer */
  struct request_set *set;
  uint64_t id, made_us;
  mf_reply_cb cb;
  void *data;
  struct payload *payload; /* while it is held here; the owner's to let go */
  unsigned timeout_ms;
  int code, started; /* of the pending error; code 0: the owner's failure */
  int away;          /* a process has it, or may have it */
  int notified;      /* its callback was called, its answer is awaited and dropped */
};

struct request_ops {
  size_t size;                            /* of the owner's record */
  size_t spare_max;                       /* records kept for reuse */
  void (*leave_queue)(struct request *r); /* it has failed and is not away */
  /* Fills *e, perhaps with a text in text[n]; it is about to be told to the callback. */
  void (*describe)(struct request *r, char *text, size_t n, mf_error *e);
  void (*let_go)(struct request *r); /* what the owner has in the record */
  int timed; /* made_us is exact; else to some milliseconds, unless a trace is written */
};

struct request_set {
  const struct request_ops *ops;
  struct context *context;
  struct task *task; /* calls requests_notify */
  struct idmap ids;
  struct list pending, spare;
  size_t nspare;
  size_t nwaiting; /* callbacks to come */
};

void requests_init(struct request_set *s, const struct request_ops *ops,
                   struct context *context, struct task *task);
void requests_deinit(struct request_set *s); /* none is left */
/* A record, zero but for this part. NULL: no memory. */
void *request_new(struct request_set *s, mf_reply_cb cb, void *data);
void request_free(struct request *r);
/* From now on; MF_NO_TIMEOUT: none. */
void request_set_timeout(struct request *r, unsigned timeout_ms);
/* A callback of an error is pending, or was called. */
static inline int request_is_settled(const struct request *r) {
  return r->notified || !list_empty(&r->pending_link);
}
/* The task will call its callback with that error. Nothing happens when it is settled. */
void request_fail(struct request *r, int code, int started);
/* By id: 0, or -ESRCH: there is none that is not settled. */
int requests_cancel(struct request_set *s, uint64_t id);
/* Calls pending callbacks, up to so many as leave the loop its turns. 1 when more are
 * pending. */
int requests_notify(struct request_set *s);

#endif
