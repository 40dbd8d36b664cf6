/* Births that come when nobody waits for them any more: of processes that were given up,
 * or refused, and of slots that were given back. Those are our children all the same, and
 * no ended one stays. */
#include "unit.h"

#include "help/sim.h"
#include "parent/private.h"
#include "parent/process/children.h"
#include "parent/process/process.h"
#include "process_kit.h"
#include <string.h>

static void wait_long(struct story *s, int seconds) {
  for (int i = 0; i < 10 * seconds; i++)
    sim_advance(s->sim, 100);
}

/* The command has come to the template, which has not answered yet. */
static mf_process *ask_for_a_fork(struct story *s, mf_process *t, int far,
                                  struct frame *ret, int *ret_fds) {
  mf_process *q;
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  sim_run(s->sim);
  do
    assert_true(sim_command(s->sim, far, ret, ret_fds));
  while (ret->type != CMD_FORK);
  return q;
}

/* Dead children stayed for as long as the program ran: a template that lies had forked
 * twice for one command, or said that it had not forked. Both numbers stood in the slot.
 */
static void test_births_that_a_template_lies_about_are_reaped(void **state) {
  (void)state;
  enum { TWICE, DENIED, LIES };
  for (int lie = 0; lie < LIES; lie++) {
    struct story *s = story_new();
    static struct frame f;
    int far, fds[SIM_QUEUE];
    mf_process *t = make_template(s, &far), *q;
    mf_process *known = make_running(s, t, far, 501);
    q = ask_for_a_fork(s, t, far, &f, fds);
    if (lie == TWICE) {
      assert_int_equal(sim_fork(s->sim, far, &f, fds, 502), 1);
      sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, 502, NULL, 0);
      sim_run(s->sim);
      assert_int_equal(mf_pid(q), 502);
    } else {
      sim_answer(s->sim, far, ANS_FORK_FAILED, f.id, NULL, 0);
      sim_run(s->sim);
      assert_int_equal(q->state, DEAD);
    }
    assert_int_equal(sim_fork(s->sim, far, &f, fds, 503), 1);
    s->sim->children[504] = 1; /* the program's own, which nobody may touch */
    for (int pid = 501; pid <= 504; pid++)
      sim_end_process(s->sim, pid, 0);
    sim_run(s->sim);
    mf_close(q, NULL, NULL);
    mf_close(known, NULL, NULL);
    sim_run(s->sim);
    for (int pid = 501; pid <= 503; pid++)
      assert_int_equal(s->sim->children[pid], 0);
    assert_int_equal(s->sim->children[504], 1);
    s->sim->children[504] = 0;
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

/* So did those that were born when nobody looked at the slot any more: its process was
 * told as refused, or had ended, and the record was gone. They are found when the slot is
 * given to the next process, or when the template ends. */
static void test_births_in_slots_that_were_given_back_are_reaped(void **state) {
  (void)state;
  enum { TWICE, DENIED, LIES };
  for (int lie = 0; lie < LIES; lie++)
    for (int next = 0; next <= 1; next++) {
      struct story *s = story_new();
      static struct frame f, other;
      int far, fds[SIM_QUEUE], other_fds[SIM_QUEUE];
      mf_process *t = make_template(s, &far), *q;
      mf_process *known = make_running(s, t, far, 501);
      q = ask_for_a_fork(s, t, far, &f, fds);
      if (lie == TWICE) {
        assert_int_equal(sim_fork(s->sim, far, &f, fds, 502), 1);
        sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, 502, NULL, 0);
        sim_run(s->sim);
        sim_end_process(s->sim, 502, 0);
      } else {
        sim_answer(s->sim, far, ANS_FORK_FAILED, f.id, NULL, 0);
      }
      sim_run(s->sim);
      mf_close(q, NULL, NULL);
      sim_run(s->sim);
      assert_int_equal(sim_fork(s->sim, far, &f, fds, 503), 1);
      s->sim->children[504] = 1; /* the program's own, which nobody may touch */
      if (next) {
        q = ask_for_a_fork(s, t, far, &other, other_fds);
        assert_int_equal(sim_fork(s->sim, far, &other, other_fds, 505), 1);
        mf_close(q, NULL, NULL);
      }
      for (int pid = 501; pid <= 505; pid++)
        sim_end_process(s->sim, pid, 0);
      mf_close(known, NULL, NULL);
      sim_run(s->sim);
      if (next)
        assert_int_equal(s->sim->children[503], 0);
      sim_end_process(s->sim, t->pid, 0);
      mf_close(t, NULL, NULL);
      wait_for_status(s);
      children_reap(&s->sim->backend); /* as the next call would */
      for (int pid = 501; pid <= 505; pid++)
        assert_int_equal(s->sim->children[pid], pid == 504);
      s->sim->children[504] = 0;
      story_free(s);
    }
}

static void take_fork(struct story *s, int far, struct frame *ret, int *ret_fds) {
  do
    assert_true(sim_command(s->sim, far, ret, ret_fds));
  while (ret->type != CMD_FORK);
}

/* Everything is told to end, does not, and is given up. */
static void give_up(struct story *s, mf_process **all, int n) {
  for (int i = 0; i < n; i++)
    mf_close(all[i], NULL, NULL);
  wait_long(s, 10);
}

/* What was asked of a process that is not born yet stands in its socket, and is executed
 * when it is, though nobody has its record any more: dead clones of such a clone stayed.
 * It may be born late because its template was stopped; or a lying template has somebody
 * else speak for it, who is no child of ours. The template ends first or last, and the
 * program may have other processes meanwhile. */
static void test_clones_of_what_is_born_late_are_reaped(void **state) {
  (void)state;
  enum { STOPPED, ANOTHER, WAYS };
  for (int way = 0; way < WAYS; way++)
    for (int first = 0; first <= 1; first++)
      for (int others = 0; others <= 1; others++) {
        struct story *s = story_new();
        static struct frame f;
        int far, other_far, fds[SIM_QUEUE], q_fds[SIM_QUEUE];
        mf_process *other = others ? make_template(s, &other_far) : NULL;
        mf_process *t = make_template(s, &far), *q, *r;
        int t_pid = t->pid;
        assert_int_equal(mf_fork(t, &q), 0);
        assert_int_equal(mf_fork(q, &r), 0);
        assert_int_equal(mf_run(r, "f", on_run, s), 0);
        sim_run(s->sim);
        if (way == ANOTHER) {
          int q_far = sim_far_end(s->sim, q->chan.fd);
          s->sim->fd[q_far].pid = 900;
          answer_hello(s, q_far, 900);
          sim_run(s->sim);
          assert_int_equal(mf_pid(q), 900);
          sim_end_process(s->sim, 900, 0);
        }
        give_up(s, (mf_process *[]){r, q, t}, 3);
        assert_int_equal(s->runs, 1);
        if (first)
          wait_long(s, 60);
        take_fork(s, far, &f, fds);
        assert_int_equal(sim_fork(s->sim, far, &f, fds, 501), 1);
        if (first)
          sim_end_process(s->sim, t_pid, 0);
        sim_advance(s->sim, 10);
        take_fork(s, fds[0], &f, q_fds);
        assert_int_equal(sim_fork(s->sim, fds[0], &f, q_fds, 502), 1);
        sim_end_process(s->sim, 501, 0);
        sim_end_process(s->sim, 502, 0);
        sim_end_process(s->sim, t_pid, 0);
        sim_hang_up(s->sim, q_fds[0]);
        sim_hang_up(s->sim, fds[0]);
        sim_hang_up(s->sim, far);
        wait_long(s, 20);
        if (!other) { /* the next call */
          assert_int_equal(context_start(s->context), 0);
          other = make_template(s, &other_far);
        }
        mf_close(other, NULL, NULL);
        sim_run(s->sim);
        children_reap(&s->sim->backend);
        assert_int_equal(s->sim->children[501], 0);
        assert_int_equal(s->sim->children[502], 0);
        assert_int_equal(s->sim->children[t_pid], 0);
        story_free(s);
      }
}

/* The program's loop ends before a process that is given up is born: what was kept of its
 * forks was given back to a backend that had been freed before. */
static void test_a_context_ends_before_what_it_waits_for(void **state) {
  (void)state;
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q;
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  sim_run(s->sim);
  give_up(s, (mf_process *[]){q, t}, 2);
  assert_int_equal(s->runs, 1);
  default_close(s->context);
  sim_run(s->sim);
  assert_true(s->sim->stopped);
  assert_int_equal(sim_free(s->sim), 0);
  free(s);
}

/* Nobody looked for such a birth any more, though the program had another loop. */
static void test_what_an_ended_context_waits_for_is_anothers(void **state) {
  (void)state;
  struct story *s = story_new();
  static struct frame f;
  int far, other_far, fds[SIM_QUEUE], q_fds[SIM_QUEUE];
  mf_process *t = make_template(s, &far), *q, *r;
  int t_pid = t->pid;
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_fork(q, &r), 0);
  assert_int_equal(mf_run(r, "f", on_run, s), 0);
  sim_run(s->sim);
  give_up(s, (mf_process *[]){r, q, t}, 3);
  assert_int_equal(s->runs, 1);
  struct story *other = story_new();
  context_publish(other->context, (struct uv_loop_s *)s); /* any that is none */
  other->sim->next_pid = 800; /* of the same program, so with other numbers */
  default_close(s->context);
  sim_run(s->sim);
  assert_true(s->sim->stopped);
  take_fork(s, far, &f, fds);
  assert_int_equal(sim_fork(s->sim, far, &f, fds, 501), 1);
  take_fork(s, fds[0], &f, q_fds);
  assert_int_equal(sim_fork(s->sim, fds[0], &f, q_fds, 502), 1);
  const int children[] = {t_pid, 501, 502}; /* of the whole program */
  for (int i = 0; i < 3; i++)
    other->sim->children[children[i]] = 1;
  mf_process *next = make_template(other, &other_far);
  wait_long(other, 20);
  for (int i = 3; i-- > 0;)
    sim_end_process(other->sim, children[i], 0);
  wait_long(other, 20);
  children_look_for_births(&registry_of(other->context)->children); /* as the next one */
  wait_long(other, 1);
  other->sim->children[t_pid] = 0; /* it is told of that one elsewhere */
  for (int i = 0; i < 3; i++)
    assert_int_equal(other->sim->children[children[i]], 0);
  sim_end_process(other->sim, mf_pid(next), 0);
  mf_close(next, NULL, NULL);
  wait_for_status(other);
  /* What one backend lent was given back to the other. */
  assert_int_equal(s->sim->nshared + other->sim->nshared, 0);
  s->sim->nshared = other->sim->nshared = 0;
  story_free(other);
  assert_int_equal(sim_free(s->sim), 0);
  free(s);
}

/* A template that denies a fork, and has forked all the same: the clone executes what
 * stands in its socket, and its own dead clones stayed. */
static void test_clones_of_what_is_denied_are_reaped(void **state) {
  (void)state;
  struct story *s = story_new();
  static struct frame f, inner;
  int far, fds[SIM_QUEUE], q_fds[SIM_QUEUE];
  mf_process *t = make_template(s, &far), *q, *r;
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_fork(q, &r), 0);
  assert_int_equal(mf_run(r, "f", on_run, s), 0);
  sim_run(s->sim);
  take_fork(s, far, &f, fds);
  assert_int_equal(sim_fork(s->sim, far, &f, fds, 501), 1);
  sim_answer(s->sim, far, ANS_FORK_FAILED, f.id, NULL, 0);
  sim_run(s->sim);
  close_both(q, r);
  sim_run(s->sim);
  take_fork(s, fds[0], &inner, q_fds);
  assert_int_equal(sim_fork(s->sim, fds[0], &inner, q_fds, 502), 1);
  sim_end_process(s->sim, 502, 0);
  sim_end_process(s->sim, 501, 0);
  wait_long(s, 20);
  mf_process *next; /* which looks */
  assert_int_equal(mf_fork(t, &next), 0);
  sim_run(s->sim);
  close_both(next, t);
  sim_end_process(s->sim, t->pid, 0);
  wait_long(s, 20);
  children_reap(&s->sim->backend);
  assert_int_equal(s->sim->children[501], 0);
  assert_int_equal(s->sim->children[502], 0);
  story_free(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_births_that_a_template_lies_about_are_reaped),
      cmocka_unit_test(test_births_in_slots_that_were_given_back_are_reaped),
      cmocka_unit_test(test_clones_of_what_is_born_late_are_reaped),
      cmocka_unit_test(test_a_context_ends_before_what_it_waits_for),
      cmocka_unit_test(test_what_an_ended_context_waits_for_is_anothers),
      cmocka_unit_test(test_clones_of_what_is_denied_are_reaped),
  };
  return cmocka_run_group_tests_name("process: late births", tests, NULL, NULL);
}
