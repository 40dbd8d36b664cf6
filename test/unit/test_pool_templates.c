/* A pool on a world without a kernel: its templates, and how they are replaced. */
#include "unit.h"

#include "help/far.h"
#include "parent/common/fork_watch.h"
#include "parent/common/times.h"
#include "parent/pool/pool_record.h"
#include "parent/process/registry.h"
#include "parent/rpc/rpc.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "pool_kit.h"
#include <signal.h>
#include <stdlib.h>

static void test_init_that_fails_makes_the_pool_fail_until_reload(void **state) {
  options.max = 1;
  options.restart_burst = 2;
  options.restart_period_ms = 100000;
  far->slow_hello = 1;
  begin();
  ask("a", 0);
  for (int i = 0; i < 20; i++) {
    if (far_worker(far, 0))
      far_fail(far, far_worker(far, 0));
    far_advance(far, 100);
  }
  assert_int_equal(stats().state, MF_POOL_FAILED);
  assert_int_equal(stats().started, 3);
  assert_int_equal(call[0].code, MF_EREMOTE);
  assert_int_equal(call[0].started, MF_STARTED_NO);
  assert_int_equal(ask("b", 0), 0);
  far_run(far);
  assert_int_equal(call[1].code, MF_EREMOTE);
  far->slow_hello = 0;
  assert_int_equal(mf_pool_reload(pool, make_template(), on_reloaded, NULL), 0);
  far_run(far);
  assert_int_equal(reloads, 1);
  assert_int_equal(reload_code, 0);
  ask("c", 0);
  far_run(far);
  answer_all();
  assert_int_equal(call[2].code, 0);
}

/* What a pool has kept of a worker's error says where that was made. */
static void test_a_failure_knows_where_it_was_made(void **state) {
  static const char made[] = "answers.c:";
  far->slow_hello = 1;
  options.max = 1;
  options.restart_burst = 0;
  begin();
  ask("waits", 0);
  far_run(far);
  far_fail(far, far_worker(far, 0));
  far_advance(far, POOL_BACKOFF_MIN_MS);
  assert_int_equal(stats().state, MF_POOL_FAILED);
  assert_non_null(pool->failure.origin);
  assert_memory_equal(pool->failure.origin, made, sizeof made - 1);
}

static void test_reload_that_fails_changes_nothing(void **state) {
  begin();
  ask("a", 0);
  far_run(far);
  far->broken_loads = 1;
  assert_int_equal(mf_pool_reload(pool, make_template(), on_reloaded, NULL), 0);
  far_run(far);
  assert_int_equal(reloads, 1);
  assert_int_equal(reload_code, MF_EREMOTE);
  answer_all();
  ask("b", 0);
  far_run(far);
  answer_all();
  assert_int_equal(call[0].code + call[1].code, 0);
  assert_int_equal(stats().started, 2); /* the first worker, and the trial */
  assert_int_equal(errors, 0);
}

static void test_reload_replaces_workers_and_loses_nothing(void **state) {
  struct far_node *old;
  begin();
  ask("a", 0);
  far_run(far);
  old = far_worker(far, 0);
  assert_int_equal(mf_pool_reload(pool, make_template(), on_reloaded, NULL), 0);
  far_run(far);
  assert_int_equal(reloads, 1);
  assert_true(old->ended);
  ask("b", 0);
  far_run(far);
  assert_int_equal(old->ncalls, 1);
  answer_all();
  assert_int_equal(call[0].code + call[1].code, 0);
  assert_int_equal(old->kind, FAR_DEAD);
}

/* The last one counts; whoever asked before is told that it was cancelled. */
static void test_a_later_reload_takes_the_place_of_the_one_under_way(void **state) {
  mf_process *third;
  begin();
  ask("a", 0);
  far_run(far);
  assert_int_equal(mf_pool_reload(pool, make_template(), on_reloaded, NULL), 0);
  assert_int_equal(mf_pool_reload(pool, make_template(), on_reloaded, NULL), 0);
  third = make_template();
  assert_int_equal(mf_pool_reload(pool, third, on_reloaded, NULL), 0);
  assert_int_equal(mf_pool_reload(pool, third, on_reloaded, NULL), MF_ESTATE);
  assert_int_equal(mf_pool_reload(pool, NULL, on_reloaded, NULL), MF_EINVAL);
  assert_int_equal(reloads, 0); /* never inside of the call */
  far_run(far);
  assert_int_equal(reloads, 3);
  assert_int_equal(reload_code, 0); /* the last of them */
  assert_int_equal(stats().reloads, 1);
  answer_all();
}

static void test_reloads_that_wait_are_told_when_the_pool_ends(void **state) {
  begin();
  assert_int_equal(mf_pool_reload(pool, make_template(), on_reloaded, NULL), 0);
  assert_int_equal(mf_pool_reload(pool, make_template(), on_reloaded, NULL), 0);
  assert_int_equal(mf_pool_drain(pool, MF_NO_TIMEOUT, NULL, NULL), 0);
  far_run(far);
  assert_int_equal(reloads, 2);
  assert_int_equal(reload_code, MF_ECANCELLED);
}

static int nevals;

static void on_evaluated(struct far *f, struct far_node *n, const char *code,
                         size_t length) {
  nevals++;
  assert_memory_equal(code, "code", length);
}

static void test_template_that_dies_is_started_again(void **state) {
  nevals = 0;
  far->on_evaluated = on_evaluated;
  begin();
  ask("a", 0);
  far_run(far);
  far_die(far, far->node[0], SIGKILL); /* the template */
  far_die(far, far_worker(far, 0), SIGKILL);
  far_run(far);
  ask("b", 0);
  far_advance(far, 1000);
  answer_all();
  assert_int_equal(call[0].code, MF_ECLONE_DIED);
  assert_int_equal(call[1].code, 0);
  assert_int_equal(stats().template_starts, 1);
  assert_int_equal(nevals, 2);
}

static void test_template_with_too_much_is_not(void **state) {
  mf_process *t = make_template();
  char *big = calloc(1, 1024 * 1024 + 1);
  assert_int_equal(mf_send_arg(t, big, 1024 * 1024 + 1), 0);
  free(big);
  assert_int_equal(mf_pool_new(t, "f", &options, &pool), 0);
  ask("a", 0);
  far_run(far);
  far_die(far, far->node[0], SIGKILL);
  far_run(far);
  answer_all(); /* living workers go on */
  assert_int_equal(call[0].code, 0);
  far_die(far, far_worker(far, 0), SIGKILL);
  far_run(far);
  ask("b", 0);
  far_advance(far, 1000);
  assert_int_equal(call[1].code, MF_ETEMPLATE_DIED);
  assert_int_equal(stats().state, MF_POOL_FAILED);
}

/* The template never answers: its workers do not even exist. */
static void test_the_end_with_a_template_that_hangs(void **state) {
  for (int how = 0; how < 3; how++) {
    if (how) {
      ncalls = drained = gone = 0;
      memset(call, 0, sizeof call);
    }
    options.grace_ms = 700;
    far->deaf = 1;
    begin();
    ask("a", 0);
    far_run(far);
    if (how == 0)
      assert_int_equal(mf_pool_drain(pool, 500, on_drained, NULL), 0);
    else if (how == 1)
      mf_pool_close(pool, on_gone, NULL);
    else
      mf_pool_abort(pool);
    far_advance(far, how == 0 ? 500 : how == 1 ? 700 : 0);
    assert_int_equal(call[0].code, how == 0 ? MF_ETIMEOUT : MF_ECANCELLED);
    assert_int_equal(call[0].started, MF_STARTED_NO);
    far_advance(far, KILL_TIMEOUT_MS);
    if (how == 0)
      assert_int_equal(drain_code, MF_ETIMEOUT);
    if (how != 1)
      mf_pool_close(pool, on_gone, NULL);
    far_advance(far, CLOSE_GRACE_MS);
    far_run(far);
    assert_int_equal(gone, 1);
    far->deaf = 0;
    far_run(far);
  }
  gone = 0;
  begin(); /* for the end of the story */
}

/* In a pool that goes on, nobody else gives up a worker whose end is not noticed: so long
 * after it was killed. */
static void test_the_end_of_a_worker_that_is_not_noticed(void **state) {
  options.max = 1;
  options.grace_ms = 700;
  options.max_calls = 1;
  begin();
  ask("a", 0);
  far_run(far);
  struct far_node *worker = far_worker(far, 0);
  void (*on_kill)(struct sim *, int, int) = sim->on_kill;
  sim->on_kill = NULL;
  far_result(far, worker, 0, "A");
  far->deaf = 1;
  far_run(far);
  assert_int_equal(call[0].code, 0);
  far_advance(far, 699);
  assert_int_equal(list_entry(pool->workers.next, struct worker, link)->slain, 0);
  far_advance(far, 1);
  assert_int_equal(list_entry(pool->workers.next, struct worker, link)->slain, 1);
  far_advance(far, KILL_TIMEOUT_MS - 1);
  assert_false(list_empty(&pool->workers));
  far_advance(far, 1);
  assert_true(list_empty(&pool->workers));
  far_die(far, worker, SIGKILL);
  sim->on_kill = on_kill;
  far->deaf = 0;
  far_run(far);
}

/* The i-th template that lives. */
static struct far_node *template_node(int i) {
  for (int k = 0; k < far->n; k++)
    if (far->node[k]->kind == FAR_TEMPLATE && i-- == 0)
      return far->node[k];
  return NULL;
}

static int workers_of(const struct far_node *t) {
  int n = 0;
  for (int i = 0; far_worker(far, i); i++)
    n += far->node[far_worker(far, i)->parent] == t;
  return n;
}

static void test_workers_come_from_all_templates(void **state) {
  options.max = options.idle = 4;
  begin();
  assert_int_equal(workers_of(template_node(0)), 4);
  assert_int_equal(mf_pool_add(pool, make_template(), on_reloaded, NULL), 0);
  assert_int_equal(reloads, 0);
  far_run(far);
  assert_int_equal(reloads, 1);
  assert_int_equal(reload_code, 0);
  assert_int_equal(stats().templates, 2);
  assert_int_equal(workers_of(template_node(0)), 3); /* one went for the first of it */
  assert_int_equal(workers_of(template_node(1)), 1);
  far_die(far, far_worker(far, 0), SIGSEGV);
  far_advance(far, 5000);
  assert_int_equal(workers_of(template_node(0)), 2);
  assert_int_equal(workers_of(template_node(1)), 2);
  for (int i = 0; i < 8; i++)
    ask("x", 0);
  far_run(far);
  answer_all();
  for (int i = 0; i < 8; i++)
    assert_int_equal(call[i].code, 0);
  assert_int_equal(errors, 1);
}

static void test_an_addition_that_fails_changes_nothing(void **state) {
  begin();
  far->broken_loads = 1;
  assert_int_equal(mf_pool_add(pool, make_template(), on_reloaded, NULL), 0);
  far_run(far);
  assert_int_equal(reloads, 1);
  assert_int_equal(reload_code, MF_EREMOTE);
  assert_int_equal(stats().templates, 1);
  assert_int_equal(errors, 0);
  ask("a", 0);
  far_run(far);
  answer_all();
  assert_int_equal(call[0].code, 0);
}

static void test_additions_wait_for_each_other_and_a_reload_ends_them(void **state) {
  mf_process *twice = make_template();
  begin();
  assert_int_equal(mf_pool_add(pool, make_template(), on_reloaded, NULL), 0);
  assert_int_equal(mf_pool_add(pool, twice, on_reloaded, NULL), 0);
  assert_int_equal(mf_pool_add(pool, twice, on_reloaded, NULL), MF_ESTATE);
  far_run(far);
  assert_int_equal(reloads, 2);
  assert_int_equal(reload_code, 0);
  assert_int_equal(stats().templates, 3);
  assert_int_equal(mf_pool_add(pool, twice, on_reloaded, NULL), MF_ESTATE);
  assert_int_equal(mf_pool_add(pool, make_template(), on_reloaded, NULL), 0);
  assert_int_equal(mf_pool_add(pool, make_template(), on_reloaded, NULL), 0);
  assert_int_equal(mf_pool_reload(pool, make_template(), on_reloaded, NULL), 0);
  assert_int_equal(mf_pool_add(pool, make_template(), on_reloaded, NULL), 0);
  far_run(far);
  assert_int_equal(reloads, 6);
  assert_int_equal(reload_code, 0);
  assert_int_equal(stats().templates, 2); /* the reload's, and the one after it */
  assert_int_equal(stats().reloads, 1);
  assert_int_equal(mf_pool_drain(pool, MF_NO_TIMEOUT, NULL, NULL), 0);
  twice = make_template();
  assert_int_equal(mf_pool_add(pool, twice, on_reloaded, NULL), MF_ECLOSED);
  mf_close(twice, NULL, NULL);
}

/* A template that dies is started again; its workers, and the others, live on. */
static void test_one_of_two_templates_dies(void **state) {
  struct far_node *second;
  options.max = options.idle = 2;
  begin();
  assert_int_equal(mf_pool_add(pool, make_template(), on_reloaded, NULL), 0);
  far_run(far);
  second = template_node(1);
  ask("a", 0);
  ask("b", 0);
  far_run(far);
  answer_all(); /* they are good: replaced at once */
  assert_int_equal(workers_of(template_node(0)), 1);
  assert_int_equal(workers_of(second), 1);
  far_die(far, second, SIGKILL);
  far_run(far);
  assert_int_equal(workers_of(second), 1);
  for (int i = 0; far_worker(far, i); i++)
    if (far->node[far_worker(far, i)->parent] == second)
      far_die(far, far_worker(far, i), SIGKILL);
  far_advance(far, 1000);
  far_advance(far, 1000);
  assert_int_equal(stats().template_starts, 1);
  assert_int_equal(stats().templates, 2);
  assert_int_equal(workers_of(template_node(0)), 1);
  assert_int_equal(workers_of(template_node(1)), 1);
}

/* Its workers crash at once: it fails, and is told of once; the other one does all. */
static void test_one_of_two_templates_fails(void **state) {
  struct far_node *bad;
  options.restart_burst = 1;
  begin();
  assert_int_equal(mf_pool_add(pool, make_template(), on_reloaded, NULL), 0);
  far_run(far);
  bad = template_node(1);
  assert_int_equal(mf_pool_resize(pool, 4), 0);
  for (int i = 0; i < 8; i++)
    ask("x", 0);
  for (int i = 0; i < 4; i++)
    far_advance(far, 100);
  assert_int_equal(workers_of(bad), 2);
  while (workers_of(bad))
    for (int i = 0; far_worker(far, i); i++)
      if (far->node[far_worker(far, i)->parent] == bad)
        far_die(far, far_worker(far, i), SIGSEGV);
  far_advance(far, 1000);
  assert_int_equal(stats().templates, 1);
  assert_int_equal(stats().state, MF_POOL_RUNNING);
  assert_int_equal(errors, 2 + 1);
  for (int i = 0; i < 4; i++)
    far_advance(far, 1000);
  assert_int_equal(workers_of(bad), 0);
  answer_all();
  answer_all();
  for (int i = 0, failed = 0; i < 8; i++) {
    failed += call[i].code != 0; /* those that the two were at */
    assert_true(call[i].told && failed <= 2);
  }
}

/* As a reload, it ends the failed state; the old template stays out of use. */
static void test_an_addition_to_a_failed_pool(void **state) {
  options.max = 1;
  options.restart_burst = 0;
  begin();
  ask("a", 0);
  far_run(far);
  far_die(far, far_worker(far, 0), SIGSEGV);
  far_run(far);
  assert_int_equal(stats().state, MF_POOL_FAILED);
  assert_int_equal(stats().templates, 0);
  assert_int_equal(mf_pool_add(pool, make_template(), on_reloaded, NULL), 0);
  far_run(far);
  assert_int_equal(reload_code, 0);
  assert_int_equal(stats().state, MF_POOL_RUNNING);
  assert_int_equal(stats().templates, 1);
  ask("b", 0);
  far_run(far);
  answer_all();
  assert_int_equal(call[1].code, 0);
}

/* The copy of the worker that has answered most is the template of the next ones; the
 * worker goes on. */
static void test_promotion(void **state) {
  struct far_node *best, *copy;
  options.max = options.idle = 2;
  begin();
  for (int i = 0; i < 4; i++)
    ask("x", 0);
  far_run(far);
  best = far_worker(far, 1);
  far_result(far, best, 0, "ok");
  far_run(far);
  assert_int_equal(mf_pool_promote(pool, on_reloaded, NULL), 0);
  assert_int_equal(reloads, 0);
  far_run(far);
  assert_int_equal(reloads, 1);
  assert_int_equal(reload_code, 0);
  assert_int_equal(stats().promotions, 1);
  assert_int_equal(stats().templates, 1);
  assert_int_equal(stats().workers, 2);
  copy = template_node(0); /* the only one: the old template has ended */
  assert_null(template_node(1));
  assert_ptr_equal(far->node[copy->parent], best);
  answer_all();
  answer_all();
  for (int i = 0; i < 4; i++)
    assert_int_equal(call[i].code, 0);
  far_die(far, far_worker(far, 0), SIGSEGV);
  far_advance(far, 1000);
  assert_int_equal(workers_of(copy), 1);
}

/* It is started again as the original was: its commands are known, its warmth is not. */
static void test_a_promoted_template_that_dies(void **state) {
  options.max = options.idle = 1;
  begin();
  ask("x", 0);
  far_run(far);
  answer_all();
  assert_int_equal(mf_pool_promote(pool, on_reloaded, NULL), 0);
  far_run(far);
  assert_int_equal(reload_code, 0);
  far_die(far, template_node(0), SIGKILL);
  far_run(far);
  far_die(far, far_worker(far, 0), SIGKILL);
  far_advance(far, 1000);
  assert_int_equal(stats().template_starts, 1);
  assert_int_equal(template_node(0)->parent, -1);
  assert_int_equal(workers_of(template_node(0)), 1);
}

static void test_promotions_that_fail_change_nothing(void **state) {
  struct far_node *template, *worker;
  begin();
  template = template_node(0);
  assert_int_equal(mf_pool_promote(pool, on_reloaded, NULL), 0);
  far_run(far);
  assert_int_equal(reloads, 1);
  assert_int_equal(reload_code, MF_EFORK_FAILED); /* no worker */
  ask("a", 0);
  far_run(far);
  worker = far_worker(far, 0);
  far->fork_failures = 1;
  assert_int_equal(mf_pool_promote(pool, on_reloaded, NULL), 0);
  far_run(far);
  assert_int_equal(reloads, 2);
  assert_int_equal(reload_code, MF_EFORK_FAILED);
  far->deaf = 1; /* it dies before it gets to it */
  assert_int_equal(mf_pool_promote(pool, on_reloaded, NULL), 0);
  far_run(far);
  far_die(far, worker, SIGKILL);
  far->deaf = 0;
  for (int i = 0; i < 10; i++)
    far_advance(far, 500);
  assert_int_equal(reloads, 3);
  assert_true(reload_code < 0);
  assert_int_equal(stats().promotions, 0);
  assert_ptr_equal(template_node(0), template);
  ask("b", 0);
  far_run(far);
  assert_int_equal(workers_of(template), 1);
  answer_all();
  assert_int_equal(call[1].code, 0);
}

static void test_promotion_and_the_end(void **state) {
  options.idle = 1;
  begin();
  far->deaf = 1;
  assert_int_equal(mf_pool_promote(pool, on_reloaded, NULL), 0);
  assert_int_equal(mf_pool_promote(pool, on_reloaded, NULL), 0);
  far_run(far);
  assert_int_equal(mf_pool_drain(pool, 1000, on_drained, NULL), 0);
  far_run(far);
  assert_int_equal(reloads, 2);
  assert_int_equal(reload_code, MF_ECANCELLED);
  assert_int_equal(mf_pool_promote(pool, on_reloaded, NULL), MF_ECLOSED);
  far->deaf = 0;
  far_advance(far, 100);
  assert_int_equal(drained, 1);
  assert_int_equal(drain_code, 0);
}

/* The pool does not wait for its copy; the memory for that one's number waits as long as
 * the worker lives. */
static void test_promotion_of_a_worker_that_never_ends(void **state) {
  options.idle = 1;
  begin();
  far->deaf = 1;
  struct far_node *worker = far_worker(far, 0);
  void (*on_kill)(struct sim *, int, int) = sim->on_kill;
  sim->on_kill = NULL;
  assert_int_equal(mf_pool_promote(pool, on_reloaded, NULL), 0);
  far_run(far);
  mf_pool_abort(pool);
  far_run(far);
  assert_int_equal(reload_code, MF_ECANCELLED);
  mf_pool_close(pool, on_gone, NULL);
  for (int i = 0; i < 10; i++)
    far_advance(far, 1000);
  assert_int_equal(gone, 1);
  far_die(far, worker, SIGKILL);
  far->deaf = gone = 0;
  sim->on_kill = on_kill;
  far_run(far); /* its template ends, too */
  begin();      /* for the end of the story, and so that somebody looks */
  assert_true(list_empty(&registry_of(context)->children.pending));
}

/* With several templates the copy takes the place of its own. */
static void test_promotion_with_two_templates(void **state) {
  struct far_node *first, *second, *worker = NULL;
  options.max = options.idle = 2;
  begin();
  assert_int_equal(mf_pool_add(pool, make_template(), on_reloaded, NULL), 0);
  far_run(far);
  first = template_node(0);
  second = template_node(1);
  for (int i = 0; i < 2; i++)
    ask("x", 0);
  far_run(far);
  for (int i = 0; i < 2; i++)
    if (far->node[far_worker(far, i)->parent] == second)
      worker = far_worker(far, i);
  far_result(far, worker, 0, "ok");
  far_run(far);
  assert_int_equal(mf_pool_promote(pool, on_reloaded, NULL), 0);
  far_run(far);
  assert_int_equal(reload_code, 0);
  assert_int_equal(stats().templates, 2);
  assert_int_equal(first->kind, FAR_TEMPLATE);
  assert_int_equal(second->kind, FAR_DEAD);
  answer_all();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      STORY(test_init_that_fails_makes_the_pool_fail_until_reload),
      STORY(test_a_failure_knows_where_it_was_made),
      STORY(test_reload_that_fails_changes_nothing),
      STORY(test_reload_replaces_workers_and_loses_nothing),
      STORY(test_a_later_reload_takes_the_place_of_the_one_under_way),
      STORY(test_reloads_that_wait_are_told_when_the_pool_ends),
      STORY(test_template_that_dies_is_started_again),
      STORY(test_template_with_too_much_is_not),
      STORY(test_the_end_with_a_template_that_hangs),
      STORY(test_the_end_of_a_worker_that_is_not_noticed),
      STORY(test_workers_come_from_all_templates),
      STORY(test_an_addition_that_fails_changes_nothing),
      STORY(test_additions_wait_for_each_other_and_a_reload_ends_them),
      STORY(test_one_of_two_templates_dies),
      STORY(test_one_of_two_templates_fails),
      STORY(test_an_addition_to_a_failed_pool),
      STORY(test_promotion),
      STORY(test_a_promoted_template_that_dies),
      STORY(test_promotions_that_fail_change_nothing),
      STORY(test_promotion_and_the_end),
      STORY(test_promotion_of_a_worker_that_never_ends),
      STORY(test_promotion_with_two_templates),
  };
  return cmocka_run_group_tests_name("pool templates", tests, NULL, NULL);
}
