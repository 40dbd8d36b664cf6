/* The templates that workers are forked from. One that has ended is started again from
 * its journal, as often as the policy allows; one that has failed is used no more. What a
 * pool wants of a process that is its template is all in this file and in reload.c: to be
 * forked from, started again, closed. */
#include "parent/pool/pool_template.h"

#include "parent/api/replay.h"
#include "parent/pool/pool_worker.h"
#include "parent/private.h"
#include "parent/trace/trace.h"
#include <stdio.h>
#include <stdlib.h>

/* In a forked copy: the descriptors of requests. The workers' rpcs see to theirs. */
static void close_in_copy(void *data) {
  struct mf_pool *pool = data;
  for (size_t i = 0; i < pool->calls.ids.size; i++) {
    const struct call *r = pool->calls.ids.slots[i].value;
    if (r && r->payload)
      payload_close(r->payload);
  }
}

static void use_process(struct pool_template *t, mf_process *p) {
  t->process = p;
  p->forked_hook.close = close_in_copy;
  p->forked_hook.data = t->pool;
  deadline_clear(&p->limit); /* as a fork from it would, which may come much later */
}

static mf_process *leave_process(struct pool_template *t) {
  mf_process *p = t->process;
  t->process = NULL;
  p->forked_hook.close = NULL;
  p->threads_hook.cb = NULL;
  return p;
}

int pool_template_new(struct mf_pool *pool, struct pool_template **ret) {
  struct pool_template *t = calloc(1, sizeof *t);
  int source = t ? policy_add_source(&pool->policy) : -1;
  if (source < 0) {
    free(t);
    return MF_ENOMEM;
  }
  t->pool = pool;
  t->source = (unsigned)source;
  list_push(&pool->templates, &t->link);
  *ret = t;
  return 0;
}

void pool_template_use(struct pool_template *t, mf_process *p) {
  t->journal = journal_hold(p->journal);
  use_process(t, p);
}

void pool_template_exchange(struct pool_template *t, mf_process *p) {
  policy_renew_source(&t->pool->policy, t->source);
  t->told = 0;
  mf_close(leave_process(t), NULL, NULL);
  use_process(t, p);
}

static void template_free(struct pool_template *t) {
  journal_drop(&t->journal);
  list_remove(&t->link);
  free(t);
}

void pool_template_drop(struct pool_template *t) {
  struct mf_pool *pool = t->pool;
  list_each(it, &pool->workers) {
    struct worker *w = list_entry(it, struct worker, link);
    if (w->template == t)
      w->template = NULL;
  }
  policy_drop_source(&pool->policy, t->source);
  mf_close(leave_process(t), NULL, NULL);
  template_free(t);
}

int pool_has_template(const struct mf_pool *pool, const mf_process *p) {
  list_each(it, &pool->templates) {
    if (list_entry(it, struct pool_template, link)->process == p)
      return 1;
  }
  return 0;
}

/* ---- the end ---- */

static void on_template_end(mf_process *p, const mf_exit *exit, void *data) {
  struct pool_template *t = data;
  t->waits = 0;
  pool_schedule(t->pool);
}

/* Clones that were in threads of it before it was the pool's run on as long as they like. */
static void on_left(void *data) {
  struct pool_template *t = data;
  t->waits = 0;
  pool_schedule(t->pool);
}

/* Somebody wants to know how it ends: so it is told to, and closed afterwards (a close
 * forgets who asked). A process that is told to end has ended within its grace, unless
 * threads run on in it: then its end is not waited for. */
static int is_awaited(struct pool_template *t) {
  struct mf_process *p = t->process;
  if (!p->exit_to.cb || p->state == DEAD || t->asked)
    return t->waits;
  t->asked = 1;
  if (mf_finish(p) < 0)
    return 0;
  t->waits = p->ending != END_BY_THREADS;
  process_hook_exit(p, on_template_end, t);
  p->threads_hook.cb = on_left;
  p->threads_hook.data = t;
  return t->waits;
}

int pool_awaits_templates(struct mf_pool *pool) {
  int waits = 0;
  list_each(it, &pool->templates) {
    waits |= is_awaited(list_entry(it, struct pool_template, link));
  }
  return waits;
}

void pool_finish_templates(struct mf_pool *pool) {
  list_each(it, &pool->templates) {
    mf_finish(list_entry(it, struct pool_template, link)->process);
  }
}

void pool_close_templates(struct mf_pool *pool, mf_close_cb cb) {
  list_each(it, &pool->templates) {
    pool->nclosing++;
  }
  list_each_safe(it, next, &pool->templates) {
    struct pool_template *t = list_entry(it, struct pool_template, link);
    process_hook_exit(t->process, NULL, NULL);
    mf_close(leave_process(t), cb, pool);
    template_free(t);
  }
}

void pool_free_templates(struct mf_pool *pool) {
  list_each_safe(it, next, &pool->templates) {
    template_free(list_entry(it, struct pool_template, link));
  }
}

/* ---- starts ---- */

/* No worker of it any more; the pool has failed when that was the last one. */
static void fail_at(const char *origin, struct pool_template *t, int code,
                    const char *message, const char *traceback) {
  failure_set(&t->pool->failure, code, message, traceback);
  failure_set_origin(&t->pool->failure, origin);
  policy_fail_source(&t->pool->policy, t->source);
}

#define fail(...) fail_at(ORIGIN, __VA_ARGS__)

static void fail_like_process(struct pool_template *t) {
  mf_error e;
  failure_tell(t->process->error, &e);
  pool_keep_failure(&t->pool->failure, &e, t->process->error->origin);
  policy_fail_source(&t->pool->policy, t->source);
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
static int provide_process(struct pool_template *t) {
  struct mf_pool *pool = t->pool;
  struct policy *policy = &pool->policy;
  const struct mf_process *p = t->process;
  mf_process *fresh;
  int r;
  if (pool_template_is_usable(t))
    return 1;
  if (failed_by_itself(p) || (p->fork_refused && p->error && !t->journal)) {
    fail_like_process(t);
    return 0;
  }
  if (!t->journal) {
    fail(t, MF_ETEMPLATE_DIED,
         "the template has ended and can't be started again: it was sent handles or more "
         "than 1 MiB, or its first process is a copy of the program or was taken up by "
         "from_fd",
         NULL);
    return 0;
  }
  if (p->fork_refused || !t->good)
    policy_death(policy, t->source, p->fork_refused ? !policy->nready : 1,
                 pool_now_ms(pool));
  if (policy_source_has_failed(policy, t->source)) {
    /* by templates that ended before they were of any use */
    fail(t, p->fork_refused && p->error ? p->error->code : MF_ETEMPLATE_START,
         p->error && p->error->message ? p->error->message : "the template has ended",
         NULL);
    return 0;
  }
  r = replay_journal(t->journal, pool->context, &fresh);
  if (r) {
    policy_death(policy, t->source, 1, pool_now_ms(pool));
    if (policy_source_has_failed(policy, t->source))
      fail(t, r, mf_strerror(r), NULL);
    return 0;
  }
  mf_close(leave_process(t), NULL, NULL);
  use_process(t, fresh);
  t->good = 0;
  pool->stats.template_starts++;
  if (trace_is_on())
    trace_mark(NULL, pool->backend->ops->now_us(pool->backend), "template restart",
               TRACE_ARGS(TRACE_TEXT("function", pool->function)));
  return 1;
}

static struct pool_template *find(struct mf_pool *pool, unsigned source) {
  list_each(it, &pool->templates) {
    struct pool_template *t = list_entry(it, struct pool_template, link);
    if (t->source == source)
      return t;
  }
  return NULL;
}

void pool_start_worker(struct mf_pool *pool, unsigned source) {
  struct pool_template *t = find(pool, source);
  struct worker *w;
  int r;
  if (!provide_process(t))
    return;
  r = pool_worker_new(pool, t->process, pool->nqueued ? "calls wait" : "idle", &w);
  if (!r) {
    w->template = t;
    if (pool_put_in_slot(w) == 0)
      return;
    pool_dismiss(w);
  }
  policy_death(&pool->policy, source, !pool->policy.nready, pool_now_ms(pool));
  if (pool->failure.code && !r)
    return;
  failure_set(&pool->failure, r ? r : MF_ENOMEM, NULL, NULL);
  failure_set_origin(&pool->failure, ORIGIN);
}

/* ---- its failure ---- */

void pool_report_failed_templates(struct mf_pool *pool) {
  unsigned left = pool_count_templates(pool);
  char text[1024];
  mf_error e;
  list_each(it, &pool->templates) {
    struct pool_template *t = list_entry(it, struct pool_template, link);
    if (t->told || !policy_source_has_failed(&pool->policy, t->source))
      continue;
    t->told = 1;
    if (!left || !pool->rpc_options.on_error)
      continue; /* the pool has failed: that is told */
    failure_tell(&pool->failure, &e);
    snprintf(text, sizeof text,
             "a template of the pool has failed, %u left; the last reason: %s", left,
             e.code ? e.message : "unknown");
    e.code = e.code ? e.code : MF_ECLONE_DIED;
    e.message = text;
    pool->rpc_options.on_error(&e, pool->rpc_options.data);
  }
}

unsigned pool_count_templates(const struct mf_pool *pool) {
  unsigned n = 0;
  list_each(it, &pool->templates) {
    const struct pool_template *t = list_entry(it, struct pool_template, link);
    n += !policy_source_has_failed(&pool->policy, t->source);
  }
  return n;
}
