#include "parent/pool/pool_record.h"

uint64_t pool_now_ms(const struct mf_pool *pool) {
  return pool->backend->ops->now_ms(pool->backend);
}

uint64_t pool_now_us(const struct mf_pool *pool) {
  return pool->backend->ops->now_us(pool->backend);
}

void pool_schedule(struct mf_pool *pool) {
  context_task(pool->context, PHASE_WORK, &pool->task);
}

enum mf_pool_state pool_state(const struct mf_pool *pool) {
  if (pool->ended)
    return MF_POOL_CLOSED;
  if (pool->ending)
    return MF_POOL_DRAINING;
  return pool->policy.failed ? MF_POOL_FAILED : MF_POOL_RUNNING;
}

int pool_reloads(const struct mf_pool *pool) {
  return pool->reload.process || pool->reload.done || !list_empty(&pool->reload.next);
}

void pool_update_busy(struct mf_pool *pool) {
  unsigned ends = !pool->quiet && (pool->closing || (pool->ending && !pool->ended));
  unsigned busy = !pool->closed && (pool->calls.nwaiting || pool_reloads(pool) || ends ||
                                    (pool->drain.asked && pool->drain.cb));
  if (busy == pool->busy)
    return;
  pool->busy = busy;
  context_count_busy(pool->context, busy ? 1 : -1);
}

int pool_check(const mf_pool *pool) {
  if (!pool)
    return MF_EINVAL;
  return context_foreign(pool->context) ? MF_EFORKED : 0;
}

/* No call is sent any more once a pool's failure is reported. */
void pool_keep_failure(struct failure *f, const mf_error *e, const char *origin) {
  failure_copy(f, e);
  f->origin = origin; /* the message says it already, where it has to */
  f->started = MF_STARTED_NO;
}

int pool_template_is_usable(const struct pool_template *t) {
  const struct mf_process *p = t->process;
  return !p->error && !p->gone && !p->eof &&
         (p->state == BATCHED || p->state == FORKING || p->state == SERVING);
}
