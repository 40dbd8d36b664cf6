#include "parent/pool/pool.h"

#include "base/idmap.h"
#include "base/sized.h"
#include "os/cpus.h"
#include "parent/pool/latency.h"
#include "parent/pool/policy.h"
#include "parent/private.h"
#include "parent/times.h"
#include "wire/rpc_proto.h"
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  NOTIFIED_A_TURN = 512,
  GIVEN_A_TURN = 4096,
  RUNS_MAX = 3, /* of an idempotent call */
  USAGE_MS = 1000,
  USAGE_LIMITED_MS = 250, /* between two reports of memory */
  SPARE_CALLS = 1024,
  SPARE_PAYLOADS = 256
};

struct worker {
  struct mf_pool *pool;
  struct list link;
  mf_rpc *rpc;
  int slot; /* -1: none (a trial, or given up) */
  unsigned ready : 1, leaving : 1, killed : 1, trial : 1;
  unsigned slain : 1; /* killed as its grace was over */
  unsigned old : 1;  /* of a former template */
  struct list calls; /* in the order given */
  unsigned ncalls;
  uint64_t memory;
  struct deadline grace;
};

struct work {       /* one call */
  struct list link; /* in the queue, or in its worker's */
  struct list pending_link;
  struct deadline deadline, work_deadline; /* of the answer; of its run in a worker */
  struct mf_pool *pool;
  struct worker *worker;
  struct payload *payload;
  uint64_t id;
  uint64_t began_us;
  mf_reply_cb cb;
  void *data;
  unsigned timeout_ms, runs;
  int idempotent, notified;
  int unsure;        /* an earlier worker may have entered it */
  int code, started; /* of the pending error; code 0: the pool's failure */
};

struct mf_pool {
  struct home *home;
  struct seam *seam;
  mf_pool_options options; /* rpc: NULL, see below */
  mf_rpc_options rpc_options;
  char *function, *init, *serialiser;
  mf_process *template;
  struct journal *journal;
  struct policy policy;
  struct list workers;
  struct worker **by_slot;
  unsigned nby_slot;
  int template_good; /* it has brought forth a worker that got ready */

  struct list queue, pending, spare;
  struct payload **payloads; /* kept for reuse */
  size_t nqueued, nworking, nspare, npayloads;
  size_t nwaiting; /* callbacks to come */
  struct idmap calls;
  struct deadline wake;
  struct deadline drain_limit; /* of a drain; then of what was killed */
  struct deadline close_grace; /* of a close: until the next answer */
  struct task task;
  unsigned busy : 1;
  unsigned quiet : 1; /* nobody waits for the end of its close */

  unsigned ending : 1; /* takes no more calls */
  unsigned given_up : 1, cut_short : 1, ended : 1, closing : 1, closed : 1,
      reported_failure : 1;
  struct failure failure; /* code 0: none */
  struct {
    mf_process *process;
    struct worker *worker;
    mf_pool_cb cb;
    void *data;
    int done; /* the callback is pending */
    struct failure failure;
    struct list next; /* struct reload_request: only the last of them is carried out */
  } reload;
  struct {
    mf_pool_cb cb;
    void *data;
    int asked, limited;
  } drain;
  mf_pool_close_cb close_cb;
  void *close_data;

  struct latency latency;
  mf_pool_info stats;
  struct {
    mf_pool_death death;
    uint64_t at_ms;
  } last[MF_POOL_DEATHS];
  unsigned last_at;
};

/* A reload that waits for the callback of the one before it. */
struct reload_request {
  struct list link;
  mf_process *process;
  mf_pool_cb cb;
  void *data;
  const char *over; /* why it is not begun; NULL: it is */
};

static void on_task(struct task *t);
static void on_call_timeout(struct deadline *d);
static void on_work_timeout(struct deadline *d);

static uint64_t now_ms(const struct mf_pool *pool) {
  return pool->seam->ops->now_ms(pool->seam);
}

static void schedule(struct mf_pool *pool) {
  home_task(pool->home, &pool->task);
}

static int reloads(const struct mf_pool *pool) {
  return pool->reload.process || pool->reload.done || !list_empty(&pool->reload.next);
}

static void update_busy(struct mf_pool *pool) {
  unsigned ends = !pool->quiet && (pool->closing || (pool->ending && !pool->ended));
  unsigned busy =
      !pool->closed && (pool->nwaiting || reloads(pool) || ends ||
                        (pool->drain.asked && pool->drain.cb));
  if (busy == pool->busy)
    return;
  pool->busy = busy;
  home_count_busy(pool->home, busy ? 1 : -1);
}

/* ---- failures ---- */

/* No call is sent any more once a pool's failure is reported. */
static void keep_failure(struct failure *f, const mf_error *e) {
  failure_copy(f, e);
  f->started = MF_STARTED_NO;
}

/* ---- calls ---- */

static struct payload *take_spare_payload(struct mf_pool *pool) {
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

static struct work *work_new(struct mf_pool *pool) {
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
  deadline_init(&c->work_deadline, on_work_timeout);
  c->pool = pool;
  if (idmap_add(&pool->calls, c, &c->id) < 0) {
    free(c);
    return NULL;
  }
  pool->nwaiting++;
  return c;
}

static void work_free(struct work *c) {
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

static void count_end(struct work *c, int code) {
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
static void work_fail(struct work *c, int code, int started) {
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
  schedule(pool);
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
static int notify_pending(struct mf_pool *pool) {
  for (int i = 0; i < NOTIFIED_A_TURN && !list_empty(&pool->pending); i++) {
    struct work *c = list_entry(pool->pending.next, struct work, pending_link);
    mf_reply_cb cb = c->cb;
    void *data = c->data;
    char text[64];
    mf_error e;
    describe(c, text, sizeof text, &e);
    count_end(c, e.code);
    list_remove(&c->pending_link);
    if (c->worker) {
      c->notified = 1;
      pool->nwaiting--;
    } else {
      work_free(c);
    }
    if (cb)
      cb(&e, NULL, data);
  }
  return !list_empty(&pool->pending);
}

/* ---- time ---- */

/* The call that its worker is at: all of an asynchronous one, the first of another. */
static void begin_work(struct mf_pool *pool, struct work *c) {
  if (pool->options.call_timeout_ms == MF_NO_TIMEOUT ||
      deadline_at(&c->work_deadline) != UINT64_MAX)
    return;
  deadline_set(pool->home, &c->work_deadline, pool->options.call_timeout_ms);
}

static void begin_first(struct worker *w) {
  if (!w->pool->rpc_options.async && !list_empty(&w->calls))
    begin_work(w->pool, list_entry(w->calls.next, struct work, link));
}

/* ---- workers ---- */

static void kill_worker(struct worker *w) {
  w->killed = 1;
  mf_kill(mf_rpc_process(w->rpc), SIGKILL);
}

/* First it is killed. Where its end is not noticed then, as its template hangs and has not even
 * forked it, it is given up. */
static void on_grace(struct deadline *d) {
  struct worker *w = list_entry(d, struct worker, grace);
  if (w->slain) {
    mf_rpc_abort(w->rpc);
    return;
  }
  if (!w->killed)
    w->pool->stats.killed++;
  kill_worker(w);
  w->slain = 1;
  deadline_set(w->pool->home, &w->grace, KILL_PATIENCE_MS);
}

static void on_worker_gone(mf_rpc *rpc, void *data);

static void start_grace(struct worker *w) {
  if (w->leaving && !w->ncalls && deadline_at(&w->grace) == UINT64_MAX)
    deadline_set(w->pool->home, &w->grace, w->pool->options.grace_ms);
}

/* It gets no more calls, finishes those it has, and ends. */
static void dismiss(struct worker *w) {
  if (w->leaving)
    return;
  w->leaving = 1;
  mf_rpc_close(w->rpc, on_worker_gone, w);
  start_grace(w);
}

static void replace(struct worker *w) {
  if (w->slot >= 0)
    policy_replace(&w->pool->policy, (unsigned)w->slot);
  schedule(w->pool);
}

static void free_slot(struct worker *w, enum policy_end how) {
  struct mf_pool *pool = w->pool;
  if (w->slot < 0)
    return;
  pool->by_slot[w->slot] = NULL;
  policy_ended(&pool->policy, (unsigned)w->slot, how, now_ms(pool));
  w->slot = -1;
  schedule(pool);
}

static void remember_death(struct worker *w, const mf_error *e) {
  struct mf_pool *pool = w->pool;
  mf_pool_death *d;
  pool->last_at = (pool->last_at + 1) % MF_POOL_DEATHS;
  d = &pool->last[pool->last_at].death;
  pool->last[pool->last_at].at_ms = now_ms(pool);
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

static int template_is_usable(const struct mf_pool *pool) {
  const struct mf_process *t = pool->template;
  return !t->error && !t->gone && !t->eof &&
         (t->state == HELD || t->state == FORKING || t->state == SERVING);
}

/* It is the template's death, or the system refuses while others work: not its own. */
static enum policy_end judge(const struct worker *w, const mf_error *e) {
  const struct mf_pool *pool = w->pool;
  if (w->leaving || w->killed)
    return END_ASKED;
  if (!w->ready && !w->old && e->code != MF_EREMOTE && !template_is_usable(pool))
    return END_ASKED;
  if (e->code == MF_EFORK_FAILED && pool->policy.nready)
    return END_NOT_STARTED;
  return END_DIED;
}

static void on_worker_error(const mf_error *e, void *data) {
  struct worker *w = data;
  struct mf_pool *pool = w->pool;
  enum policy_end how = judge(w, e);
  if (w->trial) {
    keep_failure(&pool->reload.failure, e);
  } else if (!w->killed) {
    remember_death(w, e);
    if (!pool->policy.failed)
      keep_failure(&pool->failure, e);
  }
  free_slot(w, how);
  if (!w->trial && !w->killed && pool->rpc_options.on_error)
    pool->rpc_options.on_error(e, pool->rpc_options.data);
  dismiss(w);
  schedule(pool);
}

static void on_worker_close(void *data) {
  struct worker *w = data;
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
  schedule(pool);
  free(w);
}

static void on_worker_ready(void *data) {
  struct worker *w = data;
  w->ready = 1;
  if (w->slot >= 0)
    policy_ready(&w->pool->policy, (unsigned)w->slot);
  if (!w->old && !w->trial)
    w->pool->template_good = 1;
  schedule(w->pool);
}

static void on_worker_retire(void *data) {
  struct worker *w = data;
  if (w->leaving)
    return;
  w->pool->stats.retired++;
  replace(w);
  dismiss(w);
}

static void recycle(struct worker *w) {
  if (w->leaving)
    return;
  w->pool->stats.recycled++;
  replace(w);
  dismiss(w);
}

static void on_worker_usage(void *data, uint64_t bytes) {
  struct worker *w = data;
  uint64_t most = w->pool->options.max_memory;
  w->memory = bytes;
  if (most && bytes > most)
    recycle(w);
}

static void on_worker_event(const mf_message *m, void *data) {
  struct worker *w = data;
  struct mf_pool *pool = w->pool;
  pool->stats.events++;
  if (pool->rpc_options.on_event)
    pool->rpc_options.on_event(m, pool->rpc_options.data);
}

static const struct rpc_owner worker_owner = {on_worker_ready, on_worker_retire,
                                              on_worker_usage};

/* Forks a worker from t. 0 or a code. */
static int worker_new(struct mf_pool *pool, mf_process *t, struct worker **ret) {
  mf_rpc_options o = pool->rpc_options;
  unsigned usage_ms = pool->options.max_memory ? USAGE_LIMITED_MS : USAGE_MS;
  struct worker *w = calloc(1, sizeof *w);
  mf_process *q;
  int r;
  if (!w)
    return MF_ENOMEM;
  r = mf_fork(t, &q);
  if (r) {
    free(w);
    return r;
  }
  w->pool = pool;
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
  o.grace_ms = MF_NO_TIMEOUT; /* dismissed ones finish what they have; a close has its own */
  o.data = w;
  r = rpc_new(q, pool->function, &o, usage_ms, &worker_owner, w, &w->rpc);
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

static int put_in_slot(struct worker *w) {
  struct mf_pool *pool = w->pool;
  int slot = policy_started(&pool->policy, now_ms(pool));
  if (slot < 0)
    return MF_ENOMEM;
  if ((unsigned)slot >= pool->nby_slot) {
    struct worker **more =
        realloc(pool->by_slot, ((size_t)slot + 1) * sizeof(struct worker *));
    if (!more) {
      policy_ended(&pool->policy, (unsigned)slot, END_NOT_STARTED, now_ms(pool));
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

/* ---- the template ---- */

/* In a forked copy: the descriptors of requests. The workers' rpcs see to theirs. */
static void close_in_copy(void *guest) {
  struct mf_pool *pool = guest;
  for (size_t i = 0; i < pool->calls.size; i++) {
    const struct work *c = pool->calls.slots[i].value;
    if (c && c->payload)
      payload_close(c->payload);
  }
}

static void use_template(struct mf_pool *pool, mf_process *t) {
  pool->template = t;
  t->forked_hook.close = close_in_copy;
  t->forked_hook.guest = pool;
  deadline_clear(&t->limit); /* as a fork from it would, which may come much later */
}

static mf_process *leave_template(struct mf_pool *pool) {
  mf_process *t = pool->template;
  pool->template = NULL;
  t->forked_hook.close = NULL;
  return t;
}

static void fail_pool(struct mf_pool *pool, int code, const char *message,
                      const char *traceback) {
  failure_set(&pool->failure, code, message, traceback);
  policy_fail(&pool->policy);
}

static void fail_like_template(struct mf_pool *pool, const struct mf_process *t) {
  mf_error e;
  failure_tell(t->error, &e);
  keep_failure(&pool->failure, &e);
  policy_fail(&pool->policy);
}

/* What the template failed at is no accident that another start might not have. */
static int failed_by_itself(const struct mf_process *t) {
  if (!t->error)
    return 0;
  switch (t->error->code) {
  case MF_ECLONE_DIED:
  case MF_ETEMPLATE_DIED:
  case MF_EPROTOCOL:
  case MF_EFORK_FAILED:
  case MF_ENOMEM:
  case MF_ETIMEOUT:
    return 0;
  default:
    return 1;
  }
}

/* 1: there is one to fork from; 0: not now, or never (the policy knows). */
static int provide_template(struct mf_pool *pool) {
  const struct mf_process *t = pool->template;
  mf_process *fresh;
  int r;
  if (template_is_usable(pool))
    return 1;
  if (failed_by_itself(t)) {
    fail_like_template(pool, t);
    return 0;
  }
  if (t->unborn && t->error && !pool->journal) {
    fail_like_template(pool, t);
    return 0;
  }
  if (!pool->journal) {
    fail_pool(
        pool, MF_ETEMPLATE_DIED,
        "the template has ended and can't be started again: it was sent handles or more "
        "than 1 MiB, or was not made by new or new_exec",
        NULL);
    return 0;
  }
  if (t->unborn || !pool->template_good)
    policy_death(&pool->policy, t->unborn ? !pool->policy.nready : 1, now_ms(pool));
  if (pool->policy.failed) { /* by templates that ended before they were of any use */
    fail_pool(pool, t->unborn && t->error ? t->error->code : MF_ETEMPLATE_START,
              t->error && t->error->message ? t->error->message
                                            : "the template has ended",
              NULL);
    return 0;
  }
  r = journal_replay(pool->journal, pool->home, &fresh);
  if (r) {
    policy_death(&pool->policy, 1, now_ms(pool));
    if (pool->policy.failed)
      fail_pool(pool, r, mf_strerror(r), NULL);
    return 0;
  }
  mf_close(leave_template(pool), NULL, NULL);
  use_template(pool, fresh);
  pool->template_good = 0;
  pool->stats.template_starts++;
  return 1;
}

static void start_worker(struct mf_pool *pool) {
  struct worker *w;
  int r;
  if (!provide_template(pool))
    return;
  r = worker_new(pool, pool->template, &w);
  if (!r && put_in_slot(w) == 0)
    return;
  if (!r)
    dismiss(w);
  policy_death(&pool->policy, !pool->policy.nready, now_ms(pool));
  if (!pool->failure.code || r)
    failure_set(&pool->failure, r ? r : MF_ENOMEM, NULL, NULL);
}

/* ---- giving calls to workers ---- */

static void on_reply(const mf_error *e, const mf_message *m, void *data);
static void start_close_grace(struct mf_pool *pool);

static void give(struct mf_pool *pool, struct work *c, unsigned slot) {
  struct worker *w = pool->by_slot[slot];
  uint64_t id;
  int r = rpc_submit(w->rpc, c->payload, MF_NO_TIMEOUT, on_reply, c, &id);
  if (r) {
    work_fail(c, r, MF_STARTED_NO);
    return;
  }
  c->worker = w;
  c->runs++;
  list_push(&w->calls, &c->link);
  w->ncalls++;
  pool->nworking++;
  policy_give(&pool->policy, slot);
  if (pool->rpc_options.async)
    begin_work(pool, c);
  else
    begin_first(w);
}

static void give_waiting(struct mf_pool *pool) {
  for (int i = 0; i < GIVEN_A_TURN && pool->nqueued; i++) {
    int slot = policy_pick(&pool->policy);
    struct work *c = list_entry(pool->queue.next, struct work, link);
    if (slot < 0)
      return;
    list_remove(&c->link);
    pool->nqueued--;
    give(pool, c, (unsigned)slot);
  }
  if (pool->nqueued)
    schedule(pool);
}

/* Back to its place in the queue, by its number. */
static void requeue(struct mf_pool *pool, struct work *c) {
  struct list *before = pool->queue.next;
  while (before != &pool->queue && list_entry(before, struct work, link)->id < c->id)
    before = before->next;
  list_push(before, &c->link); /* in front of it */
  pool->nqueued++;
  pool->stats.retried++;
  schedule(pool);
}

static int may_run_again(const struct mf_pool *pool, const struct work *c,
                         const mf_error *e) {
  if (pool->given_up || pool->policy.failed || !list_empty(&c->pending_link))
    return 0;
  if (e->started == MF_STARTED_NO)
    return 1; /* it has not run at all; the policy bounds how often workers fail to start
               */
  return c->idempotent && c->runs < RUNS_MAX;
}

/* The worker's answer, or what became of the call with its death. */
static void on_reply(const mf_error *e, const mf_message *m, void *data) {
  struct work *c = data;
  struct mf_pool *pool = c->pool;
  struct worker *w = c->worker;
  int died = rpc_is_over(w->rpc);
  mf_reply_cb cb = c->cb;
  void *cb_data = c->data;
  mf_error own;
  c->worker = NULL;
  list_remove(&c->link);
  start_close_grace(pool);
  w->ncalls--;
  pool->nworking--;
  deadline_clear(&c->work_deadline);
  if (w->slot >= 0 && policy_take_back(&pool->policy, (unsigned)w->slot, !died))
    recycle(w);
  if (died && w->slot >= 0)
    policy_replace(&pool->policy, (unsigned)w->slot);
  if (!died)
    begin_first(w);
  start_grace(w);
  int has_idled =
      w->ncalls == 0 && !pool->policy.stop_at_ms; /* one more to stop, perhaps */
  if (pool->nqueued || pool->ending || died || has_idled)
    schedule(pool);
  if (c->notified || !list_empty(&c->pending_link)) {
    pool->stats.late += !died;
    if (c->notified)
      work_free(c);
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
  count_end(c, e ? e->code : 0);
  work_free(c);
  if (cb)
    cb(e, m, cb_data);
  update_busy(pool);
}

/* ---- failing, draining, ending ---- */

static void fail_waiting(struct mf_pool *pool) {
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
  while (pool->nqueued)
    work_fail(list_entry(pool->queue.next, struct work, link), 0, MF_STARTED_NO);
  if (pool->reported_failure)
    return;
  pool->reported_failure = 1;
  failure_tell(&pool->failure, &e);
  if (pool->rpc_options.on_error)
    pool->rpc_options.on_error(&e, pool->rpc_options.data);
}

static void drop_waiting(struct mf_pool *pool, int code) {
  while (pool->nqueued)
    work_fail(list_entry(pool->queue.next, struct work, link), code, MF_STARTED_NO);
}

/* Nothing runs again, everything under way is killed; on_drain_limit comes once more for those
 * whose death is not noticed. */
static void give_up(struct mf_pool *pool, int code) {
  pool->given_up = 1;
  drop_waiting(pool, code);
  list_each(it, &pool->workers) {
    struct worker *w = list_entry(it, struct worker, link);
    kill_worker(w);
  }
  deadline_clear(&pool->close_grace);
  deadline_set(pool->home, &pool->drain_limit, KILL_PATIENCE_MS);
  schedule(pool);
}

/* Without waiting for any worker: their calls get that code. */
static void abandon_workers(struct mf_pool *pool, int code) {
  list_each_safe(it, next, &pool->workers) {
    struct worker *w = list_entry(it, struct worker, link);
    list_each(at, &w->calls) {
      work_fail(list_entry(at, struct work, link), code, MF_STARTED_UNKNOWN);
    }
    mf_rpc_abort(w->rpc);
    dismiss(w);
  }
}

static void on_drain_limit(struct deadline *d) {
  struct mf_pool *pool = list_entry(d, struct mf_pool, drain_limit);
  if (pool->ended)
    return;
  if (pool->given_up) {
    abandon_workers(pool, MF_ECLONE_DIED);
    return;
  }
  pool->cut_short = 1;
  give_up(pool, MF_ETIMEOUT);
}

/* A closing pool without a time limit goes on as long as calls are answered. */
static void start_close_grace(struct mf_pool *pool) {
  if (!pool->ending || pool->given_up || pool->drain.limited ||
      pool->options.grace_ms == MF_NO_TIMEOUT)
    return;
  deadline_set(pool->home, &pool->close_grace, pool->options.grace_ms);
}

static uint64_t first_timeout_in(const struct list *calls) {
  uint64_t first = UINT64_MAX;
  list_each(it, calls) {
    const struct work *c = list_entry(it, struct work, link);
    uint64_t at = deadline_at(&c->deadline), at_work = deadline_at(&c->work_deadline);
    at = at < at_work ? at : at_work;
    first = at < first ? at : first;
  }
  return first;
}

/* When the first of the calls times out; UINT64_MAX: never. */
static uint64_t first_timeout(const struct mf_pool *pool) {
  uint64_t first = first_timeout_in(&pool->queue);
  list_each(it, &pool->workers) {
    uint64_t at = first_timeout_in(&list_entry(it, struct worker, link)->calls);
    first = at < first ? at : first;
  }
  return first;
}

/* No call was answered for that long, what the host has not read yet included. Calls that have a
 * time of their own may use it. */
static void on_close_grace(struct deadline *d) {
  struct mf_pool *pool = list_entry(d, struct mf_pool, close_grace);
  uint64_t now = now_ms(pool), at;
  list_each_safe(it, next, &pool->workers) {
    rpc_look(list_entry(it, struct worker, link)->rpc);
  }
  if (pool->ended || pool->given_up || deadline_at(&pool->close_grace) != UINT64_MAX)
    return;
  at = first_timeout(pool);
  if (at >= now && at != UINT64_MAX) {
    deadline_set_at(pool->home, &pool->close_grace, at + 1);
    return;
  }
  pool->cut_short = 1;
  give_up(pool, pool->drain.asked ? MF_ETIMEOUT : MF_ECANCELLED);
}

static void on_template_closed(mf_process *p, void *data);

static void finish_close(struct mf_pool *pool) {
  if (pool->closed)
    return;
  pool->closed = 1;
  mf_close(leave_template(pool), on_template_closed, pool);
}

static void report_drained(struct mf_pool *pool) {
  struct failure late = {.code = MF_ETIMEOUT};
  mf_pool_cb cb = pool->drain.cb;
  mf_error e;
  failure_tell(&late, &e);
  e.message = "workers were killed when the timeout of drain had passed";
  pool->drain.cb = NULL;
  if (cb)
    cb(pool, pool->cut_short ? &e : NULL, pool->drain.data);
}

/* All workers are gone, no callback is pending. */
static void end(struct mf_pool *pool) {
  pool->ended = 1;
  deadline_clear(&pool->drain_limit);
  deadline_clear(&pool->close_grace);
  deadline_clear(&pool->wake);
  if (!pool->closing)
    mf_finish(pool->template);
  report_drained(pool);
  if (pool->rpc_options.on_close && !pool->given_up)
    pool->rpc_options.on_close(pool->rpc_options.data);
}

/* ---- reload ---- */

#define REPLACED "a later reload has taken the place of this one"

static void reload_over(struct mf_pool *pool, int code, const char *message) {
  if (code)
    failure_set(&pool->reload.failure, code, message, NULL);
  pool->reload.done = 1;
  schedule(pool);
}

/* The trial has come out well: its template is the pool's, the old workers go. */
static void switch_template(struct mf_pool *pool) {
  struct worker *trial = pool->reload.worker;
  unsigned n = 0;
  trial->trial = 0;
  pool->reload.worker = NULL;
  mf_close(leave_template(pool), NULL, NULL);
  use_template(pool, pool->reload.process);
  pool->reload.process = NULL;
  journal_drop(&pool->journal);
  pool->journal = journal_hold(pool->template->journal);
  pool->template_good = 1;
  pool->reported_failure = 0;
  policy_renew(&pool->policy);
  failure_deinit(&pool->failure);
  list_each_safe(it, next, &pool->workers) {
    struct worker *w = list_entry(it, struct worker, link);
    if (w == trial)
      continue;
    w->old = 1;
    if (w->slot >= 0 && !w->leaving) {
      replace(w);
      n++;
    }
    dismiss(w);
  }
  pool->stats.reloads++;
  reload_over(pool, 0, NULL);
  if (policy_workers(&pool->policy) >= pool->policy.config.max || put_in_slot(trial) < 0)
    dismiss(trial);
}

static void begin_reload(struct mf_pool *pool, mf_process *p, mf_pool_cb cb, void *data) {
  if (pool->reload.worker)
    pool->reload.worker->trial = 1;
  pool->reload.process = p;
  pool->reload.cb = cb;
  pool->reload.data = data;
}

/* The earliest that waits. A later one takes its place; the last one begins. */
static void begin_next_reload(struct mf_pool *pool) {
  struct reload_request *q;
  int r;
  if (pool->reload.process || pool->reload.done || list_empty(&pool->reload.next))
    return;
  q = list_entry(pool->reload.next.next, struct reload_request, link);
  list_remove(&q->link);
  if (!list_empty(&pool->reload.next))
    q->over = REPLACED;
  if (q->over) {
    begin_reload(pool, q->process, q->cb, q->data);
    reload_over(pool, MF_ECANCELLED, q->over);
  } else {
    r = pool->ending ? 0 : worker_new(pool, q->process, &pool->reload.worker);
    begin_reload(pool, q->process, q->cb, q->data);
    if (r)
      reload_over(pool, r, NULL);
  }
  free(q);
  schedule(pool);
}

static void go_on_with_reload(struct mf_pool *pool) {
  struct worker *w = pool->reload.worker;
  mf_pool_cb cb = pool->reload.cb;
  mf_process *p = pool->reload.process;
  struct failure f = pool->reload.failure;
  mf_error e;
  if (p && !pool->reload.done) {
    if (pool->ending)
      reload_over(pool, MF_ECANCELLED, "the pool is ending");
    else if (f.code)
      reload_over(pool, 0, NULL);
    else if (w && w->ready)
      switch_template(pool);
  }
  if (!pool->reload.done)
    return;
  pool->reload.done = 0;
  pool->reload.cb = NULL;
  pool->reload.process = NULL;
  f = pool->reload.failure;
  memset(&pool->reload.failure, 0, sizeof f);
  if (f.code && w) {
    pool->reload.worker = NULL;
    dismiss(w);
  }
  if (p && f.code)
    mf_close(p, NULL, NULL);
  if (f.code)
    failure_tell(&f, &e);
  if (cb)
    cb(pool, f.code ? &e : NULL, pool->reload.data);
  failure_deinit(&f);
}

/* ---- the task ---- */

static void stop_worker(struct mf_pool *pool, unsigned slot) {
  struct worker *w = pool->by_slot[slot];
  policy_leave(&pool->policy, slot);
  dismiss(w);
}

static void follow_policy(struct mf_pool *pool) {
  struct policy_action a;
  if (pool->given_up)
    return;
  for (;;) {
    if (pool->policy.failed)
      fail_waiting(pool);
    if (pool->ending && !pool->policy.config.max)
      drop_waiting(pool, MF_ECANCELLED); /* nobody would ever take them */
    a = policy_next(&pool->policy, now_ms(pool), pool->nqueued);
    if (a.act == POLICY_START)
      start_worker(pool);
    else if (a.act == POLICY_STOP)
      stop_worker(pool, a.slot);
    else
      break;
  }
  deadline_clear(&pool->wake);
  if (a.wake_ms != UINT64_MAX) {
    uint64_t now = now_ms(pool);
    deadline_set(pool->home, &pool->wake, a.wake_ms > now ? a.wake_ms - now : 0);
  }
}

static void on_task(struct task *t) {
  struct mf_pool *pool = list_entry(t, struct mf_pool, task);
  if (pool->closed)
    return;
  if (pool->ended) {
    deadline_clear(&pool->drain_limit);
    report_drained(pool); /* asked for when all was over */
    if (notify_pending(pool) || pool->reload.done)
      schedule(pool);
    else if (pool->closing)
      finish_close(pool);
    update_busy(pool);
    return;
  }
  give_waiting(pool);
  follow_policy(pool);
  go_on_with_reload(pool);
  begin_next_reload(pool);
  if (notify_pending(pool))
    schedule(pool);
  else if (pool->ending && !pool->nwaiting && !pool->nworking && !reloads(pool) &&
           list_empty(&pool->workers)) {
    end(pool);
    schedule(pool);
  }
  update_busy(pool);
}

static void on_wake(struct deadline *d) {
  schedule(list_entry(d, struct mf_pool, wake));
}

static void on_call_timeout(struct deadline *d) {
  struct work *c = list_entry(d, struct work, deadline);
  work_fail(c, MF_ETIMEOUT, c->worker ? MF_STARTED_UNKNOWN : MF_STARTED_NO);
}

/* The time of a call in a worker is over: the worker is killed. What it had not entered goes
 * to others; this call is not run again, even if it is idempotent. */
static void on_work_timeout(struct deadline *d) {
  struct work *c = list_entry(d, struct work, work_deadline);
  struct worker *w = c->worker;
  struct mf_pool *pool = c->pool;
  if (!c->notified) {
    c->timeout_ms = pool->options.call_timeout_ms;
    work_fail(c, MF_ETIMEOUT, MF_STARTED_UNKNOWN);
  }
  if (w->killed)
    return;
  pool->stats.killed++;
  replace(w);
  kill_worker(w);
}

/* ---- the functions of moonfork.h ---- */

static int check(const mf_pool *pool) {
  if (!pool)
    return MF_EINVAL;
  return home_foreign(pool->home) ? MF_EFORKED : 0;
}

/* Prepares c's request and deadline. 0 or a code. */
static int fill_work(struct mf_pool *pool, struct work *c, const mf_message *m,
                     const mf_call_options *options) {
  mf_call_options o;
  int r = call_options_load(options, &o);
  if (r)
    return r;
  r = payload_new(m, &pool->home->blockcache, take_spare_payload(pool), &c->payload);
  if (r)
    return r;
  c->began_us = pool->seam->ops->now_us(pool->seam);
  c->idempotent = o.idempotent != 0;
  c->timeout_ms = rpc_timeout(&o, pool->rpc_options.timeout_ms);
  if (c->timeout_ms != MF_NO_TIMEOUT)
    deadline_set(pool->home, &c->deadline, c->timeout_ms);
  return 0;
}

/* A call for a worker that is about to be there waits for it, but is not in its way. */
static int is_full(const struct mf_pool *pool) {
  return pool->nqueued >= pool->options.queue_max + policy_room_ahead(&pool->policy);
}

int mf_pool_call(mf_pool *pool, const mf_message *m, const mf_call_options *o,
                 mf_reply_cb cb, void *data, uint64_t *ret_id) {
  struct work *c;
  int r = check(pool), slot;
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
  c = work_new(pool);
  if (!c)
    return MF_ENOMEM;
  r = fill_work(pool, c, m, o);
  if (r) {
    work_free(c);
    return r;
  }
  c->cb = cb;
  c->data = data;
  pool->stats.calls++;
  if (ret_id)
    *ret_id = c->id;
  if (pool->policy.failed) {
    work_fail(c, 0, MF_STARTED_NO);
  } else if (slot >= 0) {
    give(pool, c, (unsigned)slot);
  } else {
    list_push(&pool->queue, &c->link);
    pool->nqueued++;
    schedule(pool);
  }
  update_busy(pool);
  return 0;
}

int mf_pool_cancel(mf_pool *pool, uint64_t id) {
  struct work *c;
  int r = check(pool);
  if (r)
    return r;
  c = idmap_get(&pool->calls, id);
  if (!c || c->notified || !list_empty(&c->pending_link))
    return -ESRCH;
  work_fail(c, MF_ECANCELLED, c->worker ? MF_STARTED_UNKNOWN : MF_STARTED_NO);
  return 0;
}

int mf_pool_resize(mf_pool *pool, unsigned max) {
  int r = check(pool);
  if (r)
    return r;
  if (pool->ending)
    return MF_ECLOSED;
  policy_resize(&pool->policy, max == MF_POOL_PROCESSORS ? cpus_usable() : max);
  schedule(pool);
  return 0;
}

/* Gets p ready to be forked from, its history whole. */
static int prepare_template(mf_process *p) {
  int r = process_check(p);
  if (r)
    return r;
  if (p->finish.kind != FINISH_NONE)
    return MF_ESTATE;
  if (p->state == HELD)
    process_unhold(p);
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

/* Behind the one under way, which is given up. */
static int queue_reload(struct mf_pool *pool, mf_process *p, mf_pool_cb cb, void *data) {
  struct reload_request *q = malloc(sizeof *q);
  if (!q)
    return MF_ENOMEM;
  *q = (struct reload_request){.process = p, .cb = cb, .data = data};
  list_init(&q->link);
  list_push(&pool->reload.next, &q->link);
  if (pool->reload.process && !pool->reload.done)
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

int mf_pool_reload(mf_pool *pool, mf_process *p, mf_pool_cb cb, void *data) {
  int r = check(pool);
  if (!r && pool->ending)
    r = MF_ECLOSED;
  if (!r && p && (p == pool->template || is_in_reload(pool, p)))
    r = MF_ESTATE;
  if (!r)
    r = process_check(p);
  if (!r && p->home != pool->home)
    r = MF_EINVAL;
  if (!r)
    r = prepare_template(p);
  if (!r && reloads(pool)) {
    r = queue_reload(pool, p, cb, data);
  } else if (!r) {
    r = worker_new(pool, p, &pool->reload.worker);
    if (!r)
      begin_reload(pool, p, cb, data);
  }
  if (!r)
    update_busy(pool);
  return r;
}

void mf_pool_cancel_reload(mf_pool *pool, const void *data) {
  static const char text[] = "cancelled by the caller";
  if (check(pool))
    return;
  if (pool->reload.process && !pool->reload.done && pool->reload.data == data) {
    reload_over(pool, MF_ECANCELLED, text);
    return;
  }
  list_each(it, &pool->reload.next) {
    struct reload_request *q = list_entry(it, struct reload_request, link);
    if (q->data == data) {
      q->over = text;
      schedule(pool);
    }
  }
}

static void begin_end(struct mf_pool *pool) {
  pool->ending = 1;
  policy_end(&pool->policy);
  start_close_grace(pool);
  schedule(pool);
}

int mf_pool_drain(mf_pool *pool, unsigned timeout_ms, mf_pool_cb cb, void *data) {
  int r = check(pool);
  if (!r && (pool->drain.asked || pool->closing))
    r = MF_ECLOSED;
  if (r)
    return r;
  pool->drain.asked = 1;
  pool->drain.cb = cb;
  pool->drain.data = data;
  pool->drain.limited = timeout_ms != MF_NO_TIMEOUT;
  if (pool->drain.limited)
    deadline_set(pool->home, &pool->drain_limit, timeout_ms);
  begin_end(pool);
  update_busy(pool);
  return 0;
}

void mf_pool_abort(mf_pool *pool) {
  if (check(pool) || pool->ended || pool->closed)
    return;
  pool->cut_short = 1;
  begin_end(pool);
  give_up(pool, MF_ECANCELLED);
  abandon_workers(pool, MF_ECANCELLED);
  update_busy(pool);
}

void mf_pool_quiet(mf_pool *pool) {
  if (check(pool))
    return;
  pool->quiet = 1;
  update_busy(pool);
}

void mf_pool_close(mf_pool *pool, mf_pool_close_cb cb, void *data) {
  if (check(pool) || pool->closing)
    return;
  pool->closing = 1;
  pool->close_cb = cb;
  pool->close_data = data;
  begin_end(pool);
  update_busy(pool);
}

static int state_of(const struct mf_pool *pool) {
  if (pool->ended)
    return MF_POOL_CLOSED;
  if (pool->ending)
    return MF_POOL_DRAINING;
  return pool->policy.failed ? MF_POOL_FAILED : MF_POOL_RUNNING;
}

int mf_pool_stats(const mf_pool *pool, mf_pool_info *ret) {
  mf_pool_info s;
  uint64_t now;
  int r = check(pool);
  if (r)
    return r;
  if (!ret)
    return MF_EINVAL;
  now = now_ms(pool);
  s = pool->stats;
  s.state = state_of(pool);
  s.max = pool->policy.config.max;
  s.workers = policy_workers(&pool->policy);
  s.idle = pool->policy.nidle;
  s.starting = pool->policy.nstarting;
  s.leaving = pool->policy.nleaving;
  s.queued = pool->nqueued;
  s.running = pool->nworking;
  s.p50_us = latency_at(&pool->latency, 50);
  s.p99_us = latency_at(&pool->latency, 99);
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
  if (check(pool))
    return 0;
  list_each(it, &pool->workers) {
    int pid = mf_pid(mf_rpc_process(list_entry(it, struct worker, link)->rpc));
    if (pid <= 0)
      continue;
    if (i < n)
      pids[i] = pid;
    i++;
  }
  return i;
}

/* ---- life ---- */

static void pool_free(struct mf_pool *pool) {
  task_clear(&pool->task);
  deadline_clear(&pool->wake);
  deadline_clear(&pool->drain_limit);
  deadline_clear(&pool->close_grace);
  policy_deinit(&pool->policy);
  idmap_deinit(&pool->calls);
  list_each_safe(it, next, &pool->spare) {
    free(list_entry(it, struct work, link));
  }
  while (pool->npayloads)
    free(pool->payloads[--pool->npayloads]);
  free(pool->payloads);
  journal_drop(&pool->journal);
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
  if (pool->close_cb)
    pool->close_cb(pool, pool->close_data);
  pool_free(pool);
}

void mf_pool_options_init(mf_pool_options *o) {
  mf_pool_options init = MF_POOL_OPTIONS_INIT;
  *o = init;
}

static int init_policy(struct mf_pool *pool, const mf_pool_options *o) {
  struct policy_config c = {.max = o->max,
                            .idle = o->idle,
                            .load = o->load,
                            .start_ms = o->start_ms,
                            .stop_ms = o->stop_ms,
                            .max_calls = o->max_calls,
                            .restart_burst = o->restart_burst,
                            .restart_period_ms = o->restart_period_ms,
                            .backoff_min_ms = o->backoff_min_ms,
                            .backoff_max_ms = o->backoff_max_ms};
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

static struct mf_pool *pool_alloc(const mf_pool_options *o, const mf_rpc_options *rpc) {
  struct mf_pool *pool = calloc(1, sizeof *pool);
  if (!pool)
    return NULL;
  pool->options = *o;
  pool->rpc_options = *rpc;
  pool->options.rpc = NULL;
  list_init(&pool->workers);
  list_init(&pool->reload.next);
  list_init(&pool->queue);
  list_init(&pool->pending);
  list_init(&pool->spare);
  idmap_init(&pool->calls);
  deadline_init(&pool->wake, on_wake);
  deadline_init(&pool->drain_limit, on_drain_limit);
  deadline_init(&pool->close_grace, on_close_grace);
  task_init(&pool->task, on_task);
  return pool;
}

static int pool_options_load(const mf_pool_options *from, mf_pool_options *o) {
  mf_pool_options_init(o);
  return from && sized_load(o, sizeof *o, from) < 0 ? MF_EINVAL : 0;
}

int mf_pool_new(mf_process *p, const char *function, const mf_pool_options *options,
                mf_pool **ret) {
  mf_pool_options o;
  mf_rpc_options rpc;
  struct mf_pool *pool;
  int r = process_check(p);
  if (!r && (!function || !*function || !ret))
    r = MF_EINVAL;
  if (!r)
    r = pool_options_load(options, &o);
  if (!r)
    r = rpc_options_load(o.rpc, &rpc);
  if (r)
    return r;
  pool = pool_alloc(&o, &rpc);
  if (!pool)
    return MF_ENOMEM;
  r = init_policy(pool, &o);
  if (!r)
    r = own_strings(pool, function);
  if (!r)
    r = prepare_template(p);
  if (r) {
    pool_free(pool);
    return r;
  }
  pool->home = p->home;
  pool->seam = p->home->seam;
  use_template(pool, p);
  pool->journal = journal_hold(p->journal);
  schedule(pool);
  *ret = pool;
  return 0;
}
