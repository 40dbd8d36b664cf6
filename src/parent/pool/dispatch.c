/* Calls are given to workers, and come back: answered, failed, or to be run again. */
#include "parent/pool/dispatch.h"

#include "parent/pool/pool_call.h"
#include "parent/pool/pool_end.h"
#include "parent/pool/pool_worker.h"
#include "parent/process/process_trace.h"
#include "parent/rpc/rpc.h"
#include "parent/rpc/rpc_send.h"
#include "wire/chunk.h"
#include "wire/rpc_proto.h"

enum { RUNS_MAX = 3 /* of an idempotent call */ };

/* The call that its worker is at: all of an asynchronous one, the first of another. */
static void begin_work(struct mf_pool *pool, struct pool_call *c, uint64_t now_us) {
  if (c->started_us)
    return;
  c->started_us = now_us;
  pool_count_wait(c, now_us);
  if (pool->options.call_timeout_ms == MF_NO_TIMEOUT)
    return;
  unsigned ms = pool->options.call_timeout_ms,
           more = c->base.type == RPC_CHUNK ? RPC_CHUNK_MS : 0;
  deadline_set(&pool->context->deadlines, &c->work_deadline,
               ms < MF_NO_TIMEOUT - more ? ms + more : ms);
}

static void begin_first(struct worker *w, uint64_t now_us) {
  if (!w->pool->rpc_options.async && !list_empty(&w->calls))
    begin_work(w->pool, list_entry(w->calls.next, struct pool_call, worker_link), now_us);
}

void pool_give(struct mf_pool *pool, struct pool_call *c, unsigned slot,
               uint64_t now_us) {
  struct worker *w = pool->by_slot[slot];
  int r = rpc_give(w->rpc, &c->base);
  if (r) {
    call_fail(&c->base, r, MF_STARTED_NO);
    return;
  }
  c->worker = w;
  c->base.away = 1;
  c->runs++;
  list_push(&w->calls, &c->worker_link);
  w->ncalls++;
  pool->nworking++;
  policy_give(&pool->policy, slot);
  if (pool->rpc_options.async)
    begin_work(pool, c, now_us);
  else
    begin_first(w, now_us);
}

void pool_give_waiting(struct mf_pool *pool) {
  uint64_t now_us = pool->nqueued ? pool_now_us(pool) : 0;
  while (pool->nqueued && context_step(pool->context, PHASE_WORK)) {
    int slot = policy_pick(&pool->policy);
    struct pool_call *c = list_entry(pool->queue.next, struct pool_call, base.link);
    if (slot < 0)
      return;
    pool_unqueue(c);
    pool_give(pool, c, (unsigned)slot, now_us);
  }
  if (pool->nqueued)
    pool_schedule(pool);
}

static uint64_t number_of(const struct list *link) {
  return list_entry(link, struct pool_call, base.link)->base.id;
}

/* Back to its place in the queue, by its number. What comes back together does so in this
 * order: the search goes on where the last one ended. */
static void requeue(struct mf_pool *pool, struct pool_call *c) {
  struct list *last = pool->requeued, *before = pool->queue.next;
  if (last && number_of(last) < c->base.id)
    before = last->next;
  while (before != &pool->queue && number_of(before) < c->base.id)
    before = before->next;
  list_push(before, &c->base.link); /* in front of it */
  pool->requeued = &c->base.link;
  c->started_us = 0;
  pool->nqueued++;
  pool->stats.retried++;
  if (trace_is_on())
    trace_mark(NULL, pool->backend->ops->now_us(pool->backend), "retry",
               TRACE_ARGS(TRACE_TEXT("function", pool->function),
                          TRACE_NUMBER("call", c->base.id),
                          TRACE_NUMBER("runs", c->runs)));
  pool_schedule(pool);
}

static int may_run_again(const struct mf_pool *pool, const struct pool_call *c,
                         const mf_error *e) {
  if (pool->given_up || pool->policy.failed || !list_empty(&c->base.pending_link))
    return 0;
  if (e->started == MF_STARTED_NO)
    return 1; /* it has not run at all; the policy bounds how often workers fail to start
               */
  return c->idempotent && c->runs < RUNS_MAX;
}

static void fail_overdue(struct mf_pool *pool, struct pool_call *c) {
  c->base.timeout_ms = pool->options.call_timeout_ms;
  call_fail(&c->base, MF_ETIMEOUT, MF_STARTED_UNKNOWN);
}

/* The items of a chunk are calls of their own, and what its record has of them are
 * answers. Of one that runs again it may have some that another worker gave. */
static int has_answered_items(const struct pool_call *c) {
  unsigned char head[CHUNK_RECORD_HEAD];
  return c->base.type == RPC_CHUNK && !c->unsure && c->base.payload &&
         payload_read_file(c->base.payload, head, sizeof head) == 0 &&
         chunk_record_has_finished(head);
}

void pool_on_reply(struct worker *w, struct pool_call *c, const mf_error *e,
                   const mf_message *m) {
  struct mf_pool *pool = w->pool;
  uint64_t now_us = pool_now_us(pool);
  int died = rpc_is_over(w->rpc);
  mf_reply_cb cb = c->base.cb;
  void *cb_data = c->base.data;
  mf_error own;
  if (c->overdue && died)
    fail_overdue(pool, c);
  c->worker = NULL;
  c->base.away = 0;
  list_remove(&c->worker_link);
  pool_start_close_grace(pool);
  w->ncalls--;
  pool->nworking--;
  pool_count_run(c, w, now_us, !died);
  deadline_clear(&c->work_deadline);
  if (w->slot >= 0 && policy_take_back(&pool->policy, (unsigned)w->slot,
                                       !died || has_answered_items(c))) {
    pool_note_end(w, MF_WORKER_RECYCLED, "max_calls: it has had %llu calls",
                  (unsigned long long)w->nanswers);
    pool_recycle(w);
  }
  if (died && w->slot >= 0)
    policy_replace(&pool->policy, (unsigned)w->slot);
  if (!died)
    begin_first(w, now_us);
  pool_start_worker_grace(w);
  int has_idled =
      w->ncalls == 0 && !pool->policy.stop_at_ms; /* one more to stop, perhaps */
  if (pool->nqueued || pool->ending || died || has_idled)
    pool_schedule(pool);
  if (call_is_settled(&c->base)) {
    pool->stats.late += !died;
    if (c->base.notified)
      call_free(&c->base);
    return; /* else its error is pending */
  }
  if (died && may_run_again(pool, c, e)) {
    c->unsure |= e->started != MF_STARTED_NO;
    requeue(pool, c);
    return;
  }
  if (e && c->unsure) {
    own = *e;
    own.started = MF_STARTED_UNKNOWN;
    e = &own;
  }
  pool_count_end(c, e ? e->code : 0, now_us);
  pool_count_drained(pool, !died, e ? e->started : MF_STARTED_UNKNOWN);
  call_free(&c->base);
  if (cb)
    cb(e, m, cb_data);
  pool_update_busy(pool);
}

/* ---- new calls ---- */

/* The time of a call in a worker is over: the worker is killed. What it had not entered
 * goes to others; this call is not run again, even if it is idempotent. The record of a
 * chunk on another machine comes with the end of its worker: its items are told of then.
 */
static void on_work_timeout(struct deadline *d) {
  struct pool_call *c = list_entry(d, struct pool_call, work_deadline);
  struct worker *w = c->worker;
  struct mf_pool *pool = c->pool;
  c->overdue = c->base.type == RPC_CHUNK && mf_rpc_process(w->rpc)->far != NULL;
  if (!c->base.notified && !c->overdue)
    fail_overdue(pool, c);
  if (w->killed)
    return;
  if (trace_is_on())
    process_trace_mark(
        mf_rpc_process(w->rpc), "timeout",
        TRACE_ARGS(TRACE_NUMBER("after_ms", pool->options.call_timeout_ms)));
  pool_note_end(w, MF_WORKER_KILLED, "call_timeout: no answer within %u ms",
                pool->options.call_timeout_ms);
  pool_replace(w);
  pool_kill_worker(w);
}

/* Prepares c's request and deadline. 0 or a code. */
int pool_fill_work(struct mf_pool *pool, struct pool_call *c, const mf_message *m,
                   struct payload *p, const mf_call_options *options) {
  mf_call_options o;
  int r = call_options_load(options, &o);
  list_init(&c->worker_link);
  deadline_init(&c->work_deadline, on_work_timeout);
  if (r)
    return r;
  if (p)
    c->base.payload = payload_hold(p);
  else
    r = payload_new(m, &pool->context->blockcache, pool_take_spare_payload(pool),
                    &c->base.payload);
  if (r)
    return r;
  c->idempotent = o.idempotent != 0;
  c->base.type = o.chunk ? RPC_CHUNK : RPC_CALL;
  call_set_timeout(&c->base, rpc_timeout(&o, pool->rpc_options.timeout_ms));
  return 0;
}
