/* Single stories of the parent's core through the backend, each named after what went
 * wrong once or could: whose number stands in the table of births, process groups, hosts
 * that reap by themselves, a kernel without pidfds. */
#include "unit.h"

#include "help/sim.h"
#include "parent/common/times.h"
#include "parent/private.h"
#include "parent/process/children.h"
#include "parent/process/dump.h"
#include "parent/process/process.h"
#include "parent/process/registry.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "process_kit.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- process groups (option tree) ---- */

static mf_process *make_running_tree(struct story *s, mf_process *t, int far, int pid) {
  mf_options o = MF_OPTIONS_INIT;
  mf_process *q;
  o.tree = MF_TREE_YES;
  assert_int_equal(mf_fork_options(t, &o, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  execute_fork(s, t, far, q, pid, 1);
  sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, (uint64_t)pid, NULL,
             0);
  sim_run(s->sim);
  assert_int_equal(q->state, RUNNING);
  return q;
}

/* A group's number is free for others when its leader is reaped and nobody is left in it:
 * the last signal comes before, and once, whether the record is there or not. */
static void test_a_group_ends_before_its_leader_is_reaped(void **state) {
  for (int closed = 0; closed <= 1; closed++) {
    struct story *s = story_new();
    int far;
    mf_process *t = make_template(s, &far), *q = make_running_tree(s, t, far, 501);
    mf_on_exit(q, closed ? NULL : on_exit_told, s);
    if (closed)
      mf_close(q, NULL, NULL);
    sim_run(s->sim);
    assert_int_equal(s->sim->last_group, 0);
    sim_end_process(s->sim, 501, 0);
    sim_run(s->sim);
    assert_int_equal(s->sim->children[501], 0);
    assert_int_equal(s->sim->last_group, 501);
    assert_int_equal(s->sim->last_group_signal, SIGKILL);
    assert_int_equal(s->sim->last_group_unreaped, 1);
    assert_int_equal(s->sim->last_group_by_number, 1);
    s->sim->last_group = 0;
    if (!closed) {
      assert_int_equal(s->exits, 1);
      assert_int_equal(mf_kill(q, SIGKILL), -ESRCH);
      mf_close(q, NULL, NULL);
    }
    sim_run(s->sim);
    assert_int_equal(s->sim->last_group, 0);
    mf_close(t, NULL, NULL);
    sim_run(s->sim);
    story_free(s);
  }
}

/* Nor is one signalled by number where the host may reap its leader at any time. */
static void test_a_careless_host_signals_no_group_by_number(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q = make_running_tree(s, t, far, 501);
  s->sim->careless = 1;
  assert_int_equal(mf_kill(q, SIGTERM), 0);
  assert_int_equal(s->sim->last_group, 501);
  assert_int_equal(s->sim->last_group_by_number, 0);
  s->sim->children[501] = 0; /* the host's */
  sim_end_process(s->sim, 501, SIGTERM);
  wait_for_status(s);
  assert_int_equal(q->state, DEAD);
  assert_int_equal(s->sim->last_group_signal, SIGKILL);
  assert_int_equal(s->sim->last_group_by_number, 0);
  close_both(q, t);
  sim_run(s->sim);
  story_free(s);
}

static void test_who_has_no_tree_is_signalled_alone(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q = make_running(s, t, far, 501);
  assert_int_equal(mf_kill(q, SIGTERM), 0);
  assert_int_equal(s->sim->last_signal_pid, 501);
  sim_end_process(s->sim, 501, SIGTERM);
  sim_run(s->sim);
  assert_int_equal(s->sim->last_group, 0);
  close_both(q, t);
  sim_run(s->sim);
  story_free(s);
}

/* ---- what stands in the table of births ---- */

/* What a hostile template writes there must be a child of ours, and no other record's. */
static void test_a_number_that_is_no_child_of_ours_is_not_believed(void **state) {
  enum { STRANGER = 3000 };
  struct story *s = story_new();
  int far_a, far_b;
  mf_process *a = make_template(s, &far_a), *b = make_template(s, &far_b);
  mf_process *known = make_running(s, a, far_a, 501);
  const uint32_t lies[] = {STRANGER, 501, (uint32_t)a->pid, 0xffffffffu};
  for (size_t i = 0; i < COUNT(lies); i++) {
    mf_process *q;
    struct frame f;
    int fds[SIM_QUEUE];
    assert_int_equal(mf_fork(b, &q), 0);
    assert_int_equal(mf_kill(q, SIGKILL), 0); /* as soon as it is known whom */
    while (sim_command(s->sim, far_b, &f, fds))
      if (f.type == CMD_FORK)
        assert_int_equal(sim_fork(s->sim, far_b, &f, fds, 600), 1);
    s->sim->children[600] = 0;
    s->sim->fd[sim_far_end(s->sim, q->chan.fd)].pid = 0;
    *(uint32_t *)(uintptr_t)sim_birth(s->sim, far_b, &f) = lies[i];
    sim_answer(s->sim, far_b, ANS_DONE, b->nsent, NULL, 0);
    sim_run(s->sim);
    assert_int_equal(s->sim->last_signal_pid, 0);
    assert_int_equal(mf_pid(q), -1);
    sim_hang_up(s->sim, sim_far_end(s->sim, q->chan.fd));
    sim_advance(s->sim, 5000);
    assert_int_equal(s->sim->last_signal_pid, 0);
    mf_close(q, NULL, NULL);
    sim_run(s->sim);
  }
  assert_int_equal(s->sim->children[501], 1);
  assert_int_equal(known->state, RUNNING);
  sim_end_process(s->sim, 501, 0);
  mf_close(known, NULL, NULL);
  close_both(a, b);
  story_free(s);
}

/* A template whose clones can't be our children: they say who they are, and the kernel
 * says who wrote that. From the second on no slot is needed. */
static void test_a_clone_that_is_no_child_of_ours_is_known_by_its_pidfd(void **state) {
  for (int tells = 0; tells < 2; tells++) {
    struct story *s = story_new();
    int far;
    mf_process *t = make_template(s, &far), *q;
    s->sim->tells_status = tells;
    for (int pid = 501; pid < 503; pid++) {
      s->exits = 0;
      q = ask_for_a_function(s, t);
      assert_int_equal(q->births != NULL, pid == 501);
      execute_fork(s, t, far, q, pid, 0);
      sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, 77, NULL, 0);
      sim_run(s->sim);
      assert_int_equal(mf_pid(q), pid); /* whatever it says itself */
      sim_end_process(s->sim, pid, 6 << 8);
      wait_for_status(s);
      assert_int_equal(s->exits, 1);
      assert_int_equal(s->exit_known, tells);
      assert_int_equal(s->exit_code, tells ? 6 : 0);
      mf_close(q, NULL, NULL);
    }
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

/* The host reaps what comes: what can be known is told, once, and a clone is asked to
 * introduce itself from then on. */
static void test_a_child_that_the_host_has_reaped_is_told_once(void **state) {
  for (int tells = 0; tells < 2; tells++) {
    struct story *s = story_new();
    int far;
    mf_process *t = make_template(s, &far), *q = make_running(s, t, far, 501);
    assert_int_equal(mf_on_exit(q, on_exit_told, s), 0);
    s->sim->tells_status = tells;
    s->sim->children[501] = 0;
    sim_end_process(s->sim, 501, 9 << 8);
    wait_for_status(s);
    assert_int_equal(s->exits, 1);
    assert_int_equal(s->exit_known, tells);
    assert_int_equal(s->exit_code, tells ? 9 : 0);
    assert_int_equal(s->sim->thief, 1);
    assert_int_equal(mf_kill(q, SIGTERM), -ESRCH);
    close_both(q, t);
    story_free(s);
  }
}

/* Its number may be another's by then. */
static void test_a_careless_host_believes_no_number_after_the_end(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q;
  s->sim->careless = 1;
  q = ask_for_a_function(s, t);
  struct frame f;
  int fds[SIM_QUEUE], q_far = sim_far_end(s->sim, q->chan.fd);
  while (sim_command(s->sim, far, &f, fds))
    if (f.type == CMD_FORK)
      assert_int_equal(sim_fork(s->sim, far, &f, fds, 501), 1);
  sim_hang_up(s->sim,
              q_far); /* killed before its first word; 501 is a child of the host's now */
  sim_run(s->sim);
  assert_int_equal(s->exits, 1);
  assert_int_equal(s->exit_known, 0);
  assert_int_equal(s->run_error, MF_ECLONE_DIED);
  assert_int_equal(s->run_started, MF_STARTED_NO);
  assert_int_equal(s->sim->children[501], 1);
  s->sim->children[501] = 0;
  close_both(q, t);
  story_free(s);
}

/* Its run is cancelled by the close, before it is born: no socket tells of its birth and
 * end, so its slot is looked at now and then. */
static void test_what_is_closed_before_it_is_born_ends_soon(void **state) {
  struct story *s = story_new();
  struct frame f;
  int far, fds[SIM_QUEUE];
  mf_process *t = make_template(s, &far), *q;
  q = ask_for_a_function(s, t);
  sim_run(s->sim);
  mf_close(q, on_close, s);
  sim_run(s->sim);
  assert_int_equal(s->run_error, MF_ECANCELLED);
  while (sim_command(s->sim, far, &f, fds))
    if (f.type == CMD_FORK)
      assert_int_equal(sim_fork(s->sim, far, &f, fds, 501), 1);
  sim_end_process(s->sim, 501, 0);
  sim_advance(s->sim, CHILD_POLL_MS);
  sim_advance(s->sim, CHILD_POLL_MS);
  assert_int_equal(s->closes, 1);
  assert_int_equal(s->sim->children[501], 0);
  mf_close(t, NULL, NULL);
  story_free(s);
}

static void test_last_words_are_read_from_the_slot(void **state) {
  for (int code = 0; code < 2; code++) {
    struct story *s = story_new();
    struct frame f;
    int far, fds[SIM_QUEUE];
    mf_process *t = make_template(s, &far), *q;
    q = ask_for_a_function(s, t);
    while (sim_command(s->sim, far, &f, fds))
      if (f.type == CMD_FORK) {
        sim_fork(s->sim, far, &f, fds, 501);
        sim_last_words(s->sim, far, &f, "it failed");
      }
    answer_hello(s, sim_far_end(s->sim, q->chan.fd), 501);
    sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, 501, NULL, 0);
    sim_run(s->sim);
    mf_close(t, NULL, NULL); /* they outlive the template */
    sim_end_process(s->sim, 100, 0);
    sim_advance(s->sim, 3000);
    sim_end_process(s->sim, 501, code << 8);
    sim_run(s->sim);
    assert_int_equal(s->exits, 1);
    assert_int_equal(s->exit_code, code);
    assert_int_equal(s->exit_error, code); /* of one that ended well nobody asks */
    mf_close(q, NULL, NULL);
    story_free(s);
  }
}

/* A function that runs on when its record is gone, because no process is open any more,
 * may fail later: its last words are no other's, and its slot is free at its end. */
static void test_the_slot_of_a_running_child_is_not_given_away(void **state) {
  struct story *s = story_new();
  mf_process *p[3];
  uint32_t slots[3];
  int far = 0;
  for (int i = 0; i < 3; i++) {
    int pid = 501 + i;
    if (i == 2)
      sim_end_process(s->sim, 501, 0);
    assert_int_equal(context_start(s->context), 0);
    assert_int_equal(process_make(s->context, 0, NULL, &p[i]), 0);
    assert_int_equal(mf_run(p[i], "f", on_run, s), 0);
    sim_run(s->sim);
    if (i == 0) {
      far = s->sim->spawned_control;
      answer_hello(s, far, (uint64_t)p[i]->source->pid);
    }
    execute_fork(s, p[i]->source, far, p[i], pid, 1);
    sim_answer(s->sim, sim_far_end(s->sim, p[i]->chan.fd), ANS_RUNNING, (uint64_t)pid,
               NULL, 0);
    sim_run(s->sim);
    assert_int_equal(p[i]->state, RUNNING);
    slots[i] = p[i]->slot;
    mf_close(p[i], NULL, NULL);
    sim_run(s->sim);
    assert_int_equal(s->sim->started, 0);
  }
  assert_int_not_equal(slots[1], slots[0]);
  assert_int_equal(slots[2], slots[0]);
  sim_end_process(s->sim, 502, 0);
  sim_end_process(s->sim, 503, 0);
  default_reset(s->context);
  sim_run(s->sim);
  story_free(s);
}

/* Its record was closed and gone when the template executed the fork: a child of ours all
 * the same, to be reaped. */
static void test_a_birth_after_the_close_is_reaped(void **state) {
  struct story *s = story_new();
  struct frame f;
  int far, fds[SIM_QUEUE];
  mf_process *t = make_template(s, &far), *q;
  assert_int_equal(mf_fork(t, &q), 0);
  process_flush(q);
  mf_close(q, on_close, s);
  sim_advance(s->sim, 3000);
  while (sim_command(s->sim, far, &f, fds))
    if (f.type == CMD_FORK)
      assert_int_equal(sim_fork(s->sim, far, &f, fds, 501), 1);
  assert_int_equal(s->sim->children[501], 1);
  sim_end_process(s->sim, 501, 0);
  for (int i = 0; i < 20; i++)
    sim_advance(s->sim, 1000);
  assert_int_equal(s->sim->children[501], 0);
  mf_close(t, NULL, NULL);
  story_free(s);
}

static void test_without_pidfds_the_end_of_a_direct_child_is_told(void **state) {
  struct story *s = story_new();
  int far;
  s->sim->pidfd_error = -ENOSYS;
  mf_process *t = make_template(s, &far);
  assert_int_equal(mf_run(t, "f", on_run, s), 0);
  sim_answer(s->sim, far, ANS_RUNNING, (uint64_t)t->pid, NULL, 0);
  assert_int_equal(mf_on_exit(t, on_exit_told, s), 0);
  sim_run(s->sim);
  assert_int_equal(s->runs, 1);
  sim_advance(s->sim, 1000);
  assert_int_equal(s->exits, 0);
  sim_end_process(s->sim, t->pid, 5 << 8);
  sim_advance(s->sim, 100);
  assert_int_equal(s->exits, 1);
  assert_int_equal(s->exit_known, 1);
  assert_int_equal(s->exit_code, 5);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* Its zombie stayed until the next call of the library, whatever the loop did. */
static void test_a_closed_child_that_runs_is_reaped_while_others_are_open(void **state) {
  (void)state;
  for (int others = 0; others < 2; others++) {
    struct story *s = story_new();
    int far, far_other;
    mf_process *other = others ? make_template(s, &far_other) : NULL;
    mf_process *p = make_template(s, &far);
    int pid = p->pid;
    assert_int_equal(mf_run(p, "f", on_run, s), 0);
    sim_answer(s->sim, far, ANS_RUNNING, (uint64_t)pid, NULL, 0);
    sim_run(s->sim);
    assert_int_equal(s->runs, 1);
    mf_close(p, NULL, NULL);
    sim_run(s->sim);
    assert_int_equal(s->sim->children[pid], 1);
    sim_end_process(s->sim, pid, 0);
    sim_run(s->sim);
    assert_int_equal(s->sim->children[pid], !others); /* nothing of ours is on the loop */
    if (other)
      mf_close(other, NULL, NULL);
    sim_run(s->sim);
    children_reap(&s->sim->backend); /* as the next call would */
    assert_int_equal(s->sim->children[pid], 0);
    story_free(s);
  }
}

/* It stayed a zombie as long as the loop went on. Later there may be a pidfd. */
static void test_a_kept_child_without_a_pidfd_is_reaped(void **state) {
  enum { CHILD = 600 };
  (void)state;
  for (int later = 0; later < 2; later++) {
    struct story *s = story_new();
    int far;
    mf_process *t = make_template(s, &far); /* the loop goes on */
    s->sim->children[CHILD] = 1;
    s->sim->pidfd_error = later ? -EMFILE : -ENOSYS;
    assert_int_equal(children_claim(CHILD), 0);
    children_keep(&registry_of(s->context)->children, CHILD, 0);
    sim_advance(s->sim, 1000);
    if (later)
      s->sim->pidfd_error = 0;
    sim_advance(s->sim, 2 * CHILD_POLL_MS);
    assert_int_equal(s->sim->children[CHILD], 1);
    sim_end_process(s->sim, CHILD, 0);
    if (later)
      sim_run(s->sim);
    else
      sim_advance(s->sim, 2 * CHILD_POLL_MS);
    assert_int_equal(s->sim->children[CHILD], 0);
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

/* ---- whose number it is ---- */

/* Whatever is written as the number, by the clone or its template, only the kernel's word
 * counts: 501 is the clone, a child of ours or not; 502 another record's; 600 a stranger.
 */
static void test_only_the_kernel_tells_whose_number_it_is(void **state) {
  static const struct {
    int ours, told, writer, claimed, pid; /* told: in the slot; 0: nothing */
  } cases[] = {
      {1, 501, 501, 501, 501}, {1, 501, 501, 600, 501}, {1, 501, 0, 600, 501},
      {1, 0, 501, 600, 501},   {1, 600, 501, 600, 501}, {1, 502, 501, 502, 501},
      {1, 502, 0, 502, -1},    {0, 0, 501, 600, 501},   {0, 600, 501, 600, 501},
      {0, 600, 0, 600, -1},    {0, 0, 0, 501, -1},      {0, 0, 502, 501, -1},
  };
  for (size_t i = 0; i < COUNT(cases); i++) {
    struct story *s = story_new();
    struct frame f;
    int far, fds[SIM_QUEUE];
    mf_process *t = make_template(s, &far), *other = make_running(s, t, far, 502), *q;
    t->proven = 0;
    assert_int_equal(mf_fork(t, &q), 0);
    assert_int_equal(mf_run(q, "f", on_run, s), 0);
    int q_far = sim_far_end(s->sim, q->chan.fd);
    while (sim_command(s->sim, far, &f, fds))
      if (f.type == CMD_FORK) {
        sim_fork(s->sim, far, &f, fds, 501);
        *sim_birth(s->sim, far, &f) = (uint32_t)cases[i].told;
      }
    s->sim->children[501] = cases[i].ours;
    s->sim->fd[q_far].pid = cases[i].writer;
    s->runs = 0;
    answer_hello(s, q_far, (uint64_t)cases[i].claimed);
    sim_answer(s->sim, q_far, ANS_RUNNING, (uint64_t)cases[i].claimed, NULL, 0);
    sim_run(s->sim);
    assert_int_equal(s->runs, 1);
    assert_int_equal(s->run_error, 0);
    if (mf_pid(q) != cases[i].pid)
      fail_msg("case %zu: %d", i, mf_pid(q));
    s->sim->last_signal_pid = 0;
    mf_kill(q, SIGKILL);
    assert_true(s->sim->last_signal_pid == 0 || s->sim->last_signal_pid == cases[i].pid);
    assert_int_equal(s->sim->children[502], 1);
    sim_end_process(s->sim, 501, 0);
    sim_end_process(s->sim, 502, 0);
    wait_for_status(s);
    s->sim->children[501] = 0;
    mf_close(other, NULL, NULL);
    close_both(q, t);
    story_free(s);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_only_the_kernel_tells_whose_number_it_is),
      cmocka_unit_test(test_a_number_that_is_no_child_of_ours_is_not_believed),
      cmocka_unit_test(test_a_clone_that_is_no_child_of_ours_is_known_by_its_pidfd),
      cmocka_unit_test(test_a_child_that_the_host_has_reaped_is_told_once),
      cmocka_unit_test(test_a_careless_host_believes_no_number_after_the_end),
      cmocka_unit_test(test_a_group_ends_before_its_leader_is_reaped),
      cmocka_unit_test(test_a_careless_host_signals_no_group_by_number),
      cmocka_unit_test(test_who_has_no_tree_is_signalled_alone),
      cmocka_unit_test(test_what_is_closed_before_it_is_born_ends_soon),
      cmocka_unit_test(test_last_words_are_read_from_the_slot),
      cmocka_unit_test(test_the_slot_of_a_running_child_is_not_given_away),
      cmocka_unit_test(test_a_birth_after_the_close_is_reaped),
      cmocka_unit_test(test_a_closed_child_that_runs_is_reaped_while_others_are_open),
      cmocka_unit_test(test_a_kept_child_without_a_pidfd_is_reaped),
      cmocka_unit_test(test_without_pidfds_the_end_of_a_direct_child_is_told),
  };
  return cmocka_run_group_tests_name("process births", tests, NULL, NULL);
}
