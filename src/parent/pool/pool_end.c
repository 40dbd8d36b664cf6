/* How calls and workers of a pool end: when the pool fails, drains, closes, or gives up.
 */
#include "parent/pool/pool_end.h"

#include "parent/common/times.h"
#include "parent/pool/pool_call.h"
#include "parent/pool/pool_template.h"
#include "parent/pool/pool_worker.h"
#include "parent/rpc/rpc.h"
#include "parent/rpc/rpc_call.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first of the queue, with half of the turn's steps: the others tell of it. */
static void fail_some(struct mf_pool *pool, int code) {
  unsigned n = (context_steps(pool->context, PHASE_WORK) + 1) / 2;
  for (; n > 0 && pool->nqueued; n--) {
    struct call *r = &list_entry(pool->queue.next, struct pool_call, base.link)->base;
    context_count_steps(pool->context, PHASE_WORK, 1);
    if (code)
      r->timeout_ms = 0; /* it is not its own time that is over */
    call_fail(r, code, MF_STARTED_NO);
  }
  if (pool->nqueued)
    pool_schedule(pool);
}

void pool_fail_waiting(struct mf_pool *pool) {
  char text[1024];
  mf_error e;
  if (!pool->reported_failure) {
    failure_tell(&pool->failure, &e);
    snprintf(text, sizeof text, "the pool has failed; the last reason: %s",
             e.code ? e.message : "unknown");
    free(pool->failure.message);
    pool->failure.message = strdup(text);
    if (!e.code)
      pool->failure.code = MF_ECLONE_DIED;
  }
  fail_some(pool, 0);
  if (pool->reported_failure)
    return;
  pool->reported_failure = 1;
  failure_tell(&pool->failure, &e);
  if (pool->rpc_options.on_error)
    pool->rpc_options.on_error(&e, pool->rpc_options.data);
}

void pool_drop_waiting(struct mf_pool *pool) {
  fail_some(pool, pool->drop_code);
}

/* Nothing runs again, everything under way is killed; on_drain_limit comes once more for
 * those whose death is not noticed. */
void pool_give_up(struct mf_pool *pool, int code) {
  pool->given_up = 1;
  pool->drop_code = code;
  list_each(it, &pool->workers) {
    struct worker *w = list_entry(it, struct worker, link);
    pool_note_end(w, MF_WORKER_KILLED, "%s", pool->why);
    pool_kill_worker(w);
  }
  deadline_clear(&pool->close_grace);
  deadline_set(&pool->context->deadlines, &pool->drain_limit, KILL_TIMEOUT_MS);
  pool_schedule(pool);
}

/* Without waiting for any worker: their calls get that code. */
void pool_abandon_workers(struct mf_pool *pool, int code) {
  list_each_safe(it, next, &pool->workers) {
    struct worker *w = list_entry(it, struct worker, link);
    list_each(at, &w->calls) {
      struct call *c = &list_entry(at, struct pool_call, worker_link)->base;
      call_fail(c, code, rpc_call_has_left(c) ? MF_STARTED_UNKNOWN : MF_STARTED_NO);
    }
    pool_note_end(w, MF_WORKER_KILLED, "%s", pool->why);
    mf_rpc_abort(w->rpc);
    pool_dismiss(w);
  }
}

int pool_is_over(const struct mf_pool *pool) {
  return pool->ending && !pool->calls.nwaiting && !pool->nworking &&
         !pool_reloads(pool) && list_empty(&pool->workers);
}

void pool_on_drain_limit(struct deadline *d) {
  struct mf_pool *pool = list_entry(d, struct mf_pool, drain_limit);
  if (pool->ended || pool_is_over(pool)) /* the task ends it, in time */
    return;
  if (pool->given_up) {
    pool_abandon_workers(pool, MF_ECLONE_DIED);
    return;
  }
  pool->cut_short = 1;
  pool->why = "drain: its timeout was over";
  pool_give_up(pool, MF_ETIMEOUT);
}

/* A closing pool without a time limit goes on as long as calls are answered. */
void pool_start_close_grace(struct mf_pool *pool) {
  if (!pool->ending || pool->given_up || pool->drain.limited ||
      pool->options.grace_ms == MF_NO_TIMEOUT)
    return;
  deadline_set(&pool->context->deadlines, &pool->close_grace, pool->options.grace_ms);
}

/* No call was answered for that long, what the host has not read yet included. Calls that
 * have a time of their own may use it. */
void pool_on_close_grace(struct deadline *d) {
  struct mf_pool *pool = list_entry(d, struct mf_pool, close_grace);
  uint64_t now = pool_now_ms(pool), at;
  list_each_safe(it, next, &pool->workers) {
    rpc_look(list_entry(it, struct worker, link)->rpc);
  }
  if (pool->ended || pool->given_up || deadline_at(&pool->close_grace) != UINT64_MAX)
    return;
  at = pool_first_timeout(pool);
  if (at >= now && at != UINT64_MAX) {
    deadline_set_at(&pool->context->deadlines, &pool->close_grace, at + 1);
    return;
  }
  pool->cut_short = 1;
  pool->why = pool->drain.asked ? "drain: no answer within the grace period"
                                : "close: no answer within the grace period";
  pool_give_up(pool, pool->drain.asked ? MF_ETIMEOUT : MF_ECANCELLED);
}

void pool_report_drained(struct mf_pool *pool) {
  struct failure late = {.code = MF_ETIMEOUT};
  mf_pool_cb cb = pool->drain.cb;
  mf_error e;
  failure_tell(&late, &e);
  e.message = pool->drain.report.killed
                  ? "workers were killed when the timeout of drain had passed"
                  : "calls were given up when the timeout of drain had passed";
  pool->drain.cb = NULL;
  if (cb)
    cb(pool, pool->cut_short ? &e : NULL, pool->drain.data);
}

/* All workers are gone, no callback is pending. */
void pool_end(struct mf_pool *pool) {
  pool->ended = 1;
  deadline_clear(&pool->drain_limit);
  deadline_clear(&pool->close_grace);
  deadline_clear(&pool->wake);
  if (!pool->closing)
    pool_finish_templates(pool);
  pool_report_drained(pool);
  if (pool->rpc_options.on_close && !pool->given_up)
    pool->rpc_options.on_close(pool->rpc_options.data);
}
