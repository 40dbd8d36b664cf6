/* A pool on a world without a kernel: one story for each promise that the random
 * schedules of test_pool_sim.c can't tell from its opposite. Calls and workers. */
#include "unit.h"

#include "help/far.h"
#include "parent/common/fork_watch.h"
#include "parent/common/times.h"
#include "parent/pool/pool_record.h"
#include "parent/process/registry.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "pool_kit.h"
#include "wire/chunk.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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

/* A call that runs again has the same time as the first run had, from the new start. */
static void test_a_call_that_runs_again_has_its_time_again(void **state) {
  options.max = 1;
  options.call_timeout_ms = 100;
  begin();
  ask("stuck", 1);
  far_advance(far, 60);
  far_die(far, far_worker(far, 0), SIGSEGV);
  for (int i = 0; i < 20 && !(far_worker(far, 0) && far_worker(far, 0)->ncalls); i++)
    far_advance(far, 10);
  assert_int_equal(far_worker(far, 0)->ncalls, 1);
  far_advance(far, 90);
  assert_int_equal(call[0].told, 0);
  far_advance(far, 10);
  assert_int_equal(call[0].code, MF_ETIMEOUT);
  assert_int_equal(stats().killed, 1);
}

/* Forks that the system refuses (limit nproc) while another worker works are no crashes:
 * the pool goes on with those it has. */
static void test_refused_forks_beside_a_worker_are_no_crashes(void **state) {
  options.max = 2;
  options.load = 1;
  options.restart_burst = 2;
  options.restart_period_ms = 1000000;
  options.backoff_min_ms = options.backoff_max_ms = 10;
  options.start_ms = 10;
  begin();
  ask("a", 0);
  far_run(far);
  assert_int_equal(far_nworkers(far), 1);
  far->fork_failures = 20;
  ask("b", 0);
  for (int i = 0; i < 1000 && far->fork_failures > 0; i++)
    far_advance(far, 10);
  assert_int_equal(far->fork_failures, 0);
  assert_int_equal(stats().state, MF_POOL_RUNNING);
  assert_int_equal(call[1].told, 0);
  for (int i = 0; i < 100 && far_nworkers(far) < 2; i++)
    far_advance(far, 10);
  answer_all();
  assert_int_equal(call[0].code, 0);
  assert_int_equal(call[1].told, 1);
  assert_int_equal(call[1].code, 0);
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

/* Its socket took nothing of the call, and never will. */
static void test_abort_of_a_call_that_was_not_sent(void **state) {
  options.max = options.idle = 1;
  begin();
  far_run(far);
  ask("sent", 0);
  far_run(far);
  sim->full = 1;
  ask("not sent", 0);
  sim_run(sim);
  mf_pool_abort(pool);
  sim->full = 0;
  far_run(far);
  assert_int_equal(call[0].started, MF_STARTED_UNKNOWN);
  assert_int_equal(call[1].started, MF_STARTED_NO);
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
  assert_int_equal(mf_pool_workers(pool, NULL, sizeof *w, 2),
                   1); /* crashed, as did this: */
  assert_int_equal(mf_pool_pids(pool, NULL, 2), 1);
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

/* ---- much in one moment ---- */

enum { WAITING = 5000, A_TURN = 1024 };
static int nfailed, wrong_order, failed_code;

static void on_failure(const mf_error *e, const mf_message *m, void *data) {
  wrong_order |= (int)(uintptr_t)data != nfailed;
  failed_code = e ? e->code : 0;
  nfailed++;
}

/* ---- chunks of items ---- */

/* What a worker has left in the record of a chunk, which is a file. */
static void put_record(int fd, uint32_t entered, uint32_t finished) {
  struct chunk_record record = {.entered = entered, .finished = finished};
  assert_int_equal(pwrite(fd, &record, sizeof record, 0), sizeof record);
}

/* The items that the first one has finished are answers of its own, and none of those that
 * get the chunk after it: they have given none, and the next is replaced later. */
static void test_finished_items_are_the_answers_of_one_worker(void **state) {
  FILE *file = tmpfile();
  assert_non_null(file);
  int fd = fileno(file);
  mf_message m = {"items", 5, &fd, 1};
  mf_call_options o = MF_CALL_OPTIONS_INIT;
  o.chunk = o.idempotent = 1;
  options.max = 1;
  options.backoff_min_ms = 100;
  options.backoff_max_ms = 10000;
  rpc_options.handles = 1;
  begin();
  put_record(fd, 0, 0);
  assert_int_equal(mf_pool_call(pool, &m, &o, on_reply, &call[ncalls], &id[ncalls]), 0);
  ncalls++;
  far_run(far);
  assert_int_equal(far_worker(far, 0)->ncalls, 1);
  put_record(fd, 2, 1);
  for (int i = 0; i < 2; i++) {
    far_die(far, far_worker(far, 0), SIGKILL);
    far_run(far);
    assert_int_equal(call[0].told, 0);
    far_advance(far, 100);
    assert_int_equal(far_worker(far, 0)->ncalls, 1);
  }
  far_die(far, far_worker(far, 0), SIGKILL); /* the second in a row without an answer */
  ask("next", 0);
  far_run(far);
  assert_int_equal(call[0].code, MF_ECLONE_DIED);
  far_advance(far, 100);
  assert_int_equal(far_nworkers(far), 0);
  far_advance(far, 100);
  assert_int_equal(far_nworkers(far), 1);
  answer_all();
  assert_int_equal(call[1].code, 0);
  fclose(file);
}

/* A worker can make its file shorter: then nothing is known of its items. */
static void test_a_record_that_is_too_short_is_none(void **state) {
  char head[CHUNK_RECORD_HEAD];
  FILE *file = tmpfile();
  assert_non_null(file);
  int fd = fileno(file);
  mf_message m = {"items", 5, &fd, 1}, bare = {"items", 5, NULL, 0};
  struct payload *p;
  begin();
  put_record(fd, 2, 1);
  assert_int_equal(payload_new(&m, &context->blockcache, NULL, &p), 0);
  assert_int_equal(payload_read_file(p, head, sizeof head), 0);
  assert_true(chunk_record_has_finished(head));
  assert_int_equal(ftruncate(fd, sizeof head - 1), 0);
  assert_int_equal(payload_read_file(p, head, sizeof head), -ENODATA);
  payload_drop(p);
  assert_int_equal(payload_new(&bare, &context->blockcache, NULL, &p), 0);
  assert_int_equal(payload_read_file(p, head, sizeof head), -EBADF);
  payload_drop(p);
  fclose(file);
}

/* A pool that is given up with thousands of calls in its queue: they fail as many in a
 * turn, in their order. */
static void test_a_queue_is_dropped_over_turns(void **state) {
  mf_message m = {"x", 1, NULL, 0};
  options.queue_max = 2 * WAITING;
  begin();
  far->deaf = 1;
  nfailed = wrong_order = 0;
  for (int i = 0; i < WAITING; i++)
    assert_int_equal(mf_pool_call(pool, &m, NULL, on_failure, (void *)(uintptr_t)i, NULL),
                     0);
  far_run(far);
  assert_int_equal(nfailed, 0);
  mf_pool_abort(pool);
  assert_int_equal(nfailed, 0);
  assert_int_equal(mf_pool_call(pool, &m, NULL, on_failure, NULL, NULL), MF_ECLOSED);
  for (int turns = 0; turns < 30; turns++) {
    int before = nfailed;
    sim_step(sim);
    assert_true(nfailed - before <= A_TURN);
  }
  assert_int_equal(nfailed, WAITING);
  assert_int_equal(wrong_order, 0);
  assert_int_equal(failed_code, MF_ECANCELLED);
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
      STORY(test_a_call_that_runs_again_has_its_time_again),
      STORY(test_refused_forks_beside_a_worker_are_no_crashes),
      STORY(test_queue_has_a_limit_and_can_be_left),
      STORY(test_drain_waits_and_then_kills),
      STORY(test_a_drain_does_not_wait_for_a_worker_on_trial),
      STORY(test_drain_that_is_in_time),
      STORY(test_retired_worker_finishes_and_is_replaced),
      STORY(test_worker_that_does_not_end_in_its_grace),
      STORY(test_default_times),
      STORY(test_close_goes_on_while_calls_are_answered),
      STORY(test_abort_cancels_everything),
      STORY(test_abort_of_a_call_that_was_not_sent),
      STORY(test_drain_of_a_pool_that_has_ended_is_told),
      STORY(test_times_in_the_queue_and_in_workers),
      STORY(test_a_wait_that_is_given_up_is_a_wait),
      STORY(test_a_wait_ends_once),
      STORY(test_a_death_ends_the_run_of_its_call_alone),
      STORY(test_on_worker_is_told_of_starts_and_ends),
      STORY(test_on_worker_knows_no_worker_that_never_was),
      STORY(test_report_of_a_drain),
      STORY(test_finished_items_are_the_answers_of_one_worker),
      STORY(test_a_record_that_is_too_short_is_none),
      STORY(test_a_queue_is_dropped_over_turns),
  };
  return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
