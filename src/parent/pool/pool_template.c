/* The template that workers are forked from. One that has ended is started again from its
 * journal, as often as the policy allows. */
#include "parent/pool/pool_template.h"

#include "parent/pool/pool_worker.h"
#include "parent/private.h"

/* In a forked copy: the descriptors of requests. The workers' rpcs see to theirs. */
static void close_in_copy(void *guest) {
  struct mf_pool *pool = guest;
  for (size_t i = 0; i < pool->requests.ids.size; i++) {
    const struct request *r = pool->requests.ids.slots[i].value;
    if (r && r->payload)
      payload_close(r->payload);
  }
}

void pool_use_template(struct mf_pool *pool, mf_process *t) {
  pool->template = t;
  t->forked_hook.close = close_in_copy;
  t->forked_hook.guest = pool;
  deadline_clear(&t->limit); /* as a fork from it would, which may come much later */
}

mf_process *pool_leave_template(struct mf_pool *pool) {
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
  pool_keep_failure(&pool->failure, &e);
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
  if (pool_template_is_usable(pool))
    return 1;
  if (failed_by_itself(t)) {
    fail_like_template(pool, t);
    return 0;
  }
  if (t->fork_refused && t->error && !pool->journal) {
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
  if (t->fork_refused || !pool->template_good)
    policy_death(&pool->policy, t->fork_refused ? !pool->policy.nready : 1,
                 pool_now_ms(pool));
  if (pool->policy.failed) { /* by templates that ended before they were of any use */
    fail_pool(pool, t->fork_refused && t->error ? t->error->code : MF_ETEMPLATE_START,
              t->error && t->error->message ? t->error->message
                                            : "the template has ended",
              NULL);
    return 0;
  }
  r = journal_replay(pool->journal, pool->context, &fresh);
  if (r) {
    policy_death(&pool->policy, 1, pool_now_ms(pool));
    if (pool->policy.failed)
      fail_pool(pool, r, mf_strerror(r), NULL);
    return 0;
  }
  mf_close(pool_leave_template(pool), NULL, NULL);
  pool_use_template(pool, fresh);
  pool->template_good = 0;
  pool->stats.template_starts++;
  return 1;
}

void pool_start_worker(struct mf_pool *pool) {
  struct worker *w;
  int r;
  if (!provide_template(pool))
    return;
  r = pool_worker_new(pool, pool->template, pool->nqueued ? "calls wait" : "idle", &w);
  if (!r && pool_put_in_slot(w) == 0)
    return;
  if (!r)
    pool_dismiss(w);
  policy_death(&pool->policy, !pool->policy.nready, pool_now_ms(pool));
  if (!pool->failure.code || r)
    failure_set(&pool->failure, r ? r : MF_ENOMEM, NULL, NULL);
}
