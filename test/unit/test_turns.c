/* No turn of the loop is long, however many processes end, timers are due or calls fail
 * in the same moment: what a turn does is counted here, not timed. */
#include "process_kit.h"

#include "parent/rpc/rpc.h"
#include <fcntl.h>
#include <signal.h>

/* As context.c says. */
enum { TOLD = 64, CALLED = 512, DUE = 256, CLOSED = 256, FREED = 256 };
enum { MANY = 400 };

static mf_process *clones[MANY];

static void make_clones(struct story *s, mf_process *t, int far) {
  for (int i = 0; i < MANY; i++)
    clones[i] = make_running(s, t, far, 1000 + i);
}

/* A template that was killed made one turn of 6 ms with 3,000 clones: each was asked for
 * in it. */
static void test_clones_learn_of_the_end_of_their_template_over_turns(void **state) {
  struct story *s = story_new();
  int far, told = 0, turns = 0;
  mf_process *t = make_template(s, &far);
  make_clones(s, t, far);
  sim_end_process(s->sim, t->pid, SIGKILL);
  for (; told < MANY && turns < 100; turns++) {
    int before = told;
    sim_step(s->sim);
    told = 0;
    for (int i = 0; i < MANY; i++)
      told += clones[i]->told_round != 0;
    assert_true(told - before <= TOLD);
  }
  assert_int_equal(told, MANY);
  assert_true(turns >= MANY / TOLD);
  for (int i = 0; i < MANY; i++) {
    assert_int_equal(clones[i]->state, RUNNING);
    mf_close(clones[i], NULL, NULL);
  }
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* Those that were asked for of a template that has failed fail as many in a turn, in the
 * order in which they were asked for, and each once. */
static void test_forks_of_a_failed_template_fail_over_turns(void **state) {
  struct story *s = story_new();
  int far, dead = 0, turns = 0;
  mf_process *t = make_template(s, &far);
  for (int i = 0; i < MANY; i++) {
    assert_int_equal(mf_fork(t, &clones[i]), 0);
    assert_int_equal(mf_run(clones[i], "f", on_run, s), 0);
    struct frame f;
    int fds[SIM_QUEUE];
    while (sim_command(s->sim, far, &f, fds))
      ; /* which it does not execute */
  }
  answer_failure(s, far, FAILURE_REMOTE, PHASE_EVAL);
  for (; dead < MANY && turns < 100; turns++) {
    int before = dead;
    sim_step(s->sim);
    for (dead = 0; dead < MANY && clones[dead]->state == DEAD;)
      dead++;
    for (int i = dead; i < MANY; i++)
      assert_int_not_equal(clones[i]->state, DEAD);
    assert_true(dead - before <= TOLD);
  }
  sim_run(s->sim);
  assert_int_equal(dead, MANY);
  assert_int_equal(s->runs, MANY);
  assert_int_equal(s->run_started, MF_STARTED_NO);
  for (int i = 0; i < MANY; i++)
    mf_close(clones[i], NULL, NULL);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* One answer may tell of thousands of forks. Those that have not heard of it yet when the
 * template dies were forked all the same. */
static void test_one_answer_for_many_forks_is_told_over_turns(void **state) {
  for (int dies = 0; dies < 2; dies++) {
    struct story *s = story_new();
    int far, told = 0;
    mf_process *t = make_template(s, &far);
    mf_process *first = make_running(s, t, far, 900); /* shows whose children they are */
    for (int i = 0; i < MANY; i++) {
      assert_int_equal(mf_fork(t, &clones[i]), 0);
      sim_run(s->sim);
      execute_fork(s, t, far, clones[i], 1000 + i, 1);
    }
    sim_answer(s->sim, far, ANS_DONE, t->nsent, NULL, 0);
    for (int turns = 0; told < MANY && turns < 100; turns++) {
      int before = told;
      sim_step(s->sim);
      for (told = 0; told < MANY && clones[told]->forked;)
        told++;
      assert_true(told - before <= 2 * TOLD); /* with what the turn before had left */
      assert_int_equal(t->ndone, t->nsent);
      if (dies && turns == 1)
        sim_end_process(s->sim, t->pid, SIGKILL);
    }
    sim_run(s->sim);
    assert_int_equal(told, MANY);
    for (int i = 0; i < MANY; i++) {
      assert_int_equal(clones[i]->state, SERVING);
      assert_int_equal(clones[i]->pid, 1000 + i);
      sim_end_process(s->sim, 1000 + i, 0);
      mf_close(clones[i], NULL, NULL);
    }
    mf_close(first, NULL, NULL);
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

/* ---- tasks ---- */

enum { TASKS = 3 * CALLED };
static struct {
  struct task task;
  int place; /* in which it ran; 0: not yet */
} tasks[TASKS + 1];
static struct context *tasks_of;
static int nran;

static void on_task(struct task *t) {
  for (int i = 0; i <= TASKS; i++)
    if (&tasks[i].task == t)
      tasks[i].place = ++nran;
  if (t == &tasks[0].task)
    context_task(tasks_of, PHASE_NOTIFY, &tasks[TASKS].task);
}

/* What a turn has no steps for comes in the next ones, before what is asked for later. */
static void test_tasks_keep_their_order_over_turns(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  tasks_of = s->context;
  nran = 0;
  for (int i = 0; i <= TASKS; i++) {
    task_init(&tasks[i].task, on_task);
    tasks[i].place = 0;
  }
  for (int i = 0; i < TASKS; i++)
    context_task(s->context, PHASE_NOTIFY, &tasks[i].task);
  for (int turns = 0; nran <= TASKS && turns < 10; turns++) {
    int before = nran;
    sim_step(s->sim);
    assert_true(nran - before <= CALLED);
  }
  for (int i = 0; i <= TASKS; i++)
    assert_int_equal(tasks[i].place, i + 1);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* ---- deadlines ---- */

enum { DATES = 1000 };
static struct date {
  struct deadline deadline;
  int nfired;
} dates[DATES];
static struct context *dates_of;

static void on_due(struct deadline *d) {
  struct date *it = list_entry(d, struct date, deadline);
  if (it->nfired++ == 0 && it == &dates[0]) /* now again: not in the same run */
    deadline_set(&dates_of->deadlines, d, 0);
}

static int count_fired(void) {
  int n = 0;
  for (int i = 0; i < DATES; i++)
    n += dates[i].nfired;
  return n;
}

static void test_deadlines_in_one_moment_are_spread_over_turns(void **state) {
  struct story *s = story_new();
  int far, fired = 0, most = 0;
  mf_process *t = make_template(s, &far);
  dates_of = s->context;
  for (int i = 0; i < DATES; i++) {
    dates[i].nfired = 0;
    deadline_init(&dates[i].deadline, on_due);
    deadline_set(&s->context->deadlines, &dates[i].deadline, 50);
  }
  deadline_clear(&dates[1].deadline);
  s->sim->now_ms += 60;
  for (int turns = 0; turns < 20; turns++) {
    int before = fired;
    sim_step(s->sim);
    fired = count_fired();
    most = fired - before > most ? fired - before : most;
    if (turns == 0)
      s->sim->now_ms++; /* what is due later waits for its turn, too */
  }
  assert_true(most <= 2 * DUE);
  assert_int_equal(fired, DATES);
  assert_int_equal(dates[0].nfired, 2);
  assert_int_equal(dates[1].nfired, 0);
  assert_int_equal(
      s->sim->timer_at_ms == UINT64_MAX || s->sim->timer_at_ms > s->sim->now_ms, 1);
  mf_close(t, NULL, NULL);
  story_free(s);
}

static void test_a_deadline_that_is_set_again_waits(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  dates_of = s->context;
  dates[0].nfired = 0;
  deadline_init(&dates[0].deadline, on_due);
  deadline_set(&s->context->deadlines, &dates[0].deadline, 50);
  s->sim->now_ms += 50;
  sim_run(s->sim);
  assert_int_equal(dates[0].nfired, 1);
  sim_advance(s->sim, 1);
  assert_int_equal(dates[0].nfired, 2);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* ---- closing ---- */

static struct story *now;
static int closed_this_turn, was_on_loop, opens_at;
static mf_process *opened;

static void on_closed(mf_process *p, void *data) {
  closed_this_turn++;
  was_on_loop = now->sim->started;
  if (++now->closes != opens_at)
    return;
  assert_int_equal(boot_exec(now->context, NULL, &opened), 0);
  nran = 0;
  task_init(&tasks[TASKS].task, on_task);
  context_task(now->context, PHASE_WORK, &tasks[TASKS].task);
}

static void close_all(struct story *s, mf_process *t) {
  closed_this_turn = 0;
  for (int i = 0; i < MANY; i++)
    mf_close(clones[i], on_closed, NULL);
  mf_close(t, on_closed, NULL);
  assert_int_equal(s->closes, 0);
}

static int count_children(const struct story *s) {
  int n = 0;
  for (int i = 0; i < MANY; i++)
    n += s->sim->children[1000 + i];
  return n;
}

/* Thousands of processes whose handles are closed at once: their callbacks, and the
 * freeing of their records, took one turn of 20 ms. The last callback comes when nothing
 * is left on the loop. */
static void test_many_closes_are_spread_over_turns(void **state) {
  struct story *s = now = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  make_clones(s, t, far);
  opens_at = 0;
  close_all(s, t);
  sim_end_process(s->sim, t->pid, 0);
  for (int turns = 0; s->closes <= MANY && turns < 100; turns++) {
    closed_this_turn = 0;
    sim_step(s->sim);
    assert_true(closed_this_turn <= CALLED + CLOSED);
    assert_true(s->sim->started == (s->closes <= MANY) || s->sim->stopping);
  }
  assert_int_equal(s->closes, MANY + 1);
  assert_int_equal(was_on_loop, 0);
  for (int i = 0; i < MANY; i++)
    sim_end_process(s->sim, 1000 + i, 0);
  children_reap(&s->sim->backend);
  assert_int_equal(count_children(s), 0);
  story_free(s);
}

/* A callback opens another one while all that is left is being let go of: the loop goes
 * on, nothing is told twice, and children are reaped as they end. */
static void test_opening_one_while_the_rest_is_let_go_of(void **state) {
  for (opens_at = 1; opens_at <= MANY + 1; opens_at += opens_at == 1 ? 99 : 100) {
    struct story *s = now = story_new();
    int far;
    mf_process *t = make_template(s, &far);
    make_clones(s, t, far);
    opened = NULL;
    close_all(s, t);
    sim_end_process(s->sim, t->pid, 0);
    sim_run(s->sim);
    assert_int_equal(s->closes, MANY + 1);
    assert_non_null(opened);
    assert_int_equal(nran, 1); /* what else it has asked for is done, too */
    assert_int_equal(s->context->started, 1);
    for (int i = 0; i < MANY; i++)
      sim_end_process(s->sim, 1000 + i, 0);
    sim_run(s->sim);
    assert_int_equal(count_children(s), 0);
    mf_close(opened, NULL, NULL);
    story_free(s);
  }
}

/* ---- what is never sent ---- */

enum { DROPPED = 700, DROPPED_AT_ONCE = 64 };

static int count_open(const int *fds) {
  int n = 0;
  for (int i = 0; i < DROPPED; i++)
    n += fcntl(fds[i], F_GETFD) >= 0;
  return n;
}

/* The template of 6,000 forks that it had not executed was killed: to close the sockets
 * that had not gone to it made a turn of 13 ms. They are closed before the loop is left,
 * whoever has closed the last handle. */
static void test_descriptors_never_sent_are_closed_over_turns(void **state) {
  for (int closes = 0; closes < 2; closes++) {
    struct story *s = story_new();
    struct outbox out;
    int far, fds[DROPPED];
    mf_process *t = make_template(s, &far);
    outbox_init(&out);
    for (int i = 0; i < DROPPED; i++) {
      struct fdset set;
      fdset_init(&set);
      fds[i] = fd_open_null();
      assert_true(fds[i] >= 0);
      fdset_push(&set, fds[i]);
      assert_int_equal(outbox_put(&out, CMD_FORK, 1, NULL, 0, &set), 0);
    }
    context_drop_outbox(s->context, &out);
    assert_true(outbox_empty(&out));
    int left = count_open(fds);
    assert_int_equal(left, DROPPED - DROPPED_AT_ONCE);
    if (closes) {
      mf_close(t, on_close, s);
      sim_end_process(s->sim, t->pid, 0);
    }
    for (int turns = 0; left > 0 && turns < 100; turns++) {
      int before = left;
      sim_step(s->sim);
      left = count_open(fds);
      assert_true(before - left <= FREED);
      assert_int_equal(s->closes, 0);
    }
    assert_int_equal(left, 0);
    sim_run(s->sim);
    assert_int_equal(s->closes, closes);
    if (!closes)
      mf_close(t, NULL, NULL);
    story_free(s);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_clones_learn_of_the_end_of_their_template_over_turns),
      cmocka_unit_test(test_forks_of_a_failed_template_fail_over_turns),
      cmocka_unit_test(test_one_answer_for_many_forks_is_told_over_turns),
      cmocka_unit_test(test_tasks_keep_their_order_over_turns),
      cmocka_unit_test(test_deadlines_in_one_moment_are_spread_over_turns),
      cmocka_unit_test(test_a_deadline_that_is_set_again_waits),
      cmocka_unit_test(test_many_closes_are_spread_over_turns),
      cmocka_unit_test(test_opening_one_while_the_rest_is_let_go_of),
      cmocka_unit_test(test_descriptors_never_sent_are_closed_over_turns),
  };
  return cmocka_run_group_tests_name("turns", tests, NULL, NULL);
}
