/* The parent's end of an rpc, without a kernel: calls that are cancelled, and clones that
 * are given up while they live. */
#include "unit.h"

#include "help/far.h"
#include "parent/common/times.h"
#include "parent/rpc/rpc.h"
#include "rpc_kit.h"
#include <errno.h>
#include <signal.h>
/* ---- giving up ---- */

/* Numbers share places: an old one must not find the call that has its place now. */
static void test_an_old_number_finds_no_newer_call(void **state) {
  struct story *s = story_begun();
  struct far_node *w;
  far_run(s->far);
  w = far_worker(s->far, 0);
  assert_int_equal(call(s, "first"), 0);
  far_run(s->far);
  far_result(s->far, w, 0, "first");
  far_run(s->far);
  for (int i = 0; i < 300;
       i++) { /* each place of a small table has a new call at times */
    assert_int_equal(call(s, "more"), 0);
    far_run(s->far);
    assert_int_equal(mf_rpc_cancel(s->rpc, s->id[0]), -ESRCH);
    far_run(s->far);
    assert_int_equal(s->call[i + 1].told, 0);
    far_result(s->far, w, 0, "answer");
    far_run(s->far);
    assert_string_equal(s->call[i + 1].text, "answer");
  }
  assert_int_equal(call(s, "last"), 0);
  far_run(s->far);
  for (int i = 0; i < 300; i++) /* answered already: that is no answer to anything */
    far_say(s->far, w, RPC_RESULT, s->id[i], "stale", 5);
  far_run(s->far);
  assert_int_equal(s->call[s->ncalls - 1].code, MF_EPROTOCOL);
  story_free(s);
}

static void test_abort_cancels_everything_in_silence(void **state) {
  struct story *s = story_begun();
  call(s, "a");
  far_run(s->far);
  call(s, "b");
  mf_rpc_abort(s->rpc);
  assert_int_equal(s->ntold, 0);
  far_run(s->far);
  assert_int_equal(s->call[0].code, MF_ECANCELLED);
  assert_int_equal(s->call[0].started, MF_STARTED_UNKNOWN);
  assert_int_equal(s->call[1].started, MF_STARTED_NO);
  assert_int_equal(s->errors + s->closes, 0);
  story_free(s);
}

static void test_close_before_the_process_is_up(void **state) {
  struct story *s = story_begun();
  call(s, "a");
  mf_rpc_close(s->rpc, on_gone, s);
  far_run(s->far);
  far_result(s->far, far_worker(s->far, 0), 0, "A");
  far_run(s->far);
  assert_string_equal(s->call[0].text, "A");
  assert_int_equal(s->closes, 1);
  story_free(s);
}

/* A call that is never answered does not hold up the close for ever. */
static void test_close_ends_when_nothing_comes(void **state) {
  struct story *s = story_begun();
  call(s, "a");
  call(s, "b");
  far_run(s->far);
  mf_rpc_close(s->rpc, on_gone, s);
  far_advance(s->far, CALLS_GRACE_MS - 1);
  far_result(s->far, far_worker(s->far, 0), 0, "A"); /* begins it anew */
  far_advance(s->far, CALLS_GRACE_MS - 1);
  assert_int_equal(s->ntold, 1);
  assert_int_equal(s->gone, 0);
  far_advance(s->far, 1);
  assert_int_equal(s->ntold, 2);
  assert_int_equal(s->call[1].code, MF_ECANCELLED);
  assert_int_equal(s->call[1].started, MF_STARTED_UNKNOWN);
  assert_int_equal(far_nworkers(s->far), 0);
  assert_int_equal(s->errors, 1);
  assert_int_equal(s->closes, 0);
  assert_int_equal(s->gone, 1);
  story_free(s);
}

/* One that was given up and stays in its function is killed before it is forgotten. */
static void test_abort_ends_a_clone_that_does_not_leave(void **state) {
  struct story *s = story_begun();
  call(s, "a");
  far_run(s->far);
  s->far->deaf = 1;
  mf_rpc_abort(s->rpc);
  mf_rpc_close(s->rpc, on_gone, s);
  far_advance(s->far, EXIT_TIMEOUT_MS - 1);
  assert_int_equal(far_nworkers(s->far), 1);
  assert_int_equal(s->gone, 0);
  far_advance(s->far, 1);
  assert_int_equal(far_nworkers(s->far), 0);
  assert_int_equal(s->gone, 1);
  story_free(s);
}

/* ---- what a living clone does meanwhile ---- */

static struct story *killed;
static int went_on;

/* The last thing that it does before the signal ends it: it says what it has to before
 * the next call, and enters that if it could say it. */
static void go_on(struct sim *sim, int pid, int signum) {
  struct far_node *w = far_worker(killed->far, 0);
  went_on = !sim->fd[sim->fd[w->fd].peer].refused;
  if (w->ready)
    far_result(killed->far, w, 0, "A");
  else
    far_ready(killed->far, w);
}

static void close_while_it_goes_on(struct story *s) {
  begin(s);
  call(s, "a");
  call(s, "b");
  far_run(s->far);
  killed = s;
  went_on = 0;
  s->sim->on_kill = go_on;
  mf_rpc_close(s->rpc, on_gone, s);
  far_run(s->far);
  sim_advance(s->sim, CALLS_GRACE_MS);
  assert_int_equal(s->sim->last_signal, SIGKILL);
  s->far->killed[s->far->nkilled++] = s->sim->last_signal_pid;
  far_run(s->far);
  assert_int_equal(s->call[0].code, MF_ECANCELLED);
  assert_int_equal(s->call[1].code, MF_ECANCELLED);
}

static void test_strict_clone_that_answers_as_it_is_killed(void **state) {
  struct story *s = story_new();
  s->options.strict = 1;
  close_while_it_goes_on(s);
  assert_int_equal(s->call[0].started, MF_STARTED_UNKNOWN);
  assert_int_equal(s->call[1].started, MF_STARTED_NO);
  assert_false(went_on);
  story_free(s);
}

static void test_clone_that_gets_ready_as_it_is_killed(void **state) {
  struct story *s = story_new();
  s->far->slow_hello = 1;
  close_while_it_goes_on(s);
  assert_int_equal(s->call[0].started, MF_STARTED_NO);
  assert_int_equal(s->call[1].started, MF_STARTED_NO);
  assert_false(went_on);
  story_free(s);
}

/* It was given up, and what it had said by then was not read. */
static void test_abort_of_a_clone_that_has_got_ready(void **state) {
  struct story *s = story_new();
  s->far->slow_hello = 1;
  begin(s);
  call(s, "a");
  far_run(s->far);
  call(s, "b");
  far_ready(s->far, far_worker(s->far, 0));
  mf_rpc_abort(s->rpc);
  far_run(s->far);
  assert_int_equal(s->call[0].started, MF_STARTED_UNKNOWN);
  assert_int_equal(s->call[1].started, MF_STARTED_NO);
  story_free(s);
}

/* Its answer is none, and by the time that it is read a strict clone is at the next. */
static void test_strict_clone_that_breaks_the_protocol(void **state) {
  struct story *s = story_new();
  s->options.strict = 1;
  begin(s);
  for (int i = 0; i < 3; i++)
    call(s, "x");
  far_run(s->far);
  far_say(s->far, far_worker(s->far, 0), RPC_ERROR, s->id[0], "short", 5);
  far_run(s->far);
  for (int i = 0; i < 3; i++) {
    assert_int_equal(s->call[i].code, MF_EPROTOCOL);
    assert_int_equal(s->call[i].started, MF_STARTED_UNKNOWN);
  }
  story_free(s);
}

/* Only that the rpc is closed was sent. */
static void test_an_rpc_without_a_call_has_started_none(void **state) {
  struct story *s = story_new();
  s->far->slow_hello = 1;
  begin(s);
  far_run(s->far);
  mf_rpc_close(s->rpc, on_gone, s);
  s->far->deaf = 1;
  sim_run(s->sim);
  far_say(s->far, far_worker(s->far, 0), RPC_READY, 0, NULL, 0); /* without a hello */
  far_run(s->far);
  assert_int_equal(s->error_code, MF_EPROTOCOL);
  assert_int_equal(s->error_started, MF_STARTED_NO);
  story_free(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_an_old_number_finds_no_newer_call),
      cmocka_unit_test(test_abort_cancels_everything_in_silence),
      cmocka_unit_test(test_close_before_the_process_is_up),
      cmocka_unit_test(test_close_ends_when_nothing_comes),
      cmocka_unit_test(test_abort_ends_a_clone_that_does_not_leave),
      cmocka_unit_test(test_strict_clone_that_answers_as_it_is_killed),
      cmocka_unit_test(test_clone_that_gets_ready_as_it_is_killed),
      cmocka_unit_test(test_abort_of_a_clone_that_has_got_ready),
      cmocka_unit_test(test_strict_clone_that_breaks_the_protocol),
      cmocka_unit_test(test_an_rpc_without_a_call_has_started_none),
  };
  return cmocka_run_group_tests_name("rpc given up", tests, NULL, NULL);
}
