/* Single stories of the parent's core through the backend: clones forked ahead, and
 * templates that wait, hang or die while something is under way. */
#include "unit.h"

#include "help/sim.h"
#include "parent/api/make.h"
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
#include <string.h>
#include <unistd.h>

/* The last process is closed while the default template waits to be tried again. */
static void test_a_default_template_that_waits_is_not_kept_parked(void **state) {
  struct story *s = story_new();
  mf_process *p;
  s->sim->spawn_error = -ENOENT;
  for (int i = 0; i < 3; i++) {
    assert_int_equal(context_start(s->context), 0);
    assert_int_equal(process_make(s->context, 0, NULL, &p), 0);
    mf_close(p, on_close, s);
    sim_run(s->sim);
  }
  assert_int_equal(s->closes, 3);
  s->sim->spawn_error = 0;
  s->sim->spawned_control = 0;
  s->sim->now_ms += 10000;
  assert_int_equal(context_start(s->context), 0);
  assert_int_equal(process_make(s->context, 0, NULL, &p), 0);
  assert_int_equal(mf_run(p, "f", on_run, s), 0);
  sim_advance(s->sim, 6000);
  assert_int_not_equal(s->sim->spawned_control, 0);
  mf_close(p, NULL, NULL);
  default_reset(s->context);
  sim_run(s->sim);
  story_free(s);
}

/* A closed process's callback waits for the loop to be empty, because another one is
 * still ending, when a third is opened that gives the loop nothing to do. */
static void test_a_new_process_does_not_hold_up_a_close_callback(void **state) {
  struct story *s = story_new();
  int far, slow_far;
  mf_process *slow = make_template(s, &slow_far), *t = make_template(s, &far), *u;
  mf_close(slow, NULL, NULL);
  mf_close(t, on_close, s);
  sim_end_process(s->sim, t->pid, 0);
  sim_hang_up(s->sim, far);
  sim_run(s->sim);
  assert_int_equal(s->closes, 0);
  assert_int_equal(boot_exec(s->context, NULL, &u), 0);
  sim_run(s->sim);
  assert_int_equal(s->closes, 1);
  mf_close(u, NULL, NULL);
  story_free(s);
}

/* A spare was killed; what is left of it is no clone for anybody. */
static void test_a_dead_spare_is_not_taken(void **state) {
  struct story *s = story_new();
  struct frame f;
  mf_options o = MF_OPTIONS_INIT;
  int fds[SIM_QUEUE], far, spare_far;
  mf_process *t, *q, *spare;
  o.spares_min = o.spares_max = 1;
  assert_int_equal(process_make(s->context, 1, &o, &t), 0);
  far = s->sim->spawned_control;
  answer_hello(s, far, (uint64_t)t->pid);
  sim_answer(s->sim, far, ANS_DONE, 1, NULL, 0);
  sim_run(s->sim);
  sim_advance(s->sim, 10);
  assert_int_equal(t->nspares, 1);
  while (sim_command(s->sim, far, &f, fds))
    ;
  spare = list_entry(t->spares.next, struct mf_process, spare_link);
  spare_far = sim_far_end(s->sim, spare->chan.fd);
  sim_hang_up(s->sim, spare_far);
  sim_run(s->sim);
  assert_int_equal(mf_fork(t, &q), 0);
  assert_ptr_not_equal(q, spare);
  mf_close(q, NULL, NULL);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* The template executes the forks that have come. Returns how many. */
static int execute_forks(struct story *s, int far) {
  static struct frame f;
  int fds[SIM_QUEUE], n = 0;
  sim_run(s->sim);
  while (sim_command(s->sim, far, &f, fds))
    if (f.type == CMD_FORK) {
      int pid = s->sim->next_pid++;
      n++;
      assert_int_equal(sim_fork(s->sim, far, &f, fds, pid), 1);
      list_each(it, &registry_of(s->context)->processes) {
        mf_process *q = list_entry(it, mf_process, link);
        if (q->id == f.id && q->expects_hello)
          answer_hello(s, sim_far_end(s->sim, q->chan.fd), (uint64_t)pid);
      }
    }
  return n;
}

static void tell_done(struct story *s, mf_process *t, int far) {
  sim_answer(s->sim, far, ANS_DONE, t->nsent, NULL, 0);
  sim_run(s->sim);
}

/* All that is asked, and answered, with time for a refill to begin. */
static void let_refill(struct story *s, mf_process *t, int far) {
  do {
    tell_done(s, t, far);
    sim_advance(s->sim, 10);
  } while (execute_forks(s, far));
}

static mf_process *make_template_with(struct story *s, int *ret_far, unsigned min,
                                      unsigned max) {
  mf_process *t;
  mf_options o = MF_OPTIONS_INIT;
  o.spares_min = min;
  o.spares_max = max;
  assert_int_equal(process_make(s->context, 1, &o, &t), 0);
  *ret_far = s->sim->spawned_control;
  answer_hello(s, *ret_far, (uint64_t)t->pid);
  sim_run(s->sim);
  return t;
}

static mf_process *make_template_with_spares(struct story *s, int *ret_far) {
  return make_template_with(s, ret_far, 2, 5);
}

static void take_spares(mf_process *t, int n) {
  int spares = mf_spares(t);
  for (int i = 0; i < n; i++) {
    mf_process *q;
    assert_int_equal(mf_fork(t, &q), 0);
    assert_int_equal(mf_spares(t), --spares);
    mf_close(q, NULL, NULL);
  }
}

/* Two of at most five were left at times, and no more came, when four had been taken: the
 * last fork of a refill was not yet answered when the first was taken, so this one was
 * replaced. */
static void test_spares_are_refilled_when_fewer_than_min_are_left(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template_with_spares(s, &far);
  let_refill(s, t, far);
  assert_int_equal(mf_spares(t), 5);
  take_spares(t, 3);
  let_refill(s, t, far);
  assert_int_equal(mf_spares(t), 2); /* not fewer than min */
  take_spares(t, 1);
  let_refill(s, t, far);
  assert_int_equal(mf_spares(t), 5);
  take_spares(t, 4);
  while (t->nspares < 5) { /* one by one, until the last is asked for */
    tell_done(s, t, far);
    sim_advance(s->sim, 10);
    execute_forks(s, far);
  }
  assert_int_equal(mf_spares(t), 4); /* nobody has told of it */
  take_spares(t, 2); /* a refill ends at max, whatever is taken meanwhile */
  let_refill(s, t, far);
  assert_int_equal(mf_spares(t), 5);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* The next birth of a refill went on in the middle of the start of what had been taken,
 * and took its processor. */
static void test_a_refill_is_put_off_by_what_is_taken(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template_with(s, &far, 4, 8);
  let_refill(s, t, far);
  take_spares(t, 5);
  sim_advance(s->sim, 10);
  assert_int_equal(execute_forks(s, far), 1);
  take_spares(t, 1);
  tell_done(s, t, far);
  assert_int_equal(execute_forks(s, far), 0);
  sim_advance(s->sim, 10);
  assert_int_equal(execute_forks(s, far), 1);
  take_spares(t, 3);
  tell_done(s, t, far);
  sim_advance(s->sim, 10);
  assert_int_equal(execute_forks(s, far), 1);
  take_spares(t, 1); /* few are left: it goes on */
  tell_done(s, t, far);
  assert_int_equal(execute_forks(s, far), 1);
  let_refill(s, t, far);
  assert_int_equal(mf_spares(t), 8);
  mf_close(t, NULL, NULL);
  story_free(s);
}

static mf_process *youngest(mf_process *t) {
  return list_entry(t->spares.prev, struct mf_process, spare_link);
}

/* The oldest had lain in no cache for long, and one whose birth has not been told of
 * would be waited for. */
static void test_the_youngest_spare_that_is_there_is_taken(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template_with_spares(s, &far), *q, *last;
  let_refill(s, t, far);
  last = youngest(t);
  assert_int_equal(mf_fork(t, &q), 0);
  assert_ptr_equal(q, last);
  mf_close(q, NULL, NULL);
  take_spares(t, 3); /* and the refill's first is asked for */
  sim_advance(s->sim, 10);
  last = youngest(t);
  assert_int_equal(last->forked, 0);
  assert_int_equal(mf_fork(t, &q), 0);
  assert_ptr_not_equal(q, last);
  assert_int_equal(q->forked, 1);
  mf_close(q, NULL, NULL);
  assert_int_equal(mf_fork(t, &q), 0); /* there is no other */
  assert_ptr_equal(q, last);
  mf_close(q, NULL, NULL);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* None were made when only forks with their function had been asked for: of these a
 * template says nothing, only their clones do. */
static void test_spares_begin_when_a_clone_tells_of_its_fork(void **state) {
  struct story *s = story_new();
  int far;
  mf_options o = MF_OPTIONS_INIT;
  mf_process *t, *q;
  o.spares_min = o.spares_max = 1;
  assert_int_equal(process_make(s->context, 1, &o, &t), 0);
  far = s->sim->spawned_control;
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  answer_hello(s, far, (uint64_t)t->pid);
  execute_fork(s, t, far, q, 501, 1);
  sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, 501, NULL, 0);
  sim_run(s->sim);
  assert_int_equal(s->runs, 1);
  assert_int_equal(mf_spares(t), 0);
  sim_advance(s->sim, 10);
  assert_int_equal(execute_forks(s, far), 1);
  assert_int_equal(mf_spares(t), 0);
  let_refill(s, t, far);
  assert_int_equal(mf_spares(t), 1);
  close_both(q, t);
  story_free(s);
}

/* A refill that memory or descriptors were missing for was given up until somebody asked
 * the template for something else. */
static void test_a_refill_that_failed_is_tried_again(void **state) {
  for (int descriptors = 0; descriptors < 2; descriptors++) {
    struct story *s = story_new();
    int far;
    mf_process *t = make_template_with_spares(s, &far);
    let_refill(s, t, far);
    take_spares(t, 4);
    s->sim->pair_error = descriptors ? -EMFILE : 0;
    short_of_memory = !descriptors;
    sim_advance(s->sim, 10);
    sim_run(s->sim);
    short_of_memory = 0;
    s->sim->pair_error = 0;
    assert_int_equal(mf_spares(t), 1);
    sim_advance(s->sim, 2000);
    assert_int_equal(execute_forks(s, far), 1);
    let_refill(s, t, far);
    assert_int_equal(mf_spares(t), 5);
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

/* Its template died when it had been asked for the fork. What was not executed by then
 * never is; what was is our child, whose number stands in its slot. */
static void test_a_fork_under_way_when_the_template_dies(void **state) {
  for (int executed = 0; executed < 2; executed++) {
    struct story *s = story_new();
    int far, q_far;
    mf_process *t = make_template(s, &far), *q;
    assert_int_equal(mf_fork(t, &q), 0);
    assert_int_equal(mf_on_exit(q, on_exit_told, s), 0);
    assert_int_equal(mf_run(q, "f", on_run, s), 0);
    q_far = sim_far_end(s->sim, q->chan.fd);
    if (executed)
      execute_fork(s, t, far, q, 501, 1);
    sim_end_process(s->sim, t->pid, SIGKILL);
    sim_hang_up(s->sim, far);
    sim_run(s->sim);
    assert_int_equal(s->runs, !executed);
    if (!executed) {
      assert_int_equal(s->run_error, MF_ETEMPLATE_DIED);
      assert_int_equal(s->run_started, MF_STARTED_NO);
    } else {
      assert_int_equal(mf_pid(q), 501);
      sim_answer(s->sim, q_far, ANS_RUNNING, 501, NULL, 0);
      sim_end_process(s->sim, 501, 4 << 8);
      sim_run(s->sim);
      assert_int_equal(s->run_error, 0);
      assert_int_equal(s->exits, 1);
      assert_int_equal(s->exit_code, 4);
    }
    close_both(q, t);
    story_free(s);
  }
}

/* Fewer spares were kept than had been asked for, without a word. */
static void test_more_spares_at_least_than_at_most_are_misuse(void **state) {
  (void)state;
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *p = NULL;
  mf_options o = MF_OPTIONS_INIT;
  o.spares_min = 2;
  o.spares_max = 1;
  assert_int_equal(mf_new_exec(&o, &p), MF_EINVAL);
  assert_int_equal(mf_fork_options(t, &o, &p), MF_EINVAL);
  assert_null(p);
  o.spares_max = 0;
  assert_int_equal(mf_fork_options(t, &o, &p), MF_EINVAL);
  o.spares_min = 0;
  assert_int_equal(mf_fork_options(t, &o, &p), 0);
  mf_close(p, NULL, NULL);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* A template that is told to end while it hangs, with and without a clone that somebody
 * waits for; the host is told in time, and nothing of it stays. */
static void test_a_closed_template_that_hangs_is_killed(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q;
  mf_eval(t, "loop()", 6, 0, NULL, NULL);
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  sim_run(s->sim);
  int pid = t->pid;
  mf_close(t, on_close, s);
  sim_advance(s->sim, 10 * CLOSE_GRACE_MS);
  assert_int_equal(s->sim->last_signal, 0); /* the run is waited for */
  mf_close(q, NULL, NULL);
  sim_run(s->sim);
  assert_int_equal(s->run_error, MF_ECANCELLED);
  sim_advance(s->sim, 2 * CLOSE_GRACE_MS);
  assert_int_equal(s->sim->last_signal, SIGKILL);
  assert_int_equal(s->sim->last_signal_pid, pid);
  sim_end_process(s->sim, pid, SIGKILL);
  sim_run(s->sim);
  assert_int_equal(s->closes, 1);
  story_free(s);
}

/* The same where even SIGKILL does not end it: it waits in the kernel. */
static void test_a_closed_template_that_no_signal_ends_is_given_up(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  mf_eval(t, "loop()", 6, 0, NULL, NULL);
  assert_int_equal(mf_on_exit(t, on_exit_told, s), 0);
  mf_finish(t);
  sim_advance(s->sim, CLOSE_GRACE_MS);
  assert_int_equal(s->sim->last_signal, SIGKILL);
  assert_int_equal(s->exits, 0);
  sim_advance(s->sim, REPORT_TIMEOUT_MS);
  assert_int_equal(s->exits, 1);
  assert_int_equal(s->exit_known, 0);
  assert_int_equal(s->context->nbusy, 0);
  mf_close(t, on_close, s);
  sim_run(s->sim);
  assert_int_equal(s->closes, 1);
  story_free(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_fork_under_way_when_the_template_dies),
      cmocka_unit_test(test_a_closed_template_that_hangs_is_killed),
      cmocka_unit_test(test_a_closed_template_that_no_signal_ends_is_given_up),
      cmocka_unit_test(test_more_spares_at_least_than_at_most_are_misuse),
      cmocka_unit_test(test_a_default_template_that_waits_is_not_kept_parked),
      cmocka_unit_test(test_a_new_process_does_not_hold_up_a_close_callback),
      cmocka_unit_test(test_a_dead_spare_is_not_taken),
      cmocka_unit_test(test_spares_are_refilled_when_fewer_than_min_are_left),
      cmocka_unit_test(test_spares_begin_when_a_clone_tells_of_its_fork),
      cmocka_unit_test(test_a_refill_is_put_off_by_what_is_taken),
      cmocka_unit_test(test_the_youngest_spare_that_is_there_is_taken),
      cmocka_unit_test(test_a_refill_that_failed_is_tried_again),
  };
  return cmocka_run_group_tests_name("process spares", tests, NULL, NULL);
}
