/* What a pool counts, as the host may see it. Runs in the parent. */
#include "parent/pool/pool_template.h"

#include "base/sized.h"
#include <string.h>

static mf_pool_times times_of(const struct latency *l) {
  return (mf_pool_times){latency_at(l, 50), latency_at(l, 90), latency_at(l, 99),
                         latency_at(l, 100)};
}

int mf_pool_stats(const mf_pool *pool, mf_pool_info *ret) {
  mf_pool_info s;
  uint64_t now;
  int r = pool_check(pool);
  if (r)
    return r;
  if (!ret)
    return MF_EINVAL;
  now = pool_now_ms(pool);
  s = pool->stats;
  s.state = pool_state(pool);
  s.max = pool->policy.config.max;
  s.workers = policy_workers(&pool->policy);
  s.idle = pool->policy.nidle;
  s.starting = pool->policy.nstarting;
  s.leaving = pool->policy.nleaving;
  s.queued = pool->nqueued;
  s.templates = pool_count_templates(pool);
  s.running = pool->nworking;
  s.chunks = !pool->rpc_options.async && pool->rpc_options.message_max >= 1u << 20;
  s.p50_us = latency_at(&pool->latency, 50);
  s.p99_us = latency_at(&pool->latency, 99);
  s.queue_time = times_of(&pool->queue_time);
  s.run_time = times_of(&pool->run_time);
  list_each(it, &pool->workers) {
    s.memory += list_entry(it, struct worker, link)->memory;
  }
  for (unsigned i = 0; i < s.nlast; i++) {
    unsigned at = (pool->last_at + MF_POOL_DEATHS - i) % MF_POOL_DEATHS;
    s.last[i] = pool->last[at].death;
    s.last[i].age_ms = now - pool->last[at].at_ms;
  }
  return sized_store(ret, &s, sizeof s) < 0 ? MF_EINVAL : 0;
}

size_t mf_pool_pids(const mf_pool *pool, int *pids, size_t n) {
  size_t i = 0;
  if (pool_check(pool))
    return 0;
  list_each(it, &pool->workers) {
    int pid = mf_pid(mf_rpc_process(list_entry(it, struct worker, link)->rpc));
    if (pid <= 0)
      continue;
    if (pids && i < n)
      pids[i] = pid;
    i++;
  }
  return i;
}

size_t mf_pool_workers(const mf_pool *pool, mf_pool_worker *workers, size_t size,
                       size_t n) {
  size_t i = 0;
  if (pool_check(pool))
    return 0;
  list_each(it, &pool->workers) {
    const struct worker *w = list_entry(it, struct worker, link);
    mf_pool_worker one = {.pid = mf_pid(mf_rpc_process(w->rpc)),
                          .running = w->ncalls,
                          .calls = w->nanswers,
                          .run_us = w->run_us,
                          .run_time = times_of(&w->run_time),
                          .memory = w->memory,
                          .shared = w->shared};
    if (one.pid <= 0)
      continue;
    if (workers && i < n)
      memcpy((char *)workers + i * size, &one, size < sizeof one ? size : sizeof one);
    i++;
  }
  return i;
}
