/* A pool on a world without a kernel: one story for each promise that the random
 * schedules of test_pool_sim.c can't tell from its opposite. */
#include "help/far.h"
#include "parent/common/fork_watch.h"
#include "parent/common/times.h"
#include "parent/pool/pool_record.h"
#include "parent/process/registry.h"
#include "parent/rpc/rpc.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "unit.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { CALLS = 64 };

struct outcome {
  int told, code, started;
  char text[64];
};

static struct sim *sim;
static struct far *far;
static struct context *context;
static mf_pool *pool;
static mf_pool_options options;
static mf_rpc_options rpc_options;
static struct outcome call[CALLS];
static uint64_t id[CALLS];
static char news[1000]; /* what on_worker was told */
static int ncalls, errors, closes, gone, reloads, reload_code, drained, drain_code;

static void on_error(const mf_error *e, void *data) {
  errors++;
}

static void on_close(void *data) {
  closes++;
}

static void on_reply(const mf_error *e, const mf_message *m, void *data) {
  struct outcome *o = data;
  assert_int_equal(o->told, 0);
  o->told = 1;
  o->code = e ? e->code : 0;
  o->started = e ? e->started : -1;
  snprintf(o->text, sizeof o->text, "%.*s", m ? (int)m->length : 60,
           m ? (const char *)m->data : e->message);
}

static void on_reloaded(mf_pool *p, const mf_error *e, void *data) {
  reloads++;
  reload_code = e ? e->code : 0;
}

static void on_drained(mf_pool *p, const mf_error *e, void *data) {
  drained++;
  drain_code = e ? e->code : 0;
}

static void on_worker(int event, int pid, const char *reason, void *data) {
  static const char *const events[] = {"started", "ended", "killed", "recycled"};
  size_t at = strlen(news);
  assert_ptr_equal(data, &options);
  snprintf(news + at, sizeof news - at, "%s: %s\n", events[event], reason);
}

static void on_gone(mf_pool *p, void *data) {
  gone++;
}

static mf_process *make_template(void) {
  mf_process *t;
  assert_int_equal(boot_exec(context, NULL, &t), 0);
  assert_int_equal(mf_eval(t, "code", 4, 0, NULL, NULL), 0);
  return t;
}

static int prepare(void **state) {
  sim = sim_new();
  far = far_new(sim);
  context = registry_new_on(&sim->backend);
  context->generation = fork_generation();
  context_start(context);
  mf_pool_options_init(&options);
  mf_rpc_options_init(&rpc_options);
  rpc_options.on_error = on_error;
  rpc_options.on_close = on_close;
  options.rpc = &rpc_options;
  options.max = 2;
  options.on_worker = on_worker;
  options.worker_data = &options;
  *news = 0;
  memset(call, 0, sizeof call);
  ncalls = errors = closes = gone = reloads = reload_code = drained = drain_code = 0;
  return 0;
}

static void begin(void) {
  context_start(context); /* it leaves the loop with a story's first pool */
  assert_int_equal(mf_pool_new(make_template(), "f", &options, &pool), 0);
  far_run(far);
}

static int ask(const char *text, int idempotent) {
  mf_message m = {text, strlen(text), NULL, 0};
  mf_call_options o = MF_CALL_OPTIONS_INIT;
  int r;
  o.idempotent = idempotent;
  r = mf_pool_call(pool, &m, &o, on_reply, &call[ncalls], &id[ncalls]);
  if (r == 0)
    ncalls++;
  return r;
}

static void answer_all(void) {
  struct far_node *w;
  for (int i = 0; (w = far_worker(far, i)); i++)
    while (w->ncalls && w->ready)
      far_result(far, w, 0, "ok");
  far_run(far);
}

static mf_pool_info stats(void) {
  mf_pool_info s = {.size = sizeof s};
  assert_int_equal(mf_pool_stats(pool, &s), 0);
  return s;
}

static int finish(void **state) {
  mf_pool_close(pool, on_gone, NULL);
  for (int i = 0; i < 30; i++) {
    answer_all();
    far_advance(far, 1000);
  }
  assert_int_equal(gone, 1);
  for (int i = 0; i < ncalls; i++)
    assert_int_equal(call[i].told, 1);
  assert_int_equal(context->nopen, 0);
  assert_int_equal(context->nbusy, 0);
  assert_false(sim->started);
  assert_true(list_empty(&registry_of(context)->children.unborn));
  default_close(context);
  far_free(far);
  assert_int_equal(sim_free(sim), 0);
  return 0;
}

#define STORY(name) cmocka_unit_test_setup_teardown(name, prepare, finish)

/* ---- stories ---- */

static void test_workers_come_one_by_one(void **state) {
  static const unsigned expected[] = {1, 2, 3, 4, 4};
  options.max = 4;
  options.start_ms = 200;
  begin();
  for (int i = 0; i < 20; i++)
    ask("slow", 0);
  far_run(far);
  for (size_t i = 0; i < COUNT(expected); i++) {
    assert_int_equal(stats().workers, expected[i]);
    far_advance(far, 200);
  }
  assert_int_equal(stats().running, 8);
  assert_int_equal(stats().queued, 12);
}

static void test_idle_workers_are_there_from_the_start(void **state) {
  options.idle = 2;
  begin();
  assert_int_equal(far_nworkers(far), 2);
}

static void test_what_a_dead_worker_had_not_entered_goes_on(void **state) {
  options.max = 1;
  options.load = 3;
  begin();
  ask("first", 0);
  ask("second", 0);
  ask("third", 0);
  far_run(far);
  assert_int_equal(far_worker(far, 0)->ncalls, 3);
  far_die(far, far_worker(far, 0), SIGKILL);
  far_run(far);
  assert_int_equal(call[0].code, MF_ECLONE_DIED);
  assert_int_equal(call[0].started, MF_STARTED_UNKNOWN);
  assert_int_equal(call[1].told + call[2].told, 0);
  far_advance(far, POOL_BACKOFF_MIN_MS);
  assert_int_equal(far_worker(far, 0)->ncalls, 2);
  assert_memory_equal(&far_worker(far, 0)->word[0], "second", 6);
  answer_all();
  assert_int_equal(call[1].code, 0);
  assert_int_equal(errors, 1);
  assert_int_equal(stats().nlast, 1);
  assert_int_equal(stats().last[0].exit.signal, SIGKILL);
}

/* The number that mf_pool_call gives is the call's in every worker that gets it. */
static void test_a_call_has_one_number(void **state) {
  options.max = 1;
  options.load = 2;
  begin();
  ask("first", 0);
  ask("second", 1);
  far_run(far);
  assert_int_equal(far_worker(far, 0)->call[0], id[0]);
  assert_int_equal(far_worker(far, 0)->call[1], id[1]);
  far_die(far, far_worker(far, 0), SIGKILL);
  far_advance(far, POOL_BACKOFF_MIN_MS);
  assert_int_equal(far_worker(far, 0)->call[0], id[1]);
  answer_all();
  assert_int_equal(call[1].code, 0);
}

/* Numbers are the pool's: a worker may answer those of its own calls only. */
static void test_a_worker_answers_for_another_one(void **state) {
  options.idle = 2;
  begin();
  ask("one", 0);
  ask("two", 0);
  far_run(far);
  struct far_node *first = far_worker(far, 0), *second = far_worker(far, 1);
  far_say(far, first, RPC_RESULT, second->call[0], "stolen", 6);
  far_run(far);
  assert_int_equal(call[0].code, MF_EPROTOCOL);
  assert_int_equal(call[1].told, 0);
  far_result(far, second, 0, "ok");
  far_run(far);
  assert_int_equal(call[1].code, 0);
  assert_string_equal(call[1].text, "ok");
}

static void test_idempotent_calls_run_again_but_not_for_ever(void **state) {
  options.max = 1;
  begin();
  ask("poison", 1);
  for (int i = 0; i < 3; i++) {
    far_advance(far, 1000);
    assert_int_equal(call[0].told, 0);
    assert_int_equal(far_worker(far, 0)->ncalls, 1);
    far_die(far, far_worker(far, 0), SIGSEGV);
    far_run(far);
  }
  assert_int_equal(call[0].code, MF_ECLONE_DIED);
}

static void test_call_timeout_kills_and_replaces(void **state) {
  options.max = 1;
  options.call_timeout_ms = 100;
  begin();
  ask("stuck", 0);
  ask("innocent", 0);
  far_run(far);
  far_advance(far, 99);
  assert_int_equal(call[0].told, 0);
  far_advance(far, 1);
  assert_int_equal(call[0].code, MF_ETIMEOUT);
  assert_int_equal(call[1].told, 0);
  assert_int_equal(stats().killed, 1);
  answer_all();
  assert_int_equal(call[1].code, 0);
  assert_int_equal(errors, 0); /* we did it */
}

static void test_queue_has_a_limit_and_can_be_left(void **state) {
  options.max = 0;
  options.queue_max = 2;
  begin();
  assert_int_equal(ask("a", 0), 0);
  assert_int_equal(ask("b", 0), 0);
  assert_int_equal(ask("c", 0), MF_ELIMIT);
  assert_int_equal(mf_pool_cancel(pool, id[0]), 0);
  assert_int_equal(ask("c", 0), 0);
  far_run(far);
  assert_int_equal(call[0].code, MF_ECANCELLED);
  assert_int_equal(call[0].started, MF_STARTED_NO);
  mf_pool_resize(pool, 1);
  far_run(far);
  answer_all();
  assert_int_equal(call[1].code, 0);
  assert_int_equal(call[2].code, 0);
}

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

static void test_drain_waits_and_then_kills(void **state) {
  begin();
  ask("a", 0);
  far_run(far);
  assert_int_equal(mf_pool_drain(pool, 500, on_drained, NULL), 0);
  assert_int_equal(ask("b", 0), MF_ECLOSED);
  far_advance(far, 499);
  assert_int_equal(drained, 0);
  far_advance(far, 1);
  assert_int_equal(drained, 1);
  assert_int_equal(drain_code, MF_ETIMEOUT);
  assert_int_equal(call[0].code, MF_ECLONE_DIED);
}

/* The initialisers of moonfork.h repeat times of parent/common/times.h. */
static void test_default_times(void **state) {
  mf_pool_options o = MF_POOL_OPTIONS_INIT;
  mf_rpc_options r = MF_RPC_OPTIONS_INIT;
  assert_int_equal(o.grace_ms, CALLS_GRACE_MS);
  assert_int_equal(r.grace_ms, CALLS_GRACE_MS);
  assert_int_equal(o.backoff_min_ms, POOL_BACKOFF_MIN_MS);
  assert_int_equal(o.backoff_max_ms, POOL_BACKOFF_MAX_MS);
  begin(); /* for the end of the story */
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

static void test_close_goes_on_while_calls_are_answered(void **state) {
  options.grace_ms = 700;
  options.max = 1;
  begin();
  for (int i = 0; i < 4; i++)
    ask("a", 0);
  far_run(far);
  mf_pool_close(pool, on_gone, NULL);
  for (int i = 0; i < 4; i++) {
    far_advance(far, 600);
    assert_int_equal(call[i].told, 0);
    far_result(far, far_worker(far, 0), 0, "ok");
    far_run(far);
    assert_int_equal(call[i].code, 0);
  }
  far_run(far);
  assert_int_equal(gone, 1);
  assert_int_equal(closes, 1);
  ncalls = gone = closes = 0;
  begin();
}

/* It has no call, and its init may take for ever. */
static void test_a_drain_does_not_wait_for_a_worker_on_trial(void **state) {
  options.max = 1;
  begin();
  far->slow_hello = 1;
  assert_int_equal(mf_pool_reload(pool, make_template(), on_reloaded, NULL), 0);
  far_run(far);
  far->deaf = 1;
  assert_int_equal(mf_pool_drain(pool, MF_NO_TIMEOUT, on_drained, NULL), 0);
  far_advance(far, 1);
  assert_int_equal(reload_code, MF_ECANCELLED);
  far_advance(far, CLOSE_GRACE_MS - 2);
  assert_int_equal(drained, 0);
  far_advance(far, 2);
  assert_int_equal(drained, 1);
  assert_int_equal(drain_code, 0);
  assert_non_null(strstr(news, "killed: grace: told to end, it did not within 2000 ms"));
  far->deaf = 0;
}

static void test_drain_that_is_in_time(void **state) {
  begin();
  ask("a", 0);
  far_run(far);
  assert_int_equal(mf_pool_drain(pool, MF_NO_TIMEOUT, on_drained, NULL), 0);
  answer_all();
  assert_int_equal(drained, 1);
  assert_int_equal(drain_code, 0);
  assert_int_equal(call[0].code, 0);
  assert_int_equal(closes, 1);
}

static void test_retired_worker_finishes_and_is_replaced(void **state) {
  struct far_node *w;
  options.max = 1;
  begin();
  ask("a", 0);
  far_run(far);
  w = far_worker(far, 0);
  far_say(far, w, RPC_RETIRE, 0, NULL, 0);
  far_say(far, w, RPC_RETIRE, 0, NULL, 0);
  far_run(far);
  ask("b", 0);
  far_run(far);
  assert_int_equal(w->ncalls, 1);
  assert_int_equal(far_nworkers(far), 2);
  answer_all();
  assert_int_equal(call[0].code + call[1].code, 0);
  assert_int_equal(w->kind, FAR_DEAD);
  assert_int_equal(stats().retired, 1);
}

static void test_worker_that_does_not_end_in_its_grace(void **state) {
  struct far_node *w;
  options.max = 1;
  options.grace_ms = 300;
  begin();
  ask("a", 0);
  far_run(far);
  w = far_worker(far, 0);
  far_say(far, w, RPC_RETIRE, 0, NULL, 0);
  far_run(far);
  w->hello = 1;
  answer_all();
  assert_int_equal(w->kind, FAR_DEAD); /* this one left by itself */
  ask("b", 0);
  far_run(far);
  w = far_worker(far, 0);
  far->deaf = 1; /* the next hears nothing */
  far_say(far, w, RPC_RETIRE, 0, NULL, 0);
  far_result(far, w, 0, "ok");
  far_run(far);
  assert_int_equal(w->kind, FAR_WORKER);
  far_advance(far, 300);
  assert_int_equal(w->kind, FAR_DEAD);
  far->deaf = 0;
}

static void test_abort_cancels_everything(void **state) {
  begin();
  for (int i = 0; i < 10; i++)
    ask("x", 0);
  far_run(far);
  mf_pool_abort(pool);
  far_run(far);
  for (int i = 0; i < ncalls; i++)
    assert_int_equal(call[i].code, MF_ECANCELLED);
}

/* It was never told, and kept the loop alive. */
static void test_drain_of_a_pool_that_has_ended_is_told(void **state) {
  begin();
  ask("x", 0);
  far_run(far);
  mf_pool_abort(pool);
  for (int i = 0; i < 5; i++)
    far_advance(far, 1000);
  assert_int_equal(stats().state, MF_POOL_CLOSED);
  assert_int_equal(mf_pool_drain(pool, 1000, on_drained, NULL), 0);
  assert_int_equal(drained, 0);
  far_run(far);
  assert_int_equal(drained, 1);
  assert_int_equal(context->nbusy, 0);
  far_advance(far, 2000);
  assert_int_equal(drained, 1);
  assert_int_equal(mf_pool_drain(pool, 1000, on_drained, NULL), MF_ECLOSED);
  assert_int_equal(mf_pool_resize(pool, 1), MF_ECLOSED);
  assert_int_equal(ask("y", 0), MF_ECLOSED);
  far_run(far);
  assert_int_equal(drained, 1);
}

/* A worker with two calls is at the first; the second one's wait goes on. */
static void test_times_in_the_queue_and_in_workers(void **state) {
  mf_pool_worker w[2];
  options.max = 1;
  begin();
  ask("first", 0);
  ask("second", 0);
  ask("third", 0);
  far_run(far);
  far_advance(far, 100);
  far_result(far, far_worker(far, 0), 0, "ok");
  far_advance(far, 50);
  assert_int_equal(mf_pool_workers(pool, w, sizeof *w, 2), 1);
  assert_int_equal(w[0].pid, far_worker(far, 0)->pid);
  assert_int_equal(w[0].calls, 1);
  assert_int_equal(w[0].running, 2);
  assert_int_equal(w[0].run_us, 100000);
  far_result(far, far_worker(far, 0), 0, "ok");
  far_advance(far, 10);
  answer_all();
  assert_int_equal(stats().run_time.max_us, 100000);
  assert_in_range(stats().run_time.p50_us, 50000, 51562);
  assert_int_equal(stats().queue_time.max_us, 150000);
  assert_in_range(stats().queue_time.p50_us, 100000, 103125);
  mf_pool_workers(pool, w, sizeof *w, 2);
  assert_int_equal(w[0].run_us, 160000);
  assert_int_equal(w[0].run_time.max_us, 100000);
  assert_int_equal(w[0].calls, 3);
}

/* Those that are never started have waited longest. */
static void test_a_wait_that_is_given_up_is_a_wait(void **state) {
  options.max = 0;
  rpc_options.timeout_ms = 300;
  begin();
  ask("never", 0);
  far_advance(far, 300);
  assert_int_equal(call[0].code, MF_ETIMEOUT);
  assert_int_equal(stats().queue_time.max_us, 300000);
  assert_int_equal(stats().run_time.max_us, 0);
}

/* It was given up while it waited in a worker, which starts it all the same later. */
static void test_a_wait_ends_once(void **state) {
  options.max = 1;
  rpc_options.timeout_ms = 300;
  begin();
  ask("slow", 0);
  ask("behind it", 0);
  far_advance(far, 300);
  assert_int_equal(call[1].code, MF_ETIMEOUT);
  far_advance(far, 500);
  answer_all();
  assert_int_equal(stats().queue_time.max_us, 300000);
}

/* What waited behind the one that a worker died of was not at work there. */
static void test_a_death_ends_the_run_of_its_call_alone(void **state) {
  mf_pool_worker w;
  options.max = 1;
  begin();
  ask("first", 0);
  ask("second", 0);
  far_advance(far, 70);
  far_die(far, far_worker(far, 0), SIGKILL);
  far_run(far);
  assert_int_equal(stats().run_time.max_us, 70000);
  far_advance(far, 1000);
  far_advance(far, 5);
  answer_all();
  assert_int_equal(call[1].code, 0);
  assert_int_equal(mf_pool_workers(pool, &w, sizeof w, 1), 1);
  assert_int_equal(w.calls, 1);
  assert_true(w.run_us < 70000);
  assert_in_range(stats().run_time.p50_us, w.run_us, w.run_us + w.run_us / 32);
}

/* Told by the loop, never inside of the call that ends them. */
static void test_on_worker_is_told_of_starts_and_ends(void **state) {
  options.idle = 1;
  begin();
  assert_string_equal(news, "started: idle\n");
  ask("a", 0);
  ask("b", 0);
  ask("c", 0);
  *news = 0;
  far_advance(far, 100);
  assert_string_equal(news, "started: calls wait\n");
  *news = 0;
  far_die(far, far_worker(far, 0), SIGSEGV);
  far_run(far);
  assert_non_null(strstr(news, "ended: crash: "));
  assert_non_null(strstr(news, "signal 11"));
  *news = 0;
  mf_pool_abort(pool);
  assert_string_equal(news, "");
  far_run(far);
  assert_non_null(strstr(news, "killed: abort\n"));
}

/* One that is stopped while it starts has started all the same; one whose fork was
 * refused has not. */
static void test_on_worker_knows_no_worker_that_never_was(void **state) {
  options.restart_burst = 10;
  options.idle = 1;
  far->fork_failures = 1;
  begin();
  assert_string_equal(news, "");
  far->slow_hello = 1;
  far_advance(far, 1000);
  assert_string_equal(news, "");
  mf_pool_resize(pool, 0);
  far_run(far);
  assert_string_equal(news, "started: idle\nended: resize\n");
}

static void test_report_of_a_drain(void **state) {
  mf_drain_report r = {.size = sizeof r};
  options.max = 1;
  begin();
  for (int i = 0; i < 4; i++)
    ask("x", 0);
  far_run(far);
  far_result(far, far_worker(far, 0), 0, "ok");
  far_run(far);
  assert_int_equal(mf_pool_drain_report(pool, &r), MF_ESTATE);
  assert_int_equal(mf_pool_drain(pool, 500, on_drained, NULL), 0);
  far_result(far, far_worker(far, 0), 0, "ok");
  far_run(far);
  assert_int_equal(mf_pool_drain_report(pool, &r), 0);
  assert_int_equal(r.answered, 1);
  assert_int_equal(r.dropped + r.interrupted + r.killed, 0);
  far_advance(far, 500);
  assert_int_equal(drain_code, MF_ETIMEOUT);
  assert_int_equal(mf_pool_drain_report(pool, &r), 0);
  assert_int_equal(r.answered, 1);
  assert_int_equal(r.interrupted, 1);
  assert_int_equal(r.dropped, 1);
  assert_int_equal(r.killed, 1);
  assert_non_null(strstr(news, "killed: drain: its timeout was over\n"));
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

/* Nobody waits for its copy for ever: neither the pool, nor the memory for its number. */
static void test_promotion_of_a_worker_that_never_ends(void **state) {
  options.idle = 1;
  begin();
  far->deaf = 1;
  sim->on_kill = NULL;
  assert_int_equal(mf_pool_promote(pool, on_reloaded, NULL), 0);
  far_run(far);
  mf_pool_abort(pool);
  far_run(far);
  assert_int_equal(reload_code, MF_ECANCELLED);
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
      STORY(test_workers_come_one_by_one),
      STORY(test_idle_workers_are_there_from_the_start),
      STORY(test_what_a_dead_worker_had_not_entered_goes_on),
      STORY(test_a_call_has_one_number),
      STORY(test_a_worker_answers_for_another_one),
      STORY(test_idempotent_calls_run_again_but_not_for_ever),
      STORY(test_call_timeout_kills_and_replaces),
      STORY(test_queue_has_a_limit_and_can_be_left),
      STORY(test_init_that_fails_makes_the_pool_fail_until_reload),
      STORY(test_a_failure_knows_where_it_was_made),
      STORY(test_reload_that_fails_changes_nothing),
      STORY(test_reload_replaces_workers_and_loses_nothing),
      STORY(test_a_later_reload_takes_the_place_of_the_one_under_way),
      STORY(test_reloads_that_wait_are_told_when_the_pool_ends),
      STORY(test_template_that_dies_is_started_again),
      STORY(test_template_with_too_much_is_not),
      STORY(test_drain_waits_and_then_kills),
      STORY(test_a_drain_does_not_wait_for_a_worker_on_trial),
      STORY(test_drain_that_is_in_time),
      STORY(test_retired_worker_finishes_and_is_replaced),
      STORY(test_worker_that_does_not_end_in_its_grace),
      STORY(test_default_times),
      STORY(test_the_end_with_a_template_that_hangs),
      STORY(test_close_goes_on_while_calls_are_answered),
      STORY(test_abort_cancels_everything),
      STORY(test_drain_of_a_pool_that_has_ended_is_told),
      STORY(test_times_in_the_queue_and_in_workers),
      STORY(test_a_wait_that_is_given_up_is_a_wait),
      STORY(test_a_wait_ends_once),
      STORY(test_a_death_ends_the_run_of_its_call_alone),
      STORY(test_on_worker_is_told_of_starts_and_ends),
      STORY(test_on_worker_knows_no_worker_that_never_was),
      STORY(test_report_of_a_drain),
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
  return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
