/* The life of a pool, its task, and the functions of moonfork.h. */
#include "parent/pool/pool_record.h"

#include "base/sized.h"
#include "os/cpus.h"
#include "os/proc.h"
#include "parent/pool/dispatch.h"
#include "parent/pool/pool_call.h"
#include "parent/pool/pool_dump.h"
#include "parent/pool/pool_end.h"
#include "parent/pool/pool_template.h"
#include "parent/pool/pool_worker.h"
#include "parent/pool/reload.h"
#include "parent/private.h"
#include "parent/rpc/rpc.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void on_template_closed(mf_process *p, void *data);

static void finish_close(struct mf_pool *pool) {
  if (pool->closed || pool_awaits_templates(pool))
    return;
  pool->closed = 1;
  pool_close_templates(pool, on_template_closed);
}

/* ---- the task ---- */

static void stop_worker(struct mf_pool *pool, unsigned slot) {
  struct worker *w = pool->by_slot[slot];
  int too_many = policy_workers(&pool->policy) > pool->policy.config.max;
  pool_note_end(w, MF_WORKER_ENDED, "%s",
                pool->ending ? pool->why
                : too_many   ? "resize"
                             : "idle");
  policy_leave(&pool->policy, slot);
  pool_dismiss(w);
}

static void follow_policy(struct mf_pool *pool) {
  struct policy_action a;
  if (pool->given_up)
    return;
  for (;;) {
    if (!context_steps(pool->context,
                       PHASE_WRITE)) { /* a worker more or less takes long */
      pool_schedule(pool);
      return;
    }
    pool_report_failed_templates(pool);
    if (pool->policy.failed)
      pool_fail_waiting(pool);
    if (pool->ending && !pool->policy.config.max && !pool->drop_code) {
      pool->drop_code = MF_ECANCELLED; /* nobody would ever take them */
      pool_schedule(pool);
    }
    a = policy_next(&pool->policy, pool_now_ms(pool),
                    pool->drop_code ? 0 : pool->nqueued);
    if (a.act == POLICY_START)
      pool_start_worker(pool, a.source);
    else if (a.act == POLICY_STOP)
      stop_worker(pool, a.slot);
    else
      break;
    context_count_steps(pool->context, PHASE_WRITE, 1);
  }
  deadline_clear(&pool->wake);
  if (a.wake_ms != UINT64_MAX) {
    uint64_t now = pool_now_ms(pool);
    deadline_set(&pool->context->deadlines, &pool->wake,
                 a.wake_ms > now ? a.wake_ms - now : 0);
  }
}

static void on_task(struct task *t) {
  struct mf_pool *pool = list_entry(t, struct mf_pool, task);
  if (pool->closed)
    return;
  if (pool->ended) {
    deadline_clear(&pool->drain_limit);
    pool_report_drained(pool); /* asked for when all was over */
    if (calls_notify(&pool->calls) || pool->reload.done)
      pool_schedule(pool);
    else if (pool->closing)
      finish_close(pool);
    pool_update_busy(pool);
    return;
  }
  if (pool->drop_code)
    pool_drop_waiting(pool);
  else
    pool_give_waiting(pool);
  follow_policy(pool);
  pool_go_on_with_reload(pool);
  pool_begin_next_reload(pool);
  if (calls_notify(&pool->calls))
    pool_schedule(pool);
  else if (pool_is_over(pool)) {
    pool_end(pool);
    pool_schedule(pool);
  }
  pool_update_busy(pool);
}

static void on_wake(struct deadline *d) {
  pool_schedule(list_entry(d, struct mf_pool, wake));
}

/* ---- calls from outside ---- */

/* A call for a worker that is about to be there waits for it, but is not in its way. */
static int is_full(const struct mf_pool *pool) {
  return pool->nqueued >= pool->options.queue_max + policy_room_ahead(&pool->policy);
}

/* p: the request where it is held already, else NULL. */
static int take_call(mf_pool *pool, const mf_message *m, struct payload *p,
                     const mf_call_options *o, mf_reply_cb cb, void *data,
                     uint64_t *ret_id) {
  struct pool_call *c;
  int r = pool_check(pool), slot;
  if (!r && pool->ending)
    r = MF_ECLOSED;
  if (!r)
    r = payload_check(m, pool->rpc_options.message_max);
  if (r)
    return r;
  slot = pool->nqueued ? -1 : policy_pick(&pool->policy);
  if (slot < 0 && !pool->policy.failed && is_full(pool)) {
    pool->stats.refused++;
    return MF_ELIMIT;
  }
  c = call_new(&pool->calls, cb, data);
  if (!c)
    return MF_ENOMEM;
  c->pool = pool;
  r = pool_fill_work(pool, c, m, p, o);
  if (r) {
    call_free(&c->base);
    return r;
  }
  pool->stats.calls++;
  if (ret_id)
    *ret_id = c->base.id;
  if (pool->policy.failed) {
    call_fail(&c->base, 0, MF_STARTED_NO);
  } else if (slot >= 0) {
    pool_give(pool, c, (unsigned)slot, c->base.made_us);
  } else {
    list_push(&pool->queue, &c->base.link);
    pool->nqueued++;
    pool_schedule(pool);
  }
  pool_update_busy(pool);
  return 0;
}

int mf_pool_call(mf_pool *pool, const mf_message *m, const mf_call_options *o,
                 mf_reply_cb cb, void *data, uint64_t *ret_id) {
  return take_call(pool, m, NULL, o, cb, data, ret_id);
}

int mf_pool_call_lent(mf_pool *pool, const mf_message *m, const struct mf_loan *loan,
                      const mf_call_options *o, mf_reply_cb cb, void *data,
                      uint64_t *ret_id) {
  struct payload *p;
  int r = pool_check(pool);
  if (r) {
    loan->release(loan->data);
    return r;
  }
  r = payload_new_lent(m, loan, &pool->context->blockcache, &p);
  if (r)
    return r;
  mf_message all = {p->data, p->length, p->fds, p->nfds};
  r = take_call(pool, &all, p, o, cb, data, ret_id);
  payload_drop(p);
  return r;
}

int mf_pool_cancel(mf_pool *pool, uint64_t id) {
  int r = pool_check(pool);
  return r ? r : calls_cancel(&pool->calls, id);
}

int mf_pool_resize(mf_pool *pool, unsigned max) {
  int r = pool_check(pool);
  if (r)
    return r;
  if (pool->ending)
    return MF_ECLOSED;
  policy_resize(&pool->policy, max == MF_POOL_PROCESSORS ? cpus_usable() : max);
  pool_schedule(pool);
  return 0;
}

static void begin_end(struct mf_pool *pool) {
  if (!pool->ending)
    pool->drain.report.killed = 0;
  pool->ending = 1;
  if (!pool->why)
    pool->why = pool->drain.asked ? "drain" : "close";
  policy_end(&pool->policy);
  pool_start_close_grace(pool);
  pool_schedule(pool);
}

int mf_pool_drain(mf_pool *pool, unsigned timeout_ms, mf_pool_cb cb, void *data) {
  int r = pool_check(pool);
  if (!r && (pool->drain.asked || pool->closing))
    r = MF_ECLOSED;
  if (r)
    return r;
  pool->drain.asked = 1;
  pool->drain.cb = cb;
  pool->drain.data = data;
  pool->drain.limited = timeout_ms != MF_NO_TIMEOUT;
  if (pool->drain.limited)
    deadline_set(&pool->context->deadlines, &pool->drain_limit, timeout_ms);
  begin_end(pool);
  pool_update_busy(pool);
  return 0;
}

int mf_pool_drain_report(const mf_pool *pool, mf_drain_report *ret) {
  int r = pool_check(pool);
  if (!r && !ret)
    r = MF_EINVAL;
  if (!r && !pool->ending)
    r = MF_ESTATE;
  if (r)
    return r;
  return sized_store(ret, &pool->drain.report, sizeof *ret) < 0 ? MF_EINVAL : 0;
}

void mf_pool_abort(mf_pool *pool) {
  if (pool_check(pool) || pool->ended || pool->closed)
    return;
  pool->cut_short = 1;
  pool->why = "abort";
  begin_end(pool);
  pool_give_up(pool, MF_ECANCELLED);
  pool_abandon_workers(pool, MF_ECANCELLED);
  pool_update_busy(pool);
}

void mf_pool_quiet(mf_pool *pool) {
  if (pool_check(pool))
    return;
  pool->quiet = 1;
  pool_update_busy(pool);
}

void mf_pool_close(mf_pool *pool, mf_pool_close_cb cb, void *data) {
  if (pool_check(pool) || pool->closing)
    return;
  pool->closing = 1;
  pool->close_cb = cb;
  pool->close_data = data;
  begin_end(pool);
  pool_update_busy(pool);
}

/* ---- life ---- */

static void pool_free(struct mf_pool *pool) {
  list_remove(&pool->dump_entry.link);
  task_clear(&pool->task);
  deadline_clear(&pool->wake);
  deadline_clear(&pool->drain_limit);
  deadline_clear(&pool->close_grace);
  policy_deinit(&pool->policy);
  calls_deinit(&pool->calls);
  while (pool->npayloads)
    free(pool->payloads[--pool->npayloads]);
  free(pool->payloads);
  pool_free_templates(pool);
  failure_deinit(&pool->failure);
  failure_deinit(&pool->reload.failure);
  free(pool->by_slot);
  free(pool->function);
  free(pool->init);
  free(pool->serialiser);
  free(pool);
}

static void on_template_closed(mf_process *p, void *data) {
  struct mf_pool *pool = data;
  if (--pool->nclosing)
    return;
  if (pool->close_cb)
    pool->close_cb(pool, pool->close_data);
  pool_free(pool);
}

void mf_pool_options_init(mf_pool_options *o) {
  mf_pool_options init = MF_POOL_OPTIONS_INIT;
  if (o)
    *o = init;
}

static int init_policy(struct mf_pool *pool, const mf_pool_options *o) {
  struct policy_config c = {.max = o->max,
                            .idle = o->idle,
                            .load = o->load,
                            .start_ms = o->start_ms,
                            .stop_ms = o->stop_ms,
                            .max_calls = o->max_calls,
                            .restarts = {.burst = o->restart_burst,
                                         .period_ms = o->restart_period_ms,
                                         .starts = o->restart_starts,
                                         .backoff_min_ms = o->backoff_min_ms,
                                         .backoff_max_ms = o->backoff_max_ms}};
  uint64_t seed;
  int r;
  if (c.max == MF_POOL_PROCESSORS) {
    c.max = cpus_usable();
    if (c.idle > c.max)
      c.max = c.idle;
  }
  proc_random(&seed, sizeof seed);
  r = policy_init(&pool->policy, &c, seed);
  return r == -EINVAL ? MF_EINVAL : r ? MF_ENOMEM : 0;
}

static int own_strings(struct mf_pool *pool, const char *function) {
  mf_rpc_options *o = &pool->rpc_options;
  pool->function = strdup(function);
  pool->payloads = malloc(SPARE_PAYLOADS * sizeof(struct payload *));
  if (!pool->function || !pool->payloads)
    return MF_ENOMEM;
  if (o->init && !(o->init = pool->init = strdup(o->init)))
    return MF_ENOMEM;
  if (o->serialiser && !(o->serialiser = pool->serialiser = strdup(o->serialiser)))
    return MF_ENOMEM;
  return 0;
}

static struct mf_pool *pool_alloc(struct context *context, const mf_pool_options *o,
                                  const mf_rpc_options *rpc) {
  struct mf_pool *pool = calloc(1, sizeof *pool);
  if (!pool)
    return NULL;
  pool->context = context;
  pool->backend = context->backend;
  pool->options = *o;
  pool->rpc_options = *rpc;
  pool->options.rpc = NULL;
  list_init(&pool->dump_entry.link);
  list_init(&pool->templates);
  list_init(&pool->workers);
  list_init(&pool->reload.next);
  list_init(&pool->queue);
  deadline_init(&pool->wake, on_wake);
  deadline_init(&pool->drain_limit, pool_on_drain_limit);
  deadline_init(&pool->close_grace, pool_on_close_grace);
  task_init(&pool->task, on_task);
  pool_init_calls(pool);
  pool->on_reply = pool_on_reply;
  return pool;
}

static int pool_options_load(const mf_pool_options *from, mf_pool_options *o) {
  mf_pool_options_init(o);
  if (from && sized_load(o, sizeof *o, from) < 0)
    return MF_EINVAL;
  if (o->tree < MF_TREE_INHERIT || o->tree > MF_TREE_NO ||
      o->isolation < MF_ISOLATION_PROCESS || o->isolation > MF_ISOLATION_THREAD ||
      o->lazy < MF_LAZY_NO || o->lazy > MF_LAZY_TRY || (o->lazy && !o->isolation))
    return MF_EINVAL;
  return o->isolation == MF_ISOLATION_THREAD && o->tree == MF_TREE_YES ? MF_EUNSUPPORTED
                                                                       : 0;
}

int mf_pool_new(mf_process *p, const char *function, const mf_pool_options *options,
                mf_pool **ret) {
  mf_pool_options o;
  mf_rpc_options rpc;
  struct mf_pool *pool;
  struct pool_template *t;
  int r = process_check(p);
  if (!r && (!function || !*function || !ret))
    r = MF_EINVAL;
  if (!r)
    r = pool_options_load(options, &o);
  if (!r)
    r = rpc_options_load(o.rpc, &rpc);
  if (r)
    return r;
  pool = pool_alloc(p->context, &o, &rpc);
  if (!pool)
    return MF_ENOMEM;
  r = init_policy(pool, &o);
  if (!r)
    r = own_strings(pool, function);
  if (!r)
    r = pool_template_new(pool, &t);
  if (!r)
    r = pool_prepare_template(p);
  if (r) {
    pool_free(pool);
    return r;
  }
  pool_template_use(t, p);
  context_admit(pool->context, &pool->dump_entry, pool_on_dump);
  pool_schedule(pool);
  *ret = pool;
  return 0;
}
