/* The calls of an rpc, and why they fail. */
#include "parent/rpc/rpc_call.h"

#include "parent/process/far.h"
#include "parent/rpc/rpc_trace.h"

#include <stdio.h>

enum { SPARE_CALLS = 4096 };

void rpc_call_park(struct call *c) {
  if (c->payload)
    c->rpc->parked_bytes += FRAME_HEADER_SIZE + c->payload->length;
  list_push(&c->rpc->parked, &c->link);
}

void rpc_call_unpark(struct call *c) {
  if (!c->payload)
    return;
  c->rpc->parked_bytes -= FRAME_HEADER_SIZE + c->payload->length;
  if (c->rpc->owner.ops)
    return;
  payload_drop(c->payload);
  c->payload = NULL;
}

/* ---- answered ---- */

/* The answer of an abandoned call, or of one whose error is pending, is dropped and
 * counted. */
static void drop_answer(struct call *c) {
  c->rpc->stats.late++;
  c->away = 0;
  if (c->notified)
    call_free(c);
}

void rpc_call_end(struct call *c, const mf_error *e, const mf_message *m) {
  const struct rpc_owner *owner = &c->rpc->owner;
  mf_reply_cb cb = c->cb;
  void *data = c->data;
  rpc_trace_end(c, e ? e->code : 0);
  list_remove(&c->link);
  c->flying = 0;
  if (owner->ops) {
    owner->ops->on_reply(c, e, m, owner->data);
    return;
  }
  if (call_is_settled(c)) {
    drop_answer(c);
    return;
  }
  call_free(c);
  if (cb)
    cb(e, m, data);
}

/* ---- lost ---- */

void rpc_call_lose(struct call *c, int code, int started) {
  struct mf_rpc *rpc = c->rpc;
  list_remove(&c->link);
  c->flying = 0;
  if (rpc->owner.ops) {
    c->lost_code = code;
    c->lost_started = started;
    list_push(&rpc->lost, &c->link);
    rpc_schedule(rpc);
    return;
  }
  c->away = 0;
  if (c->notified)
    call_free(c);
  else
    call_fail(c, code, started);
}

int rpc_call_has_left(const struct call *c) {
  return c->flying && c->rpc->sent >= c->end;
}

/* Answers may not have been read, or the word that it was ready: those calls were
 * entered, and so was perhaps the next. Only the end of what it can say is proof, and not
 * even that where the link is lost. */
static int lacks_answers(const struct mf_rpc *rpc) {
  const struct far_link *link = rpc->process->far;
  if (rpc->never_ready || !rpc->sent)
    return 0;
  return (!rpc->eof && !rpc->read_out) || (link && far_link_is_lost(link));
}

/* The first of a strict clone's unanswered calls may have been entered, and each of
 * another's that it got whole, once it was ready. */
static void fail_flying(struct mf_rpc *rpc, struct call *c) {
  int was_ready = rpc->far == FAR_SERVING || rpc->far == FAR_GONE;
  int possible = lacks_answers(rpc) || (was_ready && !rpc->first_failed);
  int entered = possible && rpc_call_has_left(c);
  rpc->first_failed = rpc->options.strict;
  rpc->may_have_entered |= entered != 0;
  rpc_trace_end(c, rpc->failure.code);
  rpc_call_lose(c, 0, entered ? MF_STARTED_UNKNOWN : MF_STARTED_NO);
}

static void fail_parked(struct call *c) {
  rpc_call_unpark(c);
  rpc_call_lose(c, 0, MF_STARTED_NO);
}

int rpc_has_calls(const struct mf_rpc *rpc) {
  return !list_empty(&rpc->flying) || !list_empty(&rpc->parked);
}

void rpc_fail_late(struct call *c) {
  struct mf_rpc *rpc = c->rpc;
  if (!rpc_has_calls(rpc)) {
    rpc_call_lose(c, 0, MF_STARTED_NO);
    return;
  }
  rpc_call_park(c);
}

/* With half of the turn's steps: the others tell of it. */
static void fail_calls(struct mf_rpc *rpc) {
  unsigned n = (context_steps(rpc->context, PHASE_WORK) + 1) / 2;
  for (; n > 0 && rpc_has_calls(rpc); n--) {
    context_count_steps(rpc->context, PHASE_WORK, 1);
    if (!list_empty(&rpc->flying))
      fail_flying(rpc, list_entry(rpc->flying.next, struct call, link));
    else
      fail_parked(list_entry(rpc->parked.next, struct call, link));
  }
}

/* code 0: as the rpc. */
static void describe_error(const struct mf_rpc *rpc, int code, int started, mf_error *e) {
  static const struct failure none;
  failure_tell(code ? &none : &rpc->failure, e);
  e->started = started;
  if (code) {
    e->code = code;
    e->message = mf_strerror(code);
  } else {
    e->exit = rpc->exited ? &rpc->exit : NULL;
  }
}

static void give_back(struct mf_rpc *rpc) {
  const struct rpc_owner *owner = &rpc->owner;
  mf_error e;
  while (!list_empty(&rpc->lost) && context_step(rpc->context, PHASE_WORK)) {
    struct call *c = list_entry(rpc->lost.next, struct call, link);
    list_remove(&c->link);
    describe_error(rpc, c->lost_code, c->lost_started, &e);
    owner->ops->on_reply(c, &e, NULL, owner->data);
  }
}

int rpc_notify(struct mf_rpc *rpc) {
  if (rpc->over)
    fail_calls(rpc);
  if (!rpc->owner.ops)
    return calls_notify(rpc->calls) || (rpc->over && rpc_has_calls(rpc));
  give_back(rpc);
  return !list_empty(&rpc->lost) || (rpc->over && rpc_has_calls(rpc));
}

/* ---- of its own set ---- */

static void leave_queue(struct call *c) {
  list_remove(&c->link);
  rpc_call_unpark(c);
}

static void describe(struct call *c, char *text, size_t n, mf_error *e) {
  describe_error(c->rpc, c->code, c->started, e);
  if (c->code == MF_ETIMEOUT) {
    snprintf(text, n, "no answer within %u ms", c->timeout_ms);
    e->message = text;
  }
}

static void let_go(struct call *c) {
  rpc_call_unpark(c);
}

void rpc_init_calls(struct mf_rpc *rpc) {
  static const struct call_ops ops = {
      sizeof(struct call), SPARE_CALLS, leave_queue, describe, let_go, 0};
  calls_init(&rpc->own_calls, &ops, rpc->context, &rpc->task);
  rpc->calls = rpc->owner.ops ? rpc->owner.calls : &rpc->own_calls;
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
