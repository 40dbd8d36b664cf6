/* Workers: forked, given a slot of the policy, and dismissed; what their rpcs report. */
#include "parent/pool/pool_worker.h"

#include "parent/common/times.h"
#include "parent/private.h"
#include "parent/rpc/rpc.h"
#include <assert.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { USAGE_MS = 1000, USAGE_LIMITED_MS = 250 }; /* between two reports of memory */

static void on_worker_gone(mf_rpc *rpc, void *data);

/* ---- what on_worker is told ---- */

static void tell(struct worker *w, enum mf_worker_event event, const char *reason) {
  const mf_pool_options *o = &w->pool->options;
  if (o->on_worker)
    o->on_worker(event, w->pid, reason, o->worker_data);
}

static void learn_pid(struct worker *w) {
  if (w->pid <= 0)
    w->pid = mf_pid(mf_rpc_process(w->rpc));
}

static void tell_start(struct worker *w) {
  if (w->told || w->pid <= 0)
    return;
  w->told = 1;
  tell(w, MF_WORKER_STARTED, w->why_started);
}

/* In pairs: one that was never ready has started, too. One that was never forked has not.
 */
static void tell_end(struct worker *w) {
  tell_start(w);
  if (w->told)
    tell(w, w->ends, *w->reason ? w->reason : "exit");
}

void pool_note_end(struct worker *w, enum mf_worker_event ends, const char *format, ...) {
  va_list ap;
  if (*w->reason && (w->ends == MF_WORKER_KILLED || ends != MF_WORKER_KILLED))
    return;
  w->ends = ends;
  va_start(ap, format);
  vsnprintf(w->reason, sizeof w->reason, format, ap);
  va_end(ap);
}

/* ---- ending ---- */

void pool_kill_worker(struct worker *w) {
  if (!w->killed) {
    w->pool->stats.killed++;
    w->pool->drain.report.killed++;
  }
  w->killed = 1;
  process_end_by_force(mf_rpc_process(w->rpc));
}

/* First it is killed. Where its end is not noticed then, as its template hangs and has
 * not even forked it, it is given up. */
static void on_grace(struct deadline *d) {
  struct worker *w = list_entry(d, struct worker, grace);
  if (w->slain) {
    mf_rpc_abort(w->rpc);
    return;
  }
  pool_note_end(w, MF_WORKER_KILLED, "grace: told to end, it did not within %u ms",
                w->grace_ms);
  pool_kill_worker(w);
  w->slain = 1;
  deadline_set(&w->pool->context->deadlines, &w->grace, KILL_TIMEOUT_MS);
}

/* One that was on trial is of no use to anybody, and may be in an init that takes long.
 */
void pool_start_worker_grace(struct worker *w) {
  unsigned ms = w->pool->options.grace_ms;
  if (!w->leaving || w->ncalls || deadline_at(&w->grace) != UINT64_MAX)
    return;
  w->grace_ms = w->trial && ms > CLOSE_GRACE_MS ? CLOSE_GRACE_MS : ms;
  deadline_set(&w->pool->context->deadlines, &w->grace, w->grace_ms);
}

/* It gets no more calls, finishes those it has, and ends. */
void pool_dismiss(struct worker *w) {
  if (w->leaving)
    return;
  w->leaving = 1;
  learn_pid(w);
  mf_rpc_close(w->rpc, on_worker_gone, w);
  pool_start_worker_grace(w);
}

void pool_replace(struct worker *w) {
  if (w->slot >= 0)
    policy_replace(&w->pool->policy, (unsigned)w->slot);
  pool_schedule(w->pool);
}

void pool_recycle(struct worker *w) {
  if (w->leaving)
    return;
  w->pool->stats.recycled++;
  pool_replace(w);
  pool_dismiss(w);
}

static void free_slot(struct worker *w, enum policy_end how) {
  struct mf_pool *pool = w->pool;
  if (w->slot < 0)
    return;
  pool->by_slot[w->slot] = NULL;
  policy_ended(&pool->policy, (unsigned)w->slot, how, pool_now_ms(pool));
  w->slot = -1;
  pool_schedule(pool);
}

/* ---- what its rpc reports ---- */

static void remember_death(struct worker *w, const mf_error *e) {
  struct mf_pool *pool = w->pool;
  mf_pool_death *d;
  pool->last_at = (pool->last_at + 1) % MF_POOL_DEATHS;
  d = &pool->last[pool->last_at].death;
  pool->last[pool->last_at].at_ms = pool_now_ms(pool);
  memset(d, 0, sizeof *d);
  d->pid = mf_pid(mf_rpc_process(w->rpc));
  if (e->exit)
    d->exit = *e->exit;
  d->exit.error = NULL;
  snprintf(d->reason, sizeof d->reason, "%s: %s", mf_errname(e->code), e->message);
  pool->stats.deaths++;
  if (pool->stats.nlast < MF_POOL_DEATHS)
    pool->stats.nlast++;
}

/* Its end was not asked for. */
static void note_crash(struct worker *w, const mf_error *e) {
  const char *what = e->code == MF_EPROTOCOL ? "protocol"
                     : w->ready              ? "crash"
                     : e->code == MF_EREMOTE ? "init"
                                             : "start";
  pool_note_end(w, MF_WORKER_ENDED, "%s: %s", what, e->message);
}

/* It is the template's death, or the system refuses while others work: not its own. */
static enum policy_end judge(const struct worker *w, const mf_error *e) {
  const struct mf_pool *pool = w->pool;
  if (w->leaving || w->killed)
    return END_ASKED;
  if (!w->ready && w->template && e->code != MF_EREMOTE &&
      !pool_template_is_usable(w->template))
    return END_ASKED;
  if (e->code == MF_EFORK_FAILED && pool->policy.nready)
    return END_NOT_STARTED;
  return END_DIED;
}

static void on_worker_error(const mf_error *e, void *data) {
  struct worker *w = data;
  struct mf_pool *pool = w->pool;
  enum policy_end how = judge(w, e);
  learn_pid(w);
  note_crash(w, e);
  if (w->trial) {
    pool_keep_failure(&pool->reload.failure, e, rpc_origin(w->rpc));
  } else if (!w->killed) {
    remember_death(w, e);
    if (!pool->policy.failed)
      pool_keep_failure(&pool->failure, e, rpc_origin(w->rpc));
  }
  free_slot(w, how);
  if (!w->trial && !w->killed && pool->rpc_options.on_error)
    pool->rpc_options.on_error(e, pool->rpc_options.data);
  pool_dismiss(w);
  pool_schedule(pool);
}

static void on_worker_close(void *data) {
  struct worker *w = data;
  learn_pid(w);
  free_slot(w, END_ASKED);
}

static void on_worker_gone(mf_rpc *rpc, void *data) {
  struct worker *w = data;
  struct mf_pool *pool = w->pool;
  assert(list_empty(&w->calls));
  free_slot(w, END_ASKED);
  if (pool->reload.worker == w)
    pool->reload.worker = NULL;
  deadline_clear(&w->grace);
  list_remove(&w->link);
  tell_end(w);
  pool_schedule(pool);
  free(w);
}

static void on_worker_ready(void *data) {
  struct worker *w = data;
  w->ready = 1;
  if (w->slot >= 0)
    policy_ready(&w->pool->policy, (unsigned)w->slot);
  if (w->template)
    w->template->good = 1;
  pool_schedule(w->pool);
  learn_pid(w);
  tell_start(w);
}

static void on_worker_retire(void *data) {
  struct worker *w = data;
  if (w->leaving)
    return;
  w->pool->stats.retired++;
  pool_note_end(w, MF_WORKER_RECYCLED, "retire: it asked for no more calls");
  pool_replace(w);
  pool_dismiss(w);
}

static void on_worker_usage(void *data, uint64_t bytes, uint64_t shared) {
  struct worker *w = data;
  uint64_t most = w->pool->options.max_memory;
  w->memory = bytes;
  w->shared = shared;
  if (!most || bytes <= most)
    return;
  pool_note_end(w, MF_WORKER_RECYCLED,
                "max_memory: %llu bytes of its own, %llu are allowed",
                (unsigned long long)bytes, (unsigned long long)most);
  pool_recycle(w);
}

static void on_worker_event(const mf_message *m, void *data) {
  struct worker *w = data;
  struct mf_pool *pool = w->pool;
  pool->stats.events++;
  if (pool->rpc_options.on_event)
    pool->rpc_options.on_event(m, pool->rpc_options.data);
}

static void on_worker_reply(struct call *c, const mf_error *e, const mf_message *m,
                            void *data) {
  struct worker *w = data;
  w->pool->on_reply(w, list_entry(c, struct pool_call, base), e, m);
}

/* ---- start ---- */

static const struct rpc_owner_ops worker_owner = {on_worker_ready, on_worker_retire,
                                                  on_worker_usage, on_worker_reply};

/* Forks a worker from t. 0 or a code. */
int pool_worker_new(struct mf_pool *pool, mf_process *t, const char *why,
                    struct worker **ret) {
  mf_rpc_options o = pool->rpc_options;
  mf_options options = MF_OPTIONS_INIT;
  struct worker *w = calloc(1, sizeof *w);
  mf_process *q;
  int r;
  if (!w)
    return MF_ENOMEM;
  options.tree = pool->options.tree;
  options.isolation = pool->options.isolation;
  options.lazy = pool->options.lazy;
  if (!options.isolation)
    options.leash = (int)t->leash; /* a pool has no option for it */
  r = mf_fork_options(t, &options, &q);
  if (r) {
    free(w);
    return r;
  }
  w->pool = pool;
  w->why_started = why;
  w->ends = MF_WORKER_ENDED;
  w->slot = -1;
  list_init(&w->calls);
  deadline_init(&w->grace, on_grace);
  o.on_event = on_worker_event;
  o.on_error = on_worker_error;
  o.on_close = on_worker_close;
  o.on_drain = NULL;
  o.strict = !o.async;
  o.pending_max = SIZE_MAX;
  o.queue_bytes_max = SIZE_MAX;
  o.timeout_ms = MF_NO_TIMEOUT;
  o.grace_ms =
      MF_NO_TIMEOUT; /* dismissed ones finish what they have; a close has its own */
  o.data = w;
  struct rpc_owner owner = {.ops = &worker_owner,
                            .data = w,
                            .calls = &pool->calls,
                            .usage_ms =
                                pool->options.max_memory ? USAGE_LIMITED_MS : USAGE_MS};
  r = rpc_new(q, pool->function, &o, &owner, &w->rpc);
  if (r) {
    mf_close(q, NULL, NULL);
    free(w);
    return r;
  }
  list_push(&pool->workers, &w->link);
  pool->stats.started++;
  *ret = w;
  return 0;
}

int pool_put_in_slot(struct worker *w) {
  struct mf_pool *pool = w->pool;
  int slot = policy_started(&pool->policy, w->template->source, pool_now_ms(pool));
  if (slot < 0)
    return MF_ENOMEM;
  if ((unsigned)slot >= pool->nby_slot) {
    struct worker **more =
        realloc(pool->by_slot, ((size_t)slot + 1) * sizeof(struct worker *));
    if (!more) {
      policy_ended(&pool->policy, (unsigned)slot, END_NOT_STARTED, pool_now_ms(pool));
      return MF_ENOMEM;
    }
    pool->by_slot = more;
    pool->nby_slot = (unsigned)slot + 1;
  }
  pool->by_slot[slot] = w;
  w->slot = slot;
  if (w->ready)
    policy_ready(&pool->policy, (unsigned)slot);
  return 0;
}
