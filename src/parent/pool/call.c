/* The calls of a pool: made, timed out, failed, and their callbacks called from the task. */
#include "parent/pool/call.h"

#include "parent/pool/record.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  NOTIFIED_A_TURN = 512, /* callbacks, so that 10^5 of them leave the loop its turns */
  SPARE_CALLS = 1024
};

static void on_call_timeout(struct deadline *d);

struct payload *pool_take_spare_payload(struct mf_pool *pool) {
  return pool->npayloads ? pool->payloads[--pool->npayloads] : NULL;
}

static void let_payload_go(struct work *c) {
  struct mf_pool *pool = c->pool;
  struct payload *p = payload_recycle(c->payload);
  c->payload = NULL;
  if (!p)
    return;
  if (pool->npayloads < SPARE_PAYLOADS)
    pool->payloads[pool->npayloads++] = p;
  else
    free(p);
}

struct work *pool_work_new(struct mf_pool *pool) {
  struct work *c;
  if (list_empty(&pool->spare)) {
    c = malloc(sizeof *c);
    if (!c)
      return NULL;
  } else {
    c = list_entry(pool->spare.next, struct work, link);
    list_remove(&c->link);
    pool->nspare--;
  }
  memset(c, 0, sizeof *c);
  list_init(&c->link);
  list_init(&c->pending_link);
  deadline_init(&c->deadline, on_call_timeout);
  c->pool = pool;
  if (idmap_add(&pool->calls, c, &c->id) < 0) {
    free(c);
    return NULL;
  }
  pool->nwaiting++;
  return c;
}

void pool_work_free(struct work *c) {
  struct mf_pool *pool = c->pool;
  if (!c->notified)
    pool->nwaiting--;
  idmap_remove(&pool->calls, c->id);
  deadline_clear(&c->deadline);
  deadline_clear(&c->work_deadline);
  list_remove(&c->link);
  list_remove(&c->pending_link);
  if (c->payload)
    let_payload_go(c);
  if (pool->nspare == SPARE_CALLS) {
    free(c);
    return;
  }
  list_push(&pool->spare, &c->link);
  pool->nspare++;
}

void pool_count_end(struct work *c, int code) {
  struct mf_pool *pool = c->pool;
  uint64_t now = pool->seam->ops->now_us(pool->seam);
  if (code)
    pool->stats.failed++;
  else
    pool->stats.done++;
  if (code == MF_ETIMEOUT)
    pool->stats.timeouts++;
  if (code == MF_ECANCELLED)
    pool->stats.cancelled++;
  latency_add(&pool->latency, now - c->began_us);
}

/* Its callback gets an error from the task. While it is with a worker it keeps its id. */
void pool_work_fail(struct work *c, int code, int started) {
  struct mf_pool *pool = c->pool;
  if (c->notified || !list_empty(&c->pending_link))
    return;
  deadline_clear(&c->deadline);
  if (!c->worker && !list_empty(&c->link)) {
    list_remove(&c->link);
    pool->nqueued--;
  }
  c->code = code;
  c->started = started;
  list_push(&pool->pending, &c->pending_link);
  pool_schedule(pool);
}

static void describe(const struct work *c, char *text, size_t n, mf_error *e) {
  if (!c->code) {
    failure_tell(&c->pool->failure, e);
  } else {
    memset(e, 0, sizeof *e);
    e->code = c->code;
    e->message = mf_strerror(c->code);
  }
  e->started = c->unsure ? MF_STARTED_UNKNOWN : c->started;
  if (c->code != MF_ETIMEOUT)
    return;
  if (c->timeout_ms && c->timeout_ms != MF_NO_TIMEOUT)
    snprintf(text, n, "no answer within %u ms", c->timeout_ms);
  else
    snprintf(text, n, "the call did not return within call_timeout");
  e->message = text;
}

/* 1 when more are pending. */
int pool_notify_pending(struct mf_pool *pool) {
  for (int i = 0; i < NOTIFIED_A_TURN && !list_empty(&pool->pending); i++) {
    struct work *c = list_entry(pool->pending.next, struct work, pending_link);
    mf_reply_cb cb = c->cb;
    void *data = c->data;
    char text[64];
    mf_error e;
    describe(c, text, sizeof text, &e);
    pool_count_end(c, e.code);
    list_remove(&c->pending_link);
    if (c->worker) {
      c->notified = 1;
      pool->nwaiting--;
    } else {
      pool_work_free(c);
    }
    if (cb)
      cb(&e, NULL, data);
  }
  return !list_empty(&pool->pending);
}

/* ---- time limits ---- */

static void on_call_timeout(struct deadline *d) {
  struct work *c = list_entry(d, struct work, deadline);
  pool_work_fail(c, MF_ETIMEOUT, c->worker ? MF_STARTED_UNKNOWN : MF_STARTED_NO);
}

uint64_t pool_first_timeout_in(const struct list *calls) {
  uint64_t first = UINT64_MAX;
  list_each(it, calls) {
    const struct work *c = list_entry(it, struct work, link);
    uint64_t at = deadline_at(&c->deadline), at_work = deadline_at(&c->work_deadline);
    at = at < at_work ? at : at_work;
    first = at < first ? at : first;
  }
  return first;
}
