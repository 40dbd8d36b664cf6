/* The pool gets another template, or one more, or one of its workers' making: a first
 * worker of it, on trial, has to get ready; then the old workers go, or not. */
#include "parent/pool/reload.h"

#include "parent/pool/pool_template.h"
#include "parent/pool/pool_worker.h"
#include "parent/private.h"
#include "parent/rpc/rpc_promote.h"
#include "parent/trace/trace.h"
#include <stdlib.h>
#include <string.h>

#define REPLACED "a later reload has taken the place of this one"
#define POOL_ENDS "the pool is ending"

static void reload_over_at(const char *origin, struct mf_pool *pool, int code,
                           const char *message) {
  if (code) {
    failure_set(&pool->reload.failure, code, message, NULL);
    failure_set_origin(&pool->reload.failure, origin);
  }
  pool->reload.done = 1;
  pool_schedule(pool);
}

#define reload_over(...) reload_over_at(ORIGIN, __VA_ARGS__)

/* The old workers go, with the templates that they came from. */
static void replace_all(struct mf_pool *pool, struct pool_template *now) {
  list_each_safe(it, next, &pool->templates) {
    struct pool_template *t = list_entry(it, struct pool_template, link);
    if (t != now)
      pool_template_drop(t);
  }
  list_each_safe(it, next, &pool->workers) {
    struct worker *w = list_entry(it, struct worker, link);
    if (w == pool->reload.worker)
      continue;
    w->old = 1;
    if (w->slot >= 0 && !w->leaving)
      pool_replace(w);
    pool_note_end(w, MF_WORKER_ENDED, "reload");
    pool_dismiss(w);
  }
  pool->stats.reloads++;
}

/* In a pool that has its workers already, one of the template with most goes for it. */
static void make_room(struct mf_pool *pool, unsigned source) {
  struct policy *policy = &pool->policy;
  int slot;
  if (policy_workers(policy) < policy->config.max)
    return;
  slot = policy_pick_surplus(policy, source);
  if (slot < 0)
    return;
  pool_note_end(pool->by_slot[slot], MF_WORKER_ENDED,
                "add: a worker of another template takes its place");
  policy_leave(policy, (unsigned)slot);
  pool_dismiss(pool->by_slot[slot]);
}

/* The template of the trial, which has come out well; NULL: no memory. */
static struct pool_template *place_template(struct mf_pool *pool) {
  struct pool_template *t = pool->reload.instead;
  if (t) {
    pool_template_exchange(t, pool->reload.process);
    pool->stats.promotions++;
    return t;
  }
  if (pool_template_new(pool, &t) < 0)
    return NULL;
  pool_template_use(t, pool->reload.process);
  return t;
}

static void keep_template(struct mf_pool *pool) {
  struct worker *trial = pool->reload.worker;
  struct pool_template *t = place_template(pool);
  if (!t) {
    reload_over(pool, MF_ENOMEM, NULL);
    return;
  }
  pool->reload.process = NULL;
  t->good = 1;
  trial->template = t;
  trial->trial = 0;
  pool->reported_failure = 0;
  failure_deinit(&pool->failure);
  if (pool->reload.kind == RELOAD_ALL)
    replace_all(pool, t);
  else if (pool->reload.kind == RELOAD_ADD)
    make_room(pool, t->source);
  pool->reload.worker = NULL;
  reload_over(pool, 0, NULL);
  if (policy_workers(&pool->policy) >= pool->policy.config.max ||
      pool_put_in_slot(trial) < 0) {
    pool_note_end(trial, MF_WORKER_ENDED, "max: the trial is over");
    pool_dismiss(trial);
  }
}

/* ---- promotion ---- */

/* The one with the most answers, the least busy of several. */
static struct worker *pick_best(const struct mf_pool *pool) {
  struct worker *best = NULL;
  list_each(it, &pool->workers) {
    struct worker *w = list_entry(it, struct worker, link);
    if (!w->ready || w->leaving || w->killed || !w->template)
      continue;
    if (!best || w->nanswers > best->nanswers ||
        (w->nanswers == best->nanswers && w->ncalls < best->ncalls))
      best = w;
  }
  return best;
}

/* Its copy is asked for: *ret is to be a template like that which it came from. */
static int promote(struct mf_pool *pool, mf_process **ret) {
  struct worker *w = pick_best(pool);
  int r;
  if (!w) {
    reload_over(pool, MF_EFORK_FAILED, "the pool has no worker that could be promoted");
    return 0;
  }
  r = rpc_promote(w->rpc, ret);
  if (!r)
    pool->reload.instead = w->template;
  if (r != MF_ECLOSED)
    return r;
  reload_over(pool, MF_EFORK_FAILED, "the worker that was to be promoted has just ended");
  return 0;
}

/* ---- one after the other ---- */

static void begin_reload(struct mf_pool *pool, enum reload_kind kind, mf_process *p,
                         mf_pool_cb cb, void *data) {
  if (pool->reload.worker)
    pool->reload.worker->trial = 1;
  pool->reload.instead = NULL;
  pool->reload.kind = kind;
  pool->reload.process = p;
  pool->reload.cb = cb;
  pool->reload.data = data;
}

static int start_trial(struct mf_pool *pool, enum reload_kind kind, mf_process *p) {
  static const char *const why[] = {
      [RELOAD_ALL] = "reload", [RELOAD_ADD] = "add", [RELOAD_PROMOTE] = "promote"};
  return pool_worker_new(pool, p, why[kind], &pool->reload.worker);
}

static void begin(struct mf_pool *pool, const struct reload_request *q) {
  mf_process *p = q->process;
  int r = 0;
  begin_reload(pool, q->kind, p, q->cb, q->data);
  if (q->over) {
    reload_over(pool, MF_ECANCELLED, q->over);
    return;
  }
  if (pool->ending) {
    reload_over(pool, MF_ECANCELLED, POOL_ENDS);
    return;
  }
  if (q->kind == RELOAD_PROMOTE)
    r = promote(pool, &p);
  pool->reload.process = p;
  if (!r && p)
    r = start_trial(pool, q->kind, p);
  if (pool->reload.worker)
    pool->reload.worker->trial = 1;
  if (r)
    reload_over(pool, r, NULL);
}

static int awaits_reload_of_all(const struct mf_pool *pool) {
  list_each(it, &pool->reload.next) {
    if (list_entry(it, struct reload_request, link)->kind == RELOAD_ALL)
      return 1;
  }
  return 0;
}

/* The earliest that waits. A later reload takes its place. */
void pool_begin_next_reload(struct mf_pool *pool) {
  struct reload_request *q;
  if (pool->reload.process || pool->reload.done || list_empty(&pool->reload.next))
    return;
  q = list_entry(pool->reload.next.next, struct reload_request, link);
  list_remove(&q->link);
  if (awaits_reload_of_all(pool))
    q->over = REPLACED;
  begin(pool, q);
  free(q);
  pool_schedule(pool);
}

void pool_go_on_with_reload(struct mf_pool *pool) {
  struct worker *w = pool->reload.worker;
  mf_pool_cb cb = pool->reload.cb;
  mf_process *p = pool->reload.process;
  struct failure f = pool->reload.failure;
  mf_error e;
  if (p && !pool->reload.done) {
    if (pool->ending)
      reload_over(pool, MF_ECANCELLED, POOL_ENDS);
    else if (f.code)
      reload_over(pool, 0, NULL);
    else if (w && w->ready)
      keep_template(pool);
  }
  if (!pool->reload.done)
    return;
  if (trace_is_on())
    trace_mark(NULL, pool->backend->ops->now_us(pool->backend), "reload",
               TRACE_ARGS(TRACE_TEXT("function", pool->function),
                          TRACE_TEXT("result", pool->reload.failure.code
                                                   ? mf_errname(pool->reload.failure.code)
                                                   : "done")));
  pool->reload.done = 0;
  pool->reload.cb = NULL;
  pool->reload.process = NULL;
  f = pool->reload.failure;
  memset(&pool->reload.failure, 0, sizeof f);
  if (f.code && w) {
    pool->reload.worker = NULL;
    pool_note_end(w, MF_WORKER_ENDED, "%s: %s", w->why_started,
                  f.message ? f.message : "given up");
    pool_dismiss(w);
  }
  if (p && f.code)
    mf_close(p, NULL, NULL);
  if (f.code)
    failure_tell(&f, &e);
  if (cb)
    cb(pool, f.code ? &e : NULL, pool->reload.data);
  failure_deinit(&f);
}

/* ---- asked for ---- */

/* Gets p ready to be forked from, its history whole. */
int pool_prepare_template(mf_process *p) {
  int r = process_check(p);
  if (r)
    return r;
  if (p->finish.kind != FINISH_NONE)
    return MF_ESTATE;
  if (p->state == BATCHED)
    process_flush(p);
  switch (p->state) {
  case FORKING:
  case SERVING:
  case FAILED:
  case ENDING: /* its time ran out */
  case DEAD:
    break;
  default:
    return MF_ESTATE;
  }
  return mf_require(p, "moonfork.rpc"); /* once here, not in every worker */
}

/* Behind the one under way, which a reload ends. */
static int queue_reload(struct mf_pool *pool, enum reload_kind kind, mf_process *p,
                        mf_pool_cb cb, void *data) {
  struct reload_request *q = malloc(sizeof *q);
  if (!q)
    return MF_ENOMEM;
  *q = (struct reload_request){.kind = kind, .process = p, .cb = cb, .data = data};
  list_init(&q->link);
  list_push(&pool->reload.next, &q->link);
  if (kind == RELOAD_ALL && pool->reload.process && !pool->reload.done)
    reload_over(pool, MF_ECANCELLED, REPLACED);
  return 0;
}

/* Whether the process is given to this pool already, by a reload that is not over. */
static int is_in_reload(const struct mf_pool *pool, const mf_process *p) {
  if (pool->reload.process == p)
    return 1;
  list_each(it, &pool->reload.next) {
    if (list_entry(it, struct reload_request, link)->process == p)
      return 1;
  }
  return 0;
}

static int ask(struct mf_pool *pool, enum reload_kind kind, mf_process *p, mf_pool_cb cb,
               void *data) {
  int r = pool_check(pool);
  if (!r && pool->ending)
    r = MF_ECLOSED;
  if (!r && !p)
    r = MF_EINVAL;
  if (!r && (pool_has_template(pool, p) || is_in_reload(pool, p)))
    r = MF_ESTATE;
  if (!r)
    r = process_check(p);
  if (!r && p->context != pool->context)
    r = MF_EINVAL;
  if (!r)
    r = pool_prepare_template(p);
  if (!r && pool_reloads(pool)) {
    r = queue_reload(pool, kind, p, cb, data);
  } else if (!r) {
    r = start_trial(pool, kind, p);
    if (!r)
      begin_reload(pool, kind, p, cb, data);
  }
  if (!r)
    pool_update_busy(pool);
  return r;
}

int mf_pool_reload(mf_pool *pool, mf_process *p, mf_pool_cb cb, void *data) {
  return ask(pool, RELOAD_ALL, p, cb, data);
}

int mf_pool_add(mf_pool *pool, mf_process *p, mf_pool_cb cb, void *data) {
  return ask(pool, RELOAD_ADD, p, cb, data);
}

int mf_pool_promote(mf_pool *pool, mf_pool_cb cb, void *data) {
  int r = pool_check(pool);
  if (!r && pool->ending)
    r = MF_ECLOSED;
  if (!r && (pool->rpc_options.async || pool->options.isolation == MF_ISOLATION_THREAD))
    r = MF_EUNSUPPORTED;
  if (!r)
    r = queue_reload(pool, RELOAD_PROMOTE, NULL, cb, data);
  if (r)
    return r;
  pool_schedule(pool);
  pool_update_busy(pool);
  return 0;
}

void mf_pool_cancel_reload(mf_pool *pool, const void *data) {
  static const char text[] = "cancelled by the caller";
  if (pool_check(pool))
    return;
  if (pool->reload.process && !pool->reload.done && pool->reload.data == data) {
    reload_over(pool, MF_ECANCELLED, text);
    return;
  }
  list_each(it, &pool->reload.next) {
    struct reload_request *q = list_entry(it, struct reload_request, link);
    if (q->data == data) {
      q->over = text;
      pool_schedule(pool);
    }
  }
}
