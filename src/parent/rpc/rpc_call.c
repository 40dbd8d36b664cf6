/* The calls of an rpc, and why they fail. */
#include "parent/rpc/rpc_call.h"

#include "parent/rpc/rpc_trace.h"

#include <stdio.h>

enum { SPARE_CALLS = 4096 };

void rpc_call_drop_payload(struct call *c) {
  if (!c->base.payload)
    return;
  c->rpc->parked_bytes -= FRAME_HEADER_SIZE + c->base.payload->length;
  payload_drop(c->base.payload);
  c->base.payload = NULL;
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
    struct call *c = list_entry(rpc->flying.next, struct call, base.link);
    int entered = possible && has_left(rpc, c);
    rpc_trace_end(c, rpc->failure.code);
    list_remove(&c->base.link);
    c->base.away = 0;
    if (c->base.notified)
      request_free(&c->base);
    else
      request_fail(&c->base, 0, entered ? MF_STARTED_UNKNOWN : MF_STARTED_NO);
    if (rpc->options.strict && !rpc->options.async)
      possible = 0;
  }
  while (!list_empty(&rpc->parked))
    request_fail(&list_entry(rpc->parked.next, struct call, base.link)->base, 0,
                 MF_STARTED_NO);
}

/* ---- as requests ---- */

static struct call *call_of(struct request *r) {
  return list_entry(r, struct call, base);
}

static void leave_queue(struct request *r) {
  list_remove(&r->link);
  rpc_call_drop_payload(call_of(r));
}

static void describe(struct request *r, char *text, size_t n, mf_error *e) {
  static const struct failure none;
  const struct mf_rpc *rpc = call_of(r)->rpc;
  failure_tell(r->code ? &none : &rpc->failure, e);
  e->started = r->started;
  if (r->code) {
    e->code = r->code;
    e->message = mf_strerror(r->code);
  } else {
    e->exit = rpc->exited ? &rpc->exit : NULL;
  }
  if (r->code == MF_ETIMEOUT) {
    snprintf(text, n, "no answer within %u ms", r->timeout_ms);
    e->message = text;
  }
}

static void let_go(struct request *r) {
  rpc_call_drop_payload(call_of(r));
}

void rpc_init_calls(struct mf_rpc *rpc) {
  static const struct request_ops ops = {
      sizeof(struct call), SPARE_CALLS, leave_queue, describe, let_go, 0};
  requests_init(&rpc->requests, &ops, rpc->context, &rpc->task);
}

/* When the first of the calls times out; UINT64_MAX: never. */
uint64_t rpc_first_timeout(const struct mf_rpc *rpc) {
  const struct list *queues[] = {&rpc->parked, &rpc->flying};
  uint64_t first = UINT64_MAX;
  for (int i = 0; i < 2; i++)
    list_each(it, queues[i]) {
      uint64_t at = deadline_at(&list_entry(it, struct call, base.link)->base.deadline);
      first = at < first ? at : first;
    }
  return first;
}
