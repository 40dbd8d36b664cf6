/* Single stories of the parent's core through the backend: what may be asked of a process
 * in each state and after each ending, requests that nobody answers any more, misuse. */
#include "unit.h"

#include "help/hello.h"
#include "help/sim.h"
#include "parent/api/make.h"
#include "parent/private.h"
#include "parent/process/children.h"
#include "parent/process/dump.h"
#include "parent/process/process.h"
#include "parent/process/registry.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "process_kit.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The template was asked about its clone behind a command that fails, after which it
 * answers nothing. */
static void test_memory_is_told_when_the_template_fails_first(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q = make_running(s, t, far, 501);
  assert_int_equal(mf_eval(t, "x", 1, 0, NULL, NULL), 0);
  assert_int_equal(mf_memory(q, on_memory, s), 0);
  sim_run(s->sim);
  assert_int_equal(s->memories, 0);
  answer_failure(s, far, FAILURE_REMOTE, PHASE_EVAL);
  sim_run(s->sim);
  assert_int_equal(s->memories, 1);
  close_both(q, t);
  story_free(s);
}

/* Whoever took up a socket had no time limit, whatever the options said. */
static void test_what_is_taken_up_has_its_timeout(void **state) {
  struct story *s = story_new();
  mf_options o = MF_OPTIONS_INIT;
  int pair[2];
  mf_process *p;
  o.timeout_ms = 100;
  o.name = "guest";
  assert_int_equal(s->sim->backend.ops->pair(&s->sim->backend, pair), 0);
  s->sim->fd[sim_far_end(s->sim, pair[0])].pid = 501;
  assert_int_equal(process_take_up(s->context, &o, pair[0], &p), 0);
  assert_int_equal(mf_run(p, "f", on_run, s), 0);
  answer_hello(s, sim_far_end(s->sim, pair[0]), 501);
  sim_run(s->sim);
  assert_int_equal(s->runs, 0);
  sim_advance(s->sim, 101);
  assert_int_equal(s->runs, 1);
  assert_int_equal(s->run_error, MF_ETIMEOUT);
  assert_int_equal(s->sim->last_signal, SIGKILL);
  assert_int_equal(s->sim->last_signal_pid, 501);
  assert_string_equal(p->name, "guest");
  mf_close(p, NULL, NULL);
  story_free(s);
}

/* ---- what can be asked of a process that is not to be had any more ---- */

static int ask_require(struct story *s, mf_process *p) {
  return mf_require(p, "string");
}

static int ask_eval(struct story *s, mf_process *p) {
  return mf_eval(p, "x", 1, 0, NULL, NULL);
}

static int ask_send_fd(struct story *s, mf_process *p) {
  return mf_send_fd(p, 0);
}

static int ask_send_arg(struct story *s, mf_process *p) {
  return mf_send_arg(p, "x", 1);
}

static void no_release(void *data) {
}

static int ask_send_arg_ref(struct story *s, mf_process *p) {
  return mf_send_arg_ref(p, "x", 1, no_release, NULL);
}

static int ask_take_args(struct story *s, mf_process *p) {
  return mf_take_args(p);
}

static int ask_chdir(struct story *s, mf_process *p) {
  return mf_chdir(p, "/");
}

static int ask_setenv(struct story *s, mf_process *p) {
  return mf_setenv(p, "x", "y");
}

static int ask_set(struct story *s, mf_process *p) {
  return mf_set(p, "a.b", "\x01", 1);
}

static int ask_seal(struct story *s, mf_process *p) {
  return mf_seal(p, 0);
}

static int ask_limit(struct story *s, mf_process *p) {
  mf_rlimit core = {"core", 0};
  return mf_limit(p, &core, 1);
}

static int ask_fork(struct story *s, mf_process *p) {
  mf_process *q = NULL;
  int r = mf_fork(p, &q);
  if (q)
    mf_close(q, NULL, NULL);
  return r;
}

static int ask_run(struct story *s, mf_process *p) {
  return mf_run(p, "f", on_run, s);
}

static int ask_to_fd(struct story *s, mf_process *p) {
  return mf_to_fd(p, on_run, s);
}

static int ask_rpc(struct story *s, mf_process *p) {
  mf_rpc *rpc = NULL;
  int r = mf_rpc_new(p, "f", NULL, &rpc);
  if (rpc)
    mf_rpc_close(rpc, NULL, NULL);
  return r;
}

static int ask_pool(struct story *s, mf_process *p) {
  mf_pool *pool = NULL;
  int r = mf_pool_new(p, "f", NULL, &pool);
  if (pool)
    mf_pool_close(pool, NULL, NULL);
  return r;
}

static int ask_finish(struct story *s, mf_process *p) {
  return mf_finish(p);
}

static int ask_kill(struct story *s, mf_process *p) {
  return mf_kill(p, SIGTERM);
}

static int ask_on_exit(struct story *s, mf_process *p) {
  return mf_on_exit(p, on_exit_told, s);
}

static int ask_on_error(struct story *s, mf_process *p) {
  return mf_on_error(p, NULL, NULL);
}

static int ask_memory(struct story *s, mf_process *p) {
  return mf_memory(p, on_memory, s);
}

enum ending {
  FINISHED,
  FINISHED_DEAD,
  KILLED,
  TIMED_OUT,
  IN_FUNCTION,
  RETURNED,
  CLOSED,
  ENDINGS
};

/* What is asked, and what it returns after each ending. Where a run, to_fd or memory is
 * taken its callback tells of the end. A finished process is one that mf_finish was
 * called for, whether or not it has come to its end. One that has returned from its
 * function took commands and another run again, though none while it was in it. */
static const struct {
  int (*ask)(struct story *s, mf_process *p);
  int result[ENDINGS];
} asked[] = {
#define WORK                                                                             \
  { MF_ESTATE, MF_ESTATE, 0, 0, MF_ESTATE, MF_ESTATE, MF_EINVAL }
    {ask_require, WORK},
    {ask_eval, WORK},
    {ask_send_fd, WORK},
    {ask_send_arg, WORK},
    {ask_send_arg_ref, WORK},
    {ask_take_args, WORK},
    {ask_chdir, WORK},
    {ask_setenv, WORK},
    {ask_set, WORK},
    {ask_seal, WORK},
    {ask_limit, WORK},
    {ask_fork, WORK},
    {ask_run, WORK},
    {ask_to_fd, WORK},
    {ask_rpc, WORK},
    {ask_pool, WORK},
#undef WORK
    {ask_finish, {0, 0, 0, 0, MF_ESTATE, MF_ESTATE, MF_EINVAL}},
    {ask_kill, {0, -ESRCH, -ESRCH, 0, 0, -ESRCH, MF_EINVAL}},
    {ask_on_exit, {0, 0, 0, 0, 0, 0, MF_EINVAL}},
    {ask_on_error, {0, 0, 0, 0, 0, 0, MF_EINVAL}},
    {ask_memory, {0, 0, 0, 0, 0, 0, MF_EINVAL}},
};

static mf_process *make_ended(struct story *s, enum ending how, mf_process **ret_t) {
  mf_options o = MF_OPTIONS_INIT;
  int far;
  mf_process *t = *ret_t = make_template(s, &far), *q;
  if (how == IN_FUNCTION || how == RETURNED) {
    q = make_running(s, t, far, 501);
    if (how == RETURNED)
      sim_end_process(s->sim, 501, 0);
    sim_run(s->sim);
    return q;
  }
  o.timeout_ms = how == TIMED_OUT ? 50 : 0;
  assert_int_equal(mf_fork_options(t, &o, &q), 0);
  process_flush(q);
  execute_fork(s, t, far, q, 501, 1);
  sim_run(s->sim);
  if (how == FINISHED || how == FINISHED_DEAD)
    assert_int_equal(mf_finish(q), 0);
  if (how == TIMED_OUT)
    sim_advance(s->sim, 60);
  if (how == FINISHED_DEAD || how == KILLED)
    sim_end_process(s->sim, 501, how == KILLED ? SIGKILL : 0);
  sim_run(s->sim);
  if (how == CLOSED)
    mf_close(q, NULL, NULL); /* valid until its callback, that is, until the loop turns */
  return q;
}

static void test_set_takes_one_value_and_a_name(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  static const char *const names[] = {"", ".", "a.", ".a", "a..b", NULL};
  for (size_t i = 0; i < COUNT(names); i++)
    assert_int_equal(mf_set(t, names[i], "\x01", 1), MF_EINVAL);
  assert_int_equal(mf_set(t, "a", NULL, 1), MF_EINVAL);
  assert_int_equal(mf_set(t, "a", "", 0), MF_EINVAL);
  assert_int_equal(mf_set(t, "a", "", (size_t)(1 << 30) + 1), MF_ELIMIT);
  assert_int_equal(mf_set(NULL, "a", "\x01", 1), MF_EINVAL);
  assert_int_equal(mf_set(t, "a.b", "\x01", 1), 0);
  mf_close(t, NULL, NULL);
  story_free(s);
}

static void test_what_is_asked_after_the_end(void **state) {
  for (size_t i = 0; i < COUNT(asked); i++) {
    for (int how = 0; how < ENDINGS; how++) {
      struct story *s = story_new();
      mf_process *t, *q = make_ended(s, (enum ending)how, &t);
      int started = s->runs, r = asked[i].ask(s, q);
      if (r != asked[i].result[how])
        fail_msg("question %zu after ending %d: %d", i, how, r);
      assert_int_equal(s->runs, started); /* never inside the call */
      sim_run(s->sim);
      if (r == 0 && (asked[i].ask == ask_run || asked[i].ask == ask_to_fd)) {
        assert_int_equal(s->runs, started + 1);
        assert_int_equal(s->run_error, how == TIMED_OUT ? MF_ETIMEOUT : MF_ECLONE_DIED);
      }
      if (r == 0 && asked[i].ask == ask_memory && how != IN_FUNCTION)
        assert_int_equal(s->memories, 1);
      if (how != CLOSED &&
          !(r == 0 && (asked[i].ask == ask_rpc || asked[i].ask == ask_pool)))
        mf_close(q, NULL, NULL);
      mf_close(t, NULL, NULL);
      sim_end_process(s->sim, 501, 0);
      story_free(s);
    }
  }
}

/* It was kept for a pool that starts the template again, which then executed what the
 * caller had been told was refused; twice, where he had asked again. */
static void test_a_command_that_was_not_sent_is_not_kept(void **state) {
  static char code[8192];
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  const struct journal *before = t->journal;
  assert_non_null(before);
  memset(code, ' ', sizeof code);
  short_of_memory = 1;
  int r = mf_eval(t, code, sizeof code, 0, NULL, NULL);
  short_of_memory = 0;
  assert_int_equal(r, MF_ENOMEM);
  assert_ptr_equal(t->journal, before);
  assert_int_equal(mf_eval(t, code, sizeof code, 0, NULL, NULL), 0);
  assert_ptr_not_equal(t->journal, before);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* Thousands of clones ended in one instant, and their reports were worked off in one call
 * of 25 ms. The rest waits for the next turns, without being forgotten when the socket
 * falls silent. */
static void test_many_answers_are_spread_over_turns(void **state) {
  enum { MANY = 1200, A_TURN = 512 };
  for (int dies = 0; dies < 2; dies++) {
    struct story *s = story_new();
    int far, turns = 0;
    mf_process *t = make_template(s, &far);
    for (int i = 0; i < MANY; i++)
      assert_int_equal(mf_eval(t, "x", 1, 0, NULL, NULL), 0);
    uint64_t last = t->nsent - 1; /* the one of the last comes later */
    for (uint64_t n = 1; n <= last; n++)
      sim_answer(s->sim, far, ANS_DONE, n, NULL, 0);
    if (dies) { /* what is left is heard before its end is believed */
      sim_step(s->sim);
      assert_int_equal(t->ndone, A_TURN);
      sim_end_process(s->sim, t->pid, SIGKILL);
      sim_step(s->sim);
    } else {
      for (; t->ndone < last && turns < 10; turns++) {
        uint64_t before = t->ndone;
        sim_step(s->sim);
        assert_true(t->ndone - before <= A_TURN);
      }
      assert_int_equal(turns, (int)(last / A_TURN + 1));
    }
    assert_int_equal(t->ndone, last);
    if (!dies) { /* and it is read on when all that is worked off, though nothing is sent
                  */
      sim_answer(s->sim, far, ANS_DONE, t->nsent, NULL, 0);
      sim_run(s->sim);
      assert_int_equal(t->ndone, t->nsent);
    }
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

/* A template that reads as fast as is written to it held the loop until all was written.
 */
static void test_a_long_value_is_spread_over_turns(void **state) {
  enum { MANY = 5 * OUTBOX_TURN, MOST = OUTBOX_TURN + OUTBOX_IOV_MAX * FRAME_BODY_MAX };
  struct story *s = story_new();
  char *value = calloc(1, MANY);
  int far, turns = 0;
  mf_process *t = make_template(s, &far);
  const struct buf *read = &s->sim->fd[far].rx;
  size_t before = 0;
  memcpy(value, "\xc6", 1); /* one long string */
  for (int i = 0; i < 4; i++)
    value[1 + i] = (char)((MANY - 5) >> (24 - 8 * i));
  assert_int_equal(mf_set(t, "x", value, MANY), 0);
  assert_true(buf_size(read) <= MOST);
  do {
    before = buf_size(read);
    sim_step(s->sim);
    assert_true(buf_size(read) - before <= MOST);
    turns++;
  } while (buf_size(read) != before);
  assert_true(before > MANY);
  assert_true(turns >= MANY / MOST);
  free(value);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* What no template can be asked about, and is large, is measured aside. */
static void test_memory_that_takes_long_is_told_later(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  assert_int_equal(mf_run(t, "f", on_run, s), 0);
  sim_answer(s->sim, far, ANS_RUNNING, (uint64_t)t->pid, NULL, 0);
  sim_run(s->sim);
  s->sim->slow_measures = 1;
  assert_int_equal(mf_memory(t, on_memory, s), 0);
  assert_int_equal(mf_memory(t, on_memory, s), 0);
  assert_int_equal(s->sim->nmeasures, 2);
  assert_int_equal(s->memories, 0);
  sim_run(s->sim);
  assert_int_equal(s->memories, 2);
  assert_int_equal(s->memory_error, 0);
  assert_int_equal(s->sim->nmeasures, 0);
  assert_int_equal(mf_memory(t, on_memory, s), 0);
  sim_end_process(s->sim, t->pid, SIGKILL); /* meanwhile: its pidfd is looked at first */
  sim_run(s->sim);
  assert_int_equal(s->memories, 3);
  assert_int_equal(s->memory_error, MF_ECLONE_DIED);
  assert_int_equal(s->sim->nmeasures, 0);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* It was refused as misuse while a run was under way, which the caller may not even know
 * of (an rpc's). */
static void test_memory_asked_while_it_starts_waits_for_that(void **state) {
  for (int fails = 0; fails < 2; fails++) {
    struct story *s = story_new();
    int far;
    mf_process *t = make_template(s, &far);
    assert_int_equal(mf_run(t, "f", on_run, s), 0);
    assert_int_equal(mf_memory(t, on_memory, s), 0);
    sim_run(s->sim);
    assert_int_equal(s->memories, 0);
    if (fails)
      answer_failure(s, far, FAILURE_REMOTE, PHASE_FUNCTION);
    else
      sim_answer(s->sim, far, ANS_RUNNING, (uint64_t)t->pid, NULL, 0);
    sim_run(s->sim);
    assert_int_equal(s->runs, 1);
    assert_int_equal(s->memories, 1);
    assert_int_equal(s->memory_error, fails ? MF_EREMOTE : 0);
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

static void test_closing_forgets_a_measure(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  assert_int_equal(mf_run(t, "f", on_run, s), 0);
  sim_answer(s->sim, far, ANS_RUNNING, (uint64_t)t->pid, NULL, 0);
  sim_run(s->sim);
  s->sim->slow_measures = 1;
  assert_int_equal(mf_memory(t, on_memory, s), 0);
  mf_close(t, on_close, s);
  assert_int_equal(s->sim->nmeasures, 0);
  sim_run(s->sim);
  assert_int_equal(s->memories, 1);
  assert_int_equal(s->memory_error, MF_ECANCELLED);
  assert_int_equal(s->closes, 1);
  story_free(s);
}

static void count_release(void *data) {
  ++*(int *)data;
}

/* Each crashed: a NULL where the result, the list or the callback should be. */
static void test_a_missing_pointer_is_misuse(void **state) {
  (void)state;
  struct story *s = story_new();
  int far, released = 0, fd[2];
  mf_process *t = make_template(s, &far);
  assert_int_equal(mf_new(NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_new_exec(NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_fork(t, NULL), MF_EINVAL);
  assert_int_equal(pipe(fd), 0);
  assert_int_equal(mf_from_fd(NULL, fd[0], NULL), MF_EINVAL);
  assert_int_equal(fcntl(fd[0], F_GETFD), -1); /* it is taken even so */
  close(fd[1]);
  assert_int_equal(mf_limit(t, NULL, 1), MF_EINVAL);
  assert_int_equal(mf_memory(t, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_send_arg_ref(t, NULL, 5, count_release, &released), MF_EINVAL);
  assert_int_equal(released, 1);
  assert_int_equal(mf_send_arg_ref(t, NULL, 5, NULL, NULL), MF_EINVAL);
  mf_dump_add(NULL);
  mf_dump_remove(NULL);
  mf_options_init(NULL);
  mf_rpc_options_init(NULL);
  mf_pool_options_init(NULL);
  mf_close(t, NULL, NULL);
  sim_run(s->sim);
  story_free(s);
}

/* Both collectors made the template end with a protocol error; of two audits one won. */
static void test_two_values_in_one_flag_of_a_seal_are_misuse(void **state) {
  (void)state;
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  assert_int_equal(mf_seal(t, MF_SEAL_INCREMENTAL | MF_SEAL_STOP), MF_EINVAL);
  assert_int_equal(mf_seal(t, MF_SEAL_AUDIT_OFF | MF_SEAL_AUDIT_STRICT), MF_EINVAL);
  assert_int_equal(mf_seal(t, MF_SEAL_AUDIT_WARN | MF_SEAL_AUDIT_STRICT), MF_EINVAL);
  assert_int_equal(mf_seal(t, 0x80), MF_EINVAL);
  assert_int_equal(mf_seal(t, MF_SEAL_STOP | MF_SEAL_AUDIT_WARN), 0);
  mf_close(t, NULL, NULL);
  story_free(s);
}

static void count_error(mf_process *p, const mf_error *e, void *data) {
  (void)p, (void)e;
  ++*(int *)data;
}

/* It made a thread of the default template, or was ignored. */
static void test_isolation_is_of_forks(void **state) {
  (void)state;
  const char *const command[] = {"true", NULL};
  mf_options o = MF_OPTIONS_INIT;
  mf_process *p;
  o.isolation = MF_ISOLATION_THREAD;
  o.command = command;
  assert_int_equal(mf_new(&o, &p), MF_EINVAL);
  assert_int_equal(mf_new_exec(&o, &p), MF_EINVAL);
  assert_int_equal(mf_remote(&o, &p), MF_EINVAL);
}

/* It was accepted, and told of later. */
static void test_what_was_run_or_finished_is_not_saved(void **state) {
  (void)state;
  for (int finishes = 0; finishes < 2; finishes++) {
    struct story *s = story_new();
    int far, errors = 0;
    mf_process *t = make_template(s, &far);
    assert_int_equal(finishes ? mf_finish(t) : mf_run(t, "f", on_run, s), 0);
    assert_int_equal(mf_save(t, "/tmp/image", count_error, &errors), MF_ESTATE);
    mf_close(t, NULL, NULL);
    sim_run(s->sim);
    assert_int_equal(errors, 0);
    story_free(s);
  }
}

/* The template took it for a broken protocol and died, the default one included. */
static void test_a_variable_without_a_name_is_misuse(void **state) {
  (void)state;
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q;
  const char *const bad[] = {"=value", ""}, *const good[] = {"NAME", "NAME=", "N=a=b"};
  for (int i = 0; i < 2; i++) {
    const char *const env[] = {"A=b", bad[i], NULL};
    mf_options o = MF_OPTIONS_INIT;
    o.env = env;
    assert_int_equal(mf_fork_options(t, &o, &q), MF_EINVAL);
  }
  for (int i = 0; i < 3; i++) {
    const char *const env[] = {good[i], NULL};
    mf_options o = MF_OPTIONS_INIT;
    o.env = env;
    assert_int_equal(mf_fork_options(t, &o, &q), 0);
    mf_close(q, NULL, NULL);
  }
  mf_close(t, NULL, NULL);
  sim_run(s->sim);
  story_free(s);
}

/* ---- limits and budgets ---- */

/* A process has ended, and children of its own go on writing to its socket. */
static void test_a_socket_that_never_dries_up_is_read_to_a_limit(void **state) {
  static const unsigned char done[] = {0, 0, 0, 0, ANS_DONE, 0, 0, 0,
                                       0, 0, 0, 0, 0,        0, 0, 0};
  struct story *s = story_new();
  mf_process *t, *q;
  struct sim_fd *near;
  int far, q_far;
  t = make_template(s, &far);
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_eval(q, "x", 1, 0, NULL, NULL), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  q_far = sim_far_end(s->sim, q->chan.fd);
  execute_fork(s, t, far, q, 500, 1);
  sim_run(s->sim);
  near = &s->sim->fd[s->sim->fd[q_far].peer];
  near->flood = sizeof done;
  sim_bytes(s->sim, q_far, done, sizeof done);
  sim_end_process(s->sim, 500, 9);
  q->pid_watch.on_ready(&q->pid_watch, WATCH_READ);
  assert_int_equal(q->state, DEAD);
  assert_true(near->nread < 2 << 20);
  near->flood = 0;
  sim_run(s->sim);
  assert_int_equal(s->runs, 1);
  assert_int_equal(s->run_error, MF_ECLONE_DIED);
  assert_int_equal(s->run_started, MF_STARTED_UNKNOWN); /* its *running* may lie behind */
  close_both(t, q);
  story_free(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_missing_pointer_is_misuse),
      cmocka_unit_test(test_two_values_in_one_flag_of_a_seal_are_misuse),
      cmocka_unit_test(test_isolation_is_of_forks),
      cmocka_unit_test(test_what_was_run_or_finished_is_not_saved),
      cmocka_unit_test(test_a_variable_without_a_name_is_misuse),
      cmocka_unit_test(test_memory_is_told_when_the_template_fails_first),
      cmocka_unit_test(test_a_command_that_was_not_sent_is_not_kept),
      cmocka_unit_test(test_many_answers_are_spread_over_turns),
      cmocka_unit_test(test_a_long_value_is_spread_over_turns),
      cmocka_unit_test(test_memory_that_takes_long_is_told_later),
      cmocka_unit_test(test_memory_asked_while_it_starts_waits_for_that),
      cmocka_unit_test(test_closing_forgets_a_measure),
      cmocka_unit_test(test_what_is_taken_up_has_its_timeout),
      cmocka_unit_test(test_set_takes_one_value_and_a_name),
      cmocka_unit_test(test_what_is_asked_after_the_end),
      cmocka_unit_test(test_a_socket_that_never_dries_up_is_read_to_a_limit),
  };
  return cmocka_run_group_tests_name("process asked", tests, NULL, NULL);
}
