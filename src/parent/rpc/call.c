/* The calls of an rpc: made, timed out, failed, and their callbacks called from the task. */
#include "parent/rpc/call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  NOTIFIED_A_TURN = 512, /* callbacks, so that 10^5 of them leave the loop its turns */
  SPARE_CALLS = 4096
};

static void on_call_timeout(struct deadline *d);

struct call *rpc_call_new(struct mf_rpc *rpc, mf_reply_cb cb, void *data) {
  struct call *c;
  if (list_empty(&rpc->spare)) {
    c = malloc(sizeof *c);
    if (!c)
      return NULL;
  } else {
    c = list_entry(rpc->spare.next, struct call, link);
    list_remove(&c->link);
    rpc->nspare--;
  }
  memset(c, 0, sizeof *c);
  list_init(&c->link);
  list_init(&c->pending_link);
  deadline_init(&c->deadline, on_call_timeout);
  c->rpc = rpc;
  if (idmap_add(&rpc->calls, c, &c->id) < 0) {
    free(c);
    return NULL;
  }
  c->cb = cb;
  c->data = data;
  c->made_ms = rpc->seam->ops->now_ms(rpc->seam);
  rpc->nwaiting++;
  return c;
}

void rpc_call_drop_payload(struct call *c) {
  if (!c->payload)
    return;
  c->rpc->parked_bytes -= FRAME_HEADER_SIZE + c->payload->length;
  payload_drop(c->payload);
  c->payload = NULL;
}

void rpc_call_free(struct call *c) {
  struct mf_rpc *rpc = c->rpc;
  if (!c->notified)
    rpc->nwaiting--;
  idmap_remove(&rpc->calls, c->id);
  deadline_clear(&c->deadline);
  rpc_call_drop_payload(c);
  list_remove(&c->link);
  list_remove(&c->pending_link);
  if (rpc->nspare == SPARE_CALLS) {
    free(c);
    return;
  }
  list_push(&rpc->spare, &c->link);
  rpc->nspare++;
}

/* Its callback gets an error from the task. A flying call keeps its id until its answer
 * comes. */
void rpc_call_fail(struct call *c, int code, int started) {
  struct mf_rpc *rpc = c->rpc;
  if (c->notified || !list_empty(&c->pending_link))
    return;
  deadline_clear(&c->deadline);
  if (!c->flying) {
    list_remove(&c->link);
    rpc_call_drop_payload(c);
  }
  c->code = code;
  c->started = started;
  list_push(&rpc->pending, &c->pending_link);
  rpc_schedule(rpc);
}

/* Before its end nobody can have entered it: the clone has not got it whole. */
static int has_left(const struct mf_rpc *rpc, const struct call *c) {
  return rpc->sent >= c->end;
}

/* Every call gets its error. The first of a strict clone's unanswered calls may have been
 * entered, and each of another's that it got whole, once it was ready. */
void rpc_fail_calls(struct mf_rpc *rpc) {
  int possible = rpc->far == FAR_SERVING || rpc->far == FAR_GONE;
  while (!list_empty(&rpc->flying)) {
    struct call *c = list_entry(rpc->flying.next, struct call, link);
    int entered = possible && has_left(rpc, c);
    list_remove(&c->link);
    c->flying = 0;
    if (c->notified)
      rpc_call_free(c);
    else
      rpc_call_fail(c, 0, entered ? MF_STARTED_UNKNOWN : MF_STARTED_NO);
    if (rpc->options.strict && !rpc->options.async)
      possible = 0;
  }
  while (!list_empty(&rpc->parked))
    rpc_call_fail(list_entry(rpc->parked.next, struct call, link), 0, MF_STARTED_NO);
}

static void describe(const struct mf_rpc *rpc, const struct call *c, char *text, size_t n,
                     mf_error *e) {
  static const struct failure none;
  failure_tell(c->code ? &none : &rpc->failure, e);
  e->started = c->started;
  if (c->code) {
    e->code = c->code;
    e->message = mf_strerror(c->code);
  } else {
    e->exit = rpc->exited ? &rpc->exit : NULL;
  }
  if (c->code == MF_ETIMEOUT) {
    snprintf(text, n, "no answer within %u ms", c->timeout_ms);
    e->message = text;
  }
}

void rpc_notify_pending(struct mf_rpc *rpc) {
  for (int i = 0; i < NOTIFIED_A_TURN && !list_empty(&rpc->pending); i++) {
    struct call *c = list_entry(rpc->pending.next, struct call, pending_link);
    mf_reply_cb cb = c->cb;
    void *data = c->data;
    char text[64];
    mf_error e;
    describe(rpc, c, text, sizeof text, &e);
    list_remove(&c->pending_link);
    if (c->flying) {
      c->notified = 1;
      rpc->nwaiting--;
    } else {
      rpc_call_free(c);
    }
    if (cb)
      cb(&e, NULL, data);
  }
}

/* ---- time limits ---- */

static void on_call_timeout(struct deadline *d) {
  struct call *c = list_entry(d, struct call, deadline);
  rpc_call_fail(c, MF_ETIMEOUT, c->flying ? MF_STARTED_UNKNOWN : MF_STARTED_NO);
}

void rpc_call_set_timeout(struct call *c, unsigned timeout_ms) {
  c->timeout_ms = timeout_ms;
  if (timeout_ms != MF_NO_TIMEOUT)
    deadline_set(c->rpc->home, &c->deadline, timeout_ms);
}

/* When the first of the calls times out; UINT64_MAX: never. */
uint64_t rpc_first_timeout(const struct mf_rpc *rpc) {
  const struct list *queues[] = {&rpc->parked, &rpc->flying};
  uint64_t first = UINT64_MAX;
  for (int i = 0; i < 2; i++)
    list_each(it, queues[i]) {
      uint64_t at = deadline_at(&list_entry(it, struct call, link)->deadline);
      first = at < first ? at : first;
    }
  return first;
}
