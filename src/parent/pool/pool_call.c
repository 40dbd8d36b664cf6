/* The calls of a pool: their payloads, their errors, and what is counted of them. */
#include "parent/pool/pool_call.h"

#include "parent/pool/pool_record.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SPARE_CALLS = 1024 };

struct payload *pool_take_spare_payload(struct mf_pool *pool) {
  return pool->npayloads ? pool->payloads[--pool->npayloads] : NULL;
}

static void let_payload_go(struct pool_call *c) {
  struct mf_pool *pool = c->pool;
  struct payload *p = payload_recycle(c->base.payload);
  c->base.payload = NULL;
  if (!p)
    return;
  if (pool->npayloads < SPARE_PAYLOADS)
    pool->payloads[pool->npayloads++] = p;
  else
    free(p);
}

void pool_count_wait(struct pool_call *c, uint64_t now_us) {
  if (c->waited)
    return;
  c->waited = 1;
  latency_add(&c->pool->queue_time, now_us - c->base.made_us);
}

void pool_count_run(const struct pool_call *c, struct worker *w, uint64_t now_us,
                    int answered) {
  uint64_t us = now_us - c->started_us;
  w->nanswers += (unsigned)answered;
  if (!c->started_us)
    return;
  latency_add(&c->pool->run_time, us);
  latency_add(&w->run_time, us);
  w->run_us += us;
}

void pool_count_end(struct pool_call *c, int code, uint64_t now_us) {
  struct mf_pool *pool = c->pool;
  if (code)
    pool->stats.failed++;
  else
    pool->stats.done++;
  if (code == MF_ETIMEOUT)
    pool->stats.timeouts++;
  if (code == MF_ECANCELLED)
    pool->stats.cancelled++;
  latency_add(&pool->latency, now_us - c->base.made_us);
}

void pool_count_drained(struct mf_pool *pool, int answered, int started) {
  mf_drain_report *r = &pool->drain.report;
  if (!pool->ending)
    return;
  if (answered)
    r->answered++;
  else if (started == MF_STARTED_NO)
    r->dropped++;
  else
    r->interrupted++;
}

/* ---- struct call_ops ---- */

void pool_unqueue(struct pool_call *c) {
  struct mf_pool *pool = c->pool;
  if (pool->requeued == &c->base.link)
    pool->requeued = NULL;
  list_remove(&c->base.link);
  pool->nqueued--;
}

static void leave_queue(struct call *r) {
  if (!list_empty(&r->link))
    pool_unqueue(list_entry(r, struct pool_call, base));
}

static void describe_error(const struct pool_call *c, char *text, size_t n, mf_error *e) {
  const struct call *r = &c->base;
  if (!r->code) {
    failure_tell(&c->pool->failure, e);
  } else {
    memset(e, 0, sizeof *e);
    e->code = r->code;
    e->message =
        r->code == MF_EUNSUPPORTED /* rpc_give has no other reason for it */
            ? "a handle of the call can't travel to the remote worker whose turn it was: "
              "its link carries the bytes of connected stream sockets and of pipes (send "
              "what is in a file; open others over there)"
            : mf_strerror(r->code);
  }
  e->started = c->unsure ? MF_STARTED_UNKNOWN : r->started;
  if (r->code != MF_ETIMEOUT)
    return;
  if (r->timeout_ms && r->timeout_ms != MF_NO_TIMEOUT)
    snprintf(text, n, "no answer within %u ms", r->timeout_ms);
  else /* it waited for a worker to the end */
    snprintf(text, n,
             "the pool was drained, and its time was over before the call was started");
  e->message = text;
}

static void describe(struct call *r, char *text, size_t n, mf_error *e) {
  struct pool_call *c = list_entry(r, struct pool_call, base);
  uint64_t now_us = pool_now_us(c->pool);
  describe_error(c, text, n, e);
  pool_count_wait(c, now_us);
  pool_count_end(c, e->code, now_us);
  pool_count_drained(c->pool, 0, e->started);
}

static void let_go(struct call *r) {
  struct pool_call *c = list_entry(r, struct pool_call, base);
  deadline_clear(&c->work_deadline);
  if (r->payload)
    let_payload_go(c);
}

void pool_init_calls(struct mf_pool *pool) {
  static const struct call_ops ops = {
      sizeof(struct pool_call), SPARE_CALLS, leave_queue, describe, let_go, 1};
  calls_init(&pool->calls, &ops, pool->context, &pool->task);
}

static uint64_t first_timeout_of(const struct pool_call *c, uint64_t first) {
  uint64_t at = deadline_at(&c->base.deadline), at_work = deadline_at(&c->work_deadline);
  at = at < at_work ? at : at_work;
  return first < at ? first : at;
}

uint64_t pool_first_timeout(const struct mf_pool *pool) {
  uint64_t first = UINT64_MAX;
  list_each(it, &pool->queue) {
    first = first_timeout_of(list_entry(it, struct pool_call, base.link), first);
  }
  list_each(worker, &pool->workers) {
    list_each(it, &list_entry(worker, struct worker, link)->calls) {
      first = first_timeout_of(list_entry(it, struct pool_call, worker_link), first);
    }
  }
  return first;
}
