/* Single stories of the parent's core through the backend: what is known of a process, and
 * told of it, when an end, a refusal or a close comes between. */
#include "unit.h"

#include "help/sim.h"
#include "parent/common/times.h"
#include "parent/process/liveness.h"
#include "parent/process/process.h"
#include "process_kit.h"
#include <errno.h>
#include <signal.h>

/* The template was asked about a clone that runs, and dies: then the clone itself is
 * looked at. */
static void test_memory_is_told_when_the_template_dies(void **state) {
  struct story *s = story_new();
  int far, pid;
  mf_process *t = make_template(s, &far), *q = make_running(s, t, far, 501);
  pid = mf_pid(t);
  assert_int_equal(mf_memory(q, on_memory, s), 0);
  sim_run(s->sim);
  assert_int_equal(s->memories, 0);
  sim_hang_up(s->sim, far);
  sim_end_process(s->sim, pid, SIGKILL);
  sim_run(s->sim);
  assert_int_equal(s->memories, 1);
  close_both(q, t);
  story_free(s);
}

/* Neither a child nor known by a pidfd: nobody will ever tell of its end. That is said as
 * soon as it runs, and not never. */
static void test_an_end_that_nobody_can_see_is_unknown_at_once(void **state) {
  for (int has_pidfd = 0; has_pidfd < 2; has_pidfd++) {
    struct story *s = story_new();
    int far;
    mf_process *q, *t = make_template(s, &far);
    s->sim->pidfd_error = has_pidfd ? 0 : -ENOSYS;
    assert_int_equal(mf_fork(t, &q), 0);
    assert_int_equal(mf_on_exit(q, on_exit_told, s), 0);
    assert_int_equal(mf_run(q, "f", on_run, s), 0);
    execute_fork(s, t, far, q, 501, 0);
    sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, 501, NULL, 0);
    sim_run(s->sim);
    assert_int_equal(s->runs, 1);
    assert_int_equal(s->run_error, 0);
    sim_advance(s->sim, 1);
    assert_int_equal(s->exits, !has_pidfd);
    assert_int_equal(s->exit_known, 0);
    close_both(q, t);
    story_free(s);
  }
}

static int closes_it;

static void on_run_asks(mf_process *p, const mf_error *error, int socket, void *data) {
  (void)socket;
  assert_non_null(error);
  if (closes_it)
    mf_close(p, on_close, data);
  else
    assert_int_equal(mf_kill(p, SIGTERM), -ESRCH);
}

/* Its run and its end are told one after the other: a debug build took what the first
 * callback asked for a broken invariant, and ended the program. */
static void test_a_callback_may_use_what_has_ended_before_that_is_told(void **state) {
  for (closes_it = 0; closes_it < 2; closes_it++) {
    struct story *s = story_new();
    int far;
    mf_process *q, *t = make_template(s, &far);
    int pid = mf_pid(t);
    assert_int_equal(mf_fork(t, &q), 0);
    assert_int_equal(mf_on_exit(q, on_exit_told, s), 0);
    assert_int_equal(mf_run(q, "f", on_run_asks, s), 0);
    sim_run(s->sim);
    sim_hang_up(s->sim, far);
    sim_end_process(s->sim, pid, SIGKILL);
    sim_run(s->sim);
    assert_int_equal(s->exits, 1);
    assert_int_equal(s->closes, closes_it);
    if (!closes_it)
      mf_close(q, NULL, NULL);
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

/* A signal for a process whose number is not known yet is sent when it is, once; the last
 * one where there were several. */
static void test_a_signal_waits_for_the_number(void **state) {
  for (int sibling = 0; sibling < 2; sibling++) {
    struct story *s = story_new();
    int far;
    mf_process *q, *t = make_template(s, &far);
    assert_int_equal(mf_fork(t, &q), 0);
    mf_on_exit(q, on_exit_told, s);
    assert_int_equal(mf_kill(q, SIGINT), 0); /* writes the fork */
    assert_int_equal(mf_kill(q, SIGTERM), 0);
    sim_run(s->sim);
    assert_int_equal(mf_pid(q), -1);
    assert_int_equal(s->sim->last_signal_pid, 0);
    execute_fork(s, t, far, q, 501, sibling);
    sim_run(s->sim);
    assert_int_equal(mf_pid(q), 501);
    assert_int_equal(s->sim->last_signal_pid, 501);
    assert_int_equal(s->sim->last_signal, SIGTERM);
    s->sim->last_signal_pid = 0;
    int q_far = sim_far_end(s->sim, q->chan.fd);
    sim_end_process(s->sim, 501, SIGTERM);
    sim_hang_up(s->sim, q_far);
    for (int i = 0; i <= LIFE_LOOKS_MAX && s->exits == 0; i++)
      sim_advance(s->sim, LIFE_LOOK_MS); /* another's child: its status is looked for */
    assert_int_equal(s->sim->last_signal_pid, 0);
    assert_int_equal(s->exits, 1);
    assert_int_equal(mf_kill(q, SIGTERM), -ESRCH);
    mf_close(q, NULL, NULL);
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

/* A command after one that could not be written is not written either, even if the other
 * end can be reached again: it would be executed without the one before it. */
static void test_nothing_follows_what_could_not_be_written(void **state) {
  struct story *s = story_new();
  struct frame f;
  int far, fds[SIM_QUEUE], pid;
  mf_process *t = make_template(s, &far);
  pid = mf_pid(t);
  while (sim_command(s->sim, far, &f, fds))
    ;
  s->sim->send_error = -EPIPE;
  assert_int_equal(mf_eval(t, "a", 1, 0, NULL, NULL), 0);
  assert_int_equal(s->sim->send_error, 0); /* from now on it would be taken */
  assert_int_equal(s->sim->fd[s->sim->fd[far].peer].silent, 1);
  assert_int_equal(mf_eval(t, "b", 1, 0, NULL, NULL), 0);
  sim_run(s->sim);
  assert_int_equal(sim_command(s->sim, far, &f, fds), 0);
  sim_hang_up(s->sim, far);
  sim_end_process(s->sim, pid, SIGKILL);
  sim_run(s->sim);
  assert_int_equal(t->state, DEAD);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* So no child that has ended is left behind when a program closes what it has made. */
static void test_a_close_is_told_once_the_child_is_reaped(void **state) {
  struct story *s = story_new();
  int far, pid;
  mf_process *t = make_template(s, &far);
  pid = mf_pid(t);
  mf_close(t, on_close, s);
  sim_run(s->sim);
  assert_int_equal(s->closes, 0);
  sim_hang_up(s->sim, far);
  sim_run(s->sim);
  assert_int_equal(s->closes, 0);
  assert_int_equal(s->sim->children[pid], 1);
  sim_end_process(s->sim, pid, 0);
  sim_run(s->sim);
  assert_int_equal(s->closes, 1);
  assert_int_equal(s->sim->children[pid], 0);
  story_free(s);
}

/* The pidfd of a child tells of an end that its tracer (gdb, strace) has first: it is asked
 * for again until it is ours. */
static void test_the_end_of_a_traced_child_is_asked_for_again(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q = make_running(s, t, far, 501);
  mf_on_exit(q, on_exit_told, s);
  s->sim->traced = 501;
  sim_end_process(s->sim, 501, 7 << 8);
  for (int i = 0; i < 5; i++)
    sim_advance(s->sim, CHILD_POLL_MS);
  assert_int_equal(s->exits, 0);
  s->sim->traced = 0;
  sim_advance(s->sim, CHILD_POLL_MS);
  assert_int_equal(s->exits, 1);
  assert_int_equal(s->exit_known, 1);
  assert_int_equal(s->exit_code, 7);
  mf_close(q, NULL, NULL);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* A process that is closed while children of its own write to its socket: its *running* may
 * lie behind what they wrote. */
static void test_a_run_that_is_closed_may_have_been_entered_unread(void **state) {
  static const unsigned char done[] = {0, 0, 0, 0, ANS_DONE, 0, 0, 0,
                                       0, 0, 0, 0, 0,        0, 0, 0};
  for (int floods = 0; floods < 2; floods++) {
    struct story *s = story_new();
    int far, q_far;
    mf_process *q, *t = make_template(s, &far);
    assert_int_equal(mf_fork(t, &q), 0);
    assert_int_equal(mf_eval(q, "x", 1, 0, NULL, NULL), 0);
    assert_int_equal(mf_run(q, "f", on_run, s), 0);
    q_far = sim_far_end(s->sim, q->chan.fd);
    execute_fork(s, t, far, q, 500, 1);
    sim_run(s->sim);
    struct sim_fd *near = &s->sim->fd[s->sim->fd[q_far].peer];
    near->flood = floods ? sizeof done : 0;
    sim_bytes(s->sim, q_far, done, sizeof done);
    mf_close(q, NULL, NULL);
    near->flood = 0;
    sim_run(s->sim);
    assert_int_equal(s->runs, 1);
    assert_int_equal(s->run_error, MF_ECANCELLED);
    assert_int_equal(s->run_started, floods ? MF_STARTED_UNKNOWN : MF_STARTED_NO);
    sim_end_process(s->sim, 500, SIGKILL);
    sim_run(s->sim);
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_memory_is_told_when_the_template_dies),
      cmocka_unit_test(test_an_end_that_nobody_can_see_is_unknown_at_once),
      cmocka_unit_test(test_a_callback_may_use_what_has_ended_before_that_is_told),
      cmocka_unit_test(test_a_signal_waits_for_the_number),
      cmocka_unit_test(test_nothing_follows_what_could_not_be_written),
      cmocka_unit_test(test_a_close_is_told_once_the_child_is_reaped),
      cmocka_unit_test(test_the_end_of_a_traced_child_is_asked_for_again),
      cmocka_unit_test(test_a_run_that_is_closed_may_have_been_entered_unread),
  };
  return cmocka_run_group_tests_name("process told", tests, NULL, NULL);
}
