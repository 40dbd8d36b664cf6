#include "parent/pool/pool_dump.h"

#include "parent/pool/pool_record.h"
#include "parent/process/dump.h"
#include "parent/rpc/rpc_dump.h"

static const char *worker_state(const struct worker *w) {
  if (w->killed)
    return w->slain ? "sent SIGKILL" : "killed";
  return w->leaving ? "leaving" : !w->ready ? "starting" : w->ncalls ? "at work" : "idle";
}

static void dump_worker(const struct worker *w, FILE *out) {
  fprintf(out, "    worker: %s", worker_state(w));
  if (w->trial)
    fputs(", on trial for a reload", out);
  if (w->old)
    fputs(", of a former template", out);
  fprintf(out, ", %u calls", w->ncalls);
  if (!list_empty(&w->calls)) {
    const struct pool_call *c = list_entry(w->calls.next, struct pool_call, worker_link);
    fputs(", the oldest since ", out);
    dump_seconds(out, w->pool->context, c->base.made_us / 1000);
    dump_deadline(out, w->pool->context, "its timeout in", &c->base.deadline);
    dump_deadline(out, w->pool->context, "its worker killed in", &c->work_deadline);
  }
  dump_deadline(out, w->pool->context, "killed in", &w->grace);
  putc('\n', out);
  rpc_dump(w->rpc, out, 6);
}

void pool_on_dump(const struct dump_entry *r, FILE *out) {
  static const char *const names[] = {[MF_POOL_RUNNING] = "running",
                                      [MF_POOL_FAILED] = "failed",
                                      [MF_POOL_DRAINING] = "draining",
                                      [MF_POOL_CLOSED] = "closed"};
  const struct mf_pool *pool = list_entry(r, struct mf_pool, dump_entry);
  const struct policy *p = &pool->policy;
  fputs("  pool of ", out);
  dump_text(out, pool->function);
  fprintf(out, ": %s, made ", names[pool_state(pool)]);
  dump_seconds(out, pool->context, r->made_ms);
  fprintf(out,
          " ago, %u workers of at most %u (%u idle, %u starting, %u leaving), "
          "%zu calls queued, %zu running",
          policy_workers(p), p->config.max, p->nidle, p->nstarting, p->nleaving,
          pool->nqueued, pool->nworking);
  if (!list_empty(&pool->queue)) {
    const struct pool_call *c = list_entry(pool->queue.next, struct pool_call, base.link);
    fputs(", the oldest queued since ", out);
    dump_seconds(out, pool->context, c->base.made_us / 1000);
    dump_deadline(out, pool->context, "its timeout in", &c->base.deadline);
  }
  if (pool_reloads(pool))
    fputs(", reload under way", out);
  if (pool->drain.asked)
    fputs(", drain under way", out);
  dump_deadline(out, pool->context, "next worker in", &pool->wake);
  dump_failure(out, "failed", &pool->failure);
  list_each(it, &pool->templates) {
    fputs(", template: ", out);
    dump_process_name(out, list_entry(it, struct pool_template, link)->process);
  }
  putc('\n', out);
  list_each(it, &pool->workers) {
    dump_worker(list_entry(it, struct worker, link), out);
  }
}
