/* Functions that have returned before *running* was due, which their slots tell of
 * (return_silently in src/template/serve/runner.c): when such a word is believed, and that
 * it is told once. */
#include "process_kit.h"

#include "parent/common/times.h"

/* The end of the socket is its *running*, where the slot says so, and says it of this
 * process: an older one's word in the same slot is none. It is so, too, where the socket
 * does not end, since a copy of this program has the other end. */
static void test_a_function_that_has_returned_was_entered(void **state) {
  enum { NOBODY, ITSELF, ANOTHER };
  static const struct {
    int who, hangs_up;
  } cases[] = {{ITSELF, 1}, {ITSELF, 0}, {ANOTHER, 1}, {ANOTHER, 0}, {NOBODY, 1}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    struct story *s = story_new();
    struct frame f;
    int far, fds[SIM_QUEUE], entered = cases[i].who == ITSELF;
    mf_process *t = make_template(s, &far), *first = make_running(s, t, far, 500), *q;
    q = ask_for_a_function(s, t);
    assert_int_equal(q->expects_hello, 0);
    int q_far = sim_far_end(s->sim, q->chan.fd);
    s->runs = s->exits = 0;
    while (sim_command(s->sim, far, &f, fds))
      if (f.type == CMD_FORK) {
        sim_fork(s->sim, far, &f, fds, 501);
        if (cases[i].who != NOBODY)
          *sim_returned(s->sim, far, &f) = entered ? q->id : first->id;
      }
    sim_end_process(s->sim, 501, 0);
    if (cases[i].hangs_up)
      sim_hang_up(s->sim, q_far);
    sim_run(s->sim);
    assert_int_equal(s->runs, cases[i].hangs_up);
    for (int n = 0; n < 2 * WORD_LOOK_MS / 50; n++) /* by its pidfd then */
      sim_advance(s->sim, 50);
    assert_int_equal(s->runs, 1);
    assert_int_equal(s->run_error, entered ? 0 : MF_ECLONE_DIED);
    if (!entered)
      assert_int_equal(s->run_started, MF_STARTED_NO);
    assert_int_equal(s->exits, 1);
    assert_int_equal(s->exit_known, 1);
    assert_int_equal(s->exit_code, 0);
    assert_int_equal(s->sim->children[501], 0);
    sim_end_process(s->sim, 500, 0);
    wait_for_status(s);
    mf_close(first, NULL, NULL);
    close_both(q, t);
    story_free(s);
  }
}

/* What stands there counts before it is said that the function was not entered: by a
 * close, or by a timeout, while a copy of this program keeps the socket from ending. */
static void test_a_function_that_has_returned_was_not_withdrawn(void **state) {
  for (int closed = 0; closed <= 1; closed++) {
    struct story *s = story_new();
    struct frame f;
    int far, fds[SIM_QUEUE];
    mf_process *t = make_template(s, &far), *first = make_running(s, t, far, 500), *q;
    mf_options o = MF_OPTIONS_INIT;
    o.timeout_ms = WORD_LOOK_MS / 2;
    assert_int_equal(mf_fork_options(t, &o, &q), 0);
    assert_int_equal(mf_on_exit(q, on_exit_told, s), 0);
    assert_int_equal(mf_run(q, "f", on_run, s), 0);
    s->runs = s->exits = 0;
    while (sim_command(s->sim, far, &f, fds))
      if (f.type == CMD_FORK) {
        sim_fork(s->sim, far, &f, fds, 501);
        *sim_returned(s->sim, far, &f) = q->id;
      }
    sim_run(s->sim);
    assert_int_equal(s->runs, 0);
    if (closed)
      mf_close(q, NULL, NULL);
    else
      sim_advance(s->sim, WORD_LOOK_MS / 2 + 1);
    sim_run(s->sim);
    assert_int_equal(s->runs, 1);
    assert_int_equal(s->run_error, 0);
    sim_end_process(s->sim, 501, 0);
    wait_for_status(s);
    assert_int_equal(s->runs, 1);
    assert_int_equal(s->exits, 1);
    assert_int_equal(s->sim->children[501], 0);
    sim_end_process(s->sim, 500, 0);
    wait_for_status(s);
    mf_close(first, NULL, NULL);
    if (closed)
      mf_close(t, NULL, NULL);
    else
      close_both(q, t);
    story_free(s);
  }
}

/* The end of a story whose other clone, 500, still runs. */
static void end_after_first(struct story *s, mf_process *first, mf_process *t,
                            mf_process *q) {
  sim_end_process(s->sim, 500, 0);
  wait_for_status(s);
  mf_close(first, NULL, NULL);
  close_both(q, t);
  story_free(s);
}

/* A template that says both that it has not forked it and that its function has returned
 * is believed once. */
static void test_a_return_after_a_refusal_is_not_believed(void **state) {
  struct story *s = story_new();
  struct frame f;
  int far, fds[SIM_QUEUE];
  mf_process *t = make_template(s, &far), *first = make_running(s, t, far, 500), *q;
  q = ask_for_a_function(s, t);
  s->runs = s->exits = 0;
  while (sim_command(s->sim, far, &f, fds))
    if (f.type == CMD_FORK) {
      *sim_returned(s->sim, far, &f) = q->id;
      sim_answer(s->sim, far, ANS_FORK_FAILED, f.id, NULL, 0);
    }
  sim_run(s->sim);
  assert_int_equal(s->runs, 1);
  assert_int_equal(s->run_error, MF_EFORK_FAILED);
  assert_int_equal(s->run_started, MF_STARTED_NO);
  assert_int_equal(s->exits, 1);
  end_after_first(s, first, t, q);
}

/* A host that reaps what comes has taken its status, and a copy of that host the end of
 * its socket: its function has returned all the same, and its status is unknown. */
static void test_a_function_that_has_returned_is_told_without_a_status(void **state) {
  struct story *s = story_new();
  struct frame f;
  int far, fds[SIM_QUEUE];
  mf_process *t = make_template(s, &far), *first = make_running(s, t, far, 500), *q;
  q = ask_for_a_function(s, t);
  s->runs = s->exits = 0;
  while (sim_command(s->sim, far, &f, fds))
    if (f.type == CMD_FORK) {
      sim_fork(s->sim, far, &f, fds, 501);
      *sim_returned(s->sim, far, &f) = q->id;
    }
  sim_end_process(s->sim, 501, 0);
  s->sim->children[501] = 0;
  for (int n = 0; n < 2 * WORD_LOOK_MS / 50; n++)
    sim_advance(s->sim, 50);
  assert_int_equal(s->runs, 1);
  assert_int_equal(s->run_error, 0);
  assert_int_equal(s->exits, 1);
  assert_int_equal(s->exit_known, 0);
  end_after_first(s, first, t, q);
}

/* It ends a moment after its socket. Others may run first, where it is the only one: then
 * it needs no pidfd. Where it lives longer it has one, and where others took long that is
 * not tried again at once. */
static void test_one_that_has_returned_may_end_first(void **state) {
  static const struct {
    int before, ends, nforks, takes_long, nyields, npidfds; /* of the last */
  } cases[] = {
      {0, 1, 1, 0, 1, 0}, {0, 0, 1, 0, 1, 1}, /* alone */
      {0, 1, 2, 0, 0, 1},                     /* another one is under way */
      {1, 1, 1, 0, 1, 0}, {1, 1, 1, 1, 0, 1}, /* one that ended earlier took long */
      {0, 1, 1, 1, 1, 0},
  };
  for (size_t i = 0; i < COUNT(cases); i++) {
    struct story *s = story_new();
    struct frame f;
    int far, fds[SIM_QUEUE], pid = 501;
    mf_process *t = make_template(s, &far), *first = make_running(s, t, far, 500);
    s->sim->yield_ns = cases[i].takes_long ? YIELDING_LATE_NS + 1 : YIELDING_LATE_NS;
    for (int n = 0; n <= cases[i].before; n++, pid++) {
      mf_process *q = ask_for_a_function(s, t), *other = NULL;
      int q_far = sim_far_end(s->sim, q->chan.fd);
      int is_last = n == cases[i].before;
      if (is_last && cases[i].nforks == 2)
        other = ask_for_a_function(s, t);
      s->runs = s->exits = s->sim->nyields = s->sim->npidfds = 0;
      while (sim_command(s->sim, far, &f, fds))
        if (f.type == CMD_FORK && f.id == q->id) {
          sim_fork(s->sim, far, &f, fds, pid);
          *sim_returned(s->sim, far, &f) = q->id;
        }
      s->sim->ends_meanwhile = !is_last || cases[i].ends ? pid : 0;
      sim_hang_up(s->sim, q_far);
      sim_run(s->sim);
      if (is_last) {
        assert_int_equal(s->sim->nyields, cases[i].nyields);
        assert_int_equal(s->sim->npidfds, cases[i].npidfds);
      }
      sim_end_process(s->sim, pid, 0);
      sim_run(s->sim);
      assert_int_equal(s->runs, 1);
      assert_int_equal(s->run_error, 0);
      assert_int_equal(s->exits, 1);
      assert_int_equal(s->exit_known, 1);
      assert_int_equal(s->sim->children[pid], 0);
      mf_close(q, NULL, NULL);
      if (other)
        mf_close(other, NULL, NULL);
    }
    sim_end_process(s->sim, 500, 0);
    sim_run(s->sim);
    mf_close(first, NULL, NULL);
    mf_close(t, NULL, NULL);
    sim_run(s->sim);
    story_free(s);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_function_that_has_returned_was_entered),
      cmocka_unit_test(test_a_function_that_has_returned_was_not_withdrawn),
      cmocka_unit_test(test_a_return_after_a_refusal_is_not_believed),
      cmocka_unit_test(test_a_function_that_has_returned_is_told_without_a_status),
      cmocka_unit_test(test_one_that_has_returned_may_end_first),
  };
  return cmocka_run_group_tests_name("process returned", tests, NULL, NULL);
}
