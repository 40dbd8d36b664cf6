/* How a process ends in which clones run in threads: src/parent/process/ending.c. With the
 * real template program, which is stopped, fails or is given up while a clone of it in a
 * thread runs, is killed or is closed. */
#include "parent/common/times.h"
#include "parent/process/process.h"
#include "unit.h"

#include <moonfork.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

enum { PAUSE_MS = 5, PAUSES = 4000 };
enum { PAST_GRACE_MS = 2700, SOON_MS = 1500 };

/* A template and its clone in a thread. */
struct pair {
  mf_process *template, *clone;
  pid_t pid;                         /* of the template */
  int socket;                        /* of the function that runs in the clone */
  int template_closed, clone_closed; /* callbacks */
};

static void on_started(mf_process *p, const mf_error *error, int socket, void *data) {
  (void)p;
  *(int *)data = error ? -2 : socket;
}

static void on_closed(mf_process *p, void *data) {
  (void)p;
  ++*(int *)data;
}

static void on_time(uv_timer_t *timer) {
  *(int *)timer->data = 1;
}

/* The loop goes on for so long, whatever is on it. The timer repeats: the loop may wait for
 * events after it has run it. */
static void turn_for(uint64_t ms) {
  static uv_timer_t timer;
  int is_over = 0;
  uv_timer_init(uv_default_loop(), &timer);
  timer.data = &is_over;
  uv_timer_start(&timer, on_time, ms, PAUSE_MS);
  while (!is_over)
    uv_run(uv_default_loop(), UV_RUN_ONCE);
  uv_close((uv_handle_t *)&timer, NULL);
  uv_run(uv_default_loop(), UV_RUN_NOWAIT);
}

/* 0: this Lua has no threads. */
static int make_pair(struct pair *t, int runs) {
  static const char code[] =
      "function echoes(s) for l in s:lines() do s:write(l, '\\n') end "
      "end";
  mf_options options = MF_OPTIONS_INIT;
  *t = (struct pair){.socket = -1};
  options.isolation = MF_ISOLATION_THREAD;
  assert_int_equal(mf_new_exec(NULL, &t->template), 0);
  assert_int_equal(mf_eval(t->template, code, sizeof code - 1, 0, NULL, NULL), 0);
  assert_int_equal(mf_fork_options(t->template, &options, &t->clone), 0);
  if (runs) {
    assert_int_equal(mf_run(t->clone, "echoes", on_started, &t->socket), 0);
    while (t->socket == -1)
      uv_run(uv_default_loop(), UV_RUN_ONCE);
  }
  for (int i = 0; i < PAUSES && t->socket != -2 && mf_pid(t->clone) < 0; i++)
    turn_for(PAUSE_MS);
  t->pid = mf_pid(t->template);
  if (mf_pid(t->clone) > 0)
    return 1;
  mf_close(t->clone, NULL, NULL);
  mf_close(t->template, NULL, NULL);
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
  return 0;
}

static void stop(const struct pair *t) {
  assert_int_equal(kill(t->pid, SIGSTOP), 0);
  assert_int_equal(waitpid(t->pid, NULL, WUNTRACED), t->pid);
}

static void close_template(struct pair *t) {
  mf_close(t->template, on_closed, &t->template_closed);
}

static void close_clone(struct pair *t) {
  mf_close(t->clone, on_closed, &t->clone_closed);
}

/* It has ended, and was reaped. */
static int is_gone(const struct pair *t) {
  return kill(t->pid, 0) < 0 && errno == ESRCH;
}

/* The loop ends, and so has the template: it is gone; or it took long to die of SIGKILL, as
 * on a machine that is busy, and was waited for until its time was over. */
static int ends_with_loop(const struct pair *t) {
  enum { TIME_MS = CLOSE_GRACE_MS + REPORT_TIMEOUT_MS };
  uint64_t begun_ms = uv_hrtime() / 1000000;
  int status, r = 0;
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
  if (is_gone(t))
    return 1;
  if (uv_hrtime() / 1000000 - begun_ms < TIME_MS)
    return 0;
  for (int i = 0; i < PAUSES && r == 0; i++) {
    poll(NULL, 0, PAUSE_MS);
    r = waitpid(t->pid, &status, WNOHANG);
  }
  return r == t->pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static int echoes(const struct pair *t) {
  struct pollfd p = {.fd = t->socket, .events = POLLIN};
  char text[2];
  return send(t->socket, "x\n", 2, MSG_NOSIGNAL) == 2 &&
         poll(&p, 1, PAUSE_MS * PAUSES) == 1 && read(t->socket, text, 2) == 2;
}

/* However the test went. */
static void clean_up(struct pair *t) {
  if (t->socket >= 0)
    close(t->socket);
  if (is_gone(t))
    return;
  kill(t->pid, SIGKILL);
  waitpid(t->pid, NULL, 0);
}

/* The clone neither runs nor will: nothing keeps the template from being killed, in
 * whatever order they are closed, and it is reaped while the loop goes on. */
static void test_a_stopped_template_whose_clone_is_over_ends(void **state) {
  (void)state;
  static const struct {
    const char *what;
    int runs, kills_late, closes_clone_first;
    unsigned between_ms;
  } rows[] = {
      {"clone that serves, closed first", 0, 0, 1, 0},
      {"clone that serves, closed second", 0, 0, 0, 0},
      {"clone that serves, closed after the grace", 0, 0, 0, PAST_GRACE_MS},
      {"clone that was killed, closed first", 1, 0, 1, 0},
      {"clone that was killed, closed second", 1, 0, 0, 0},
      {"clone that is killed after the close", 1, 1, 0, 50},
      {"clone that is killed after the grace", 1, 1, 0, PAST_GRACE_MS},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    struct pair t;
    if (!make_pair(&t, rows[i].runs))
      skip();
    stop(&t);
    if (rows[i].runs && !rows[i].kills_late)
      assert_int_equal(process_end_by_force(t.clone), 0);
    if (rows[i].closes_clone_first)
      close_clone(&t);
    else
      close_template(&t);
    if (rows[i].between_ms)
      turn_for(rows[i].between_ms);
    if (rows[i].kills_late)
      assert_int_equal(process_end_by_force(t.clone), 0);
    if (rows[i].closes_clone_first)
      close_template(&t);
    else
      close_clone(&t);
    int gone = ends_with_loop(&t);
    clean_up(&t);
    if (!gone)
      print_message("# %s\n", rows[i].what);
    assert_true(gone);
    assert_int_equal(t.template_closed, 1);
    assert_int_equal(t.clone_closed, 1);
  }
}

/* Nobody waits for it, and it ends with its clone. */
static void test_a_stopped_template_whose_clone_runs_is_left_alone(void **state) {
  (void)state;
  for (int first = 0; first < 2; first++) {
    struct pair t;
    if (!make_pair(&t, 1))
      skip();
    stop(&t);
    uint64_t begun_ms = uv_hrtime() / 1000000;
    if (first)
      close_clone(&t);
    close_template(&t);
    if (!first)
      close_clone(&t);
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
    int soon = uv_hrtime() / 1000000 - begun_ms < SOON_MS;
    assert_int_equal(kill(t.pid, SIGCONT), 0);
    int lives = echoes(&t), status, r = 0;
    close(t.socket);
    t.socket = -1;
    for (int i = 0; i < PAUSES && r == 0; i++) {
      r = waitpid(t.pid, &status, WNOHANG);
      poll(NULL, 0, r ? 0 : PAUSE_MS);
    }
    clean_up(&t);
    assert_true(soon);
    assert_true(lives);
    assert_int_equal(r, t.pid);
    assert_int_equal(status, 0);
    assert_int_equal(t.template_closed, 1);
    assert_int_equal(t.clone_closed, 1);
  }
}

/* A clone that had been closed was taken for one that runs when it had ended. */
static void test_a_template_that_hangs_ends_after_its_closed_clone(void **state) {
  (void)state;
  static const char code[] = "while true do end";
  struct pair t;
  if (!make_pair(&t, 1))
    skip();
  close_clone(&t);
  assert_int_equal(mf_eval(t.template, code, sizeof code - 1, 0, NULL, NULL), 0);
  turn_for(50);
  close_template(&t);
  close(t.socket);
  t.socket = -1;
  int gone = ends_with_loop(&t);
  clean_up(&t);
  assert_true(gone);
}

/* Nobody waits for what it has not confirmed: a loop never returned. */
static void test_a_stopped_template_that_is_to_end_is_not_waited_for(void **state) {
  (void)state;
  struct pair t;
  if (!make_pair(&t, 1))
    skip();
  stop(&t);
  assert_int_equal(mf_finish(t.template), 0);
  turn_for(PAST_GRACE_MS);
  int waits = uv_loop_alive(uv_default_loop());
  close_clone(&t);
  close_template(&t);
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
  clean_up(&t);
  assert_false(waits);
}

static void on_no_run(mf_process *p, const mf_error *error, int socket, void *data) {
  (void)p, (void)socket;
  assert_non_null(error);
  ++*(int *)data;
}

static void on_ended(mf_process *p, const mf_exit *status, void *data) {
  (void)p;
  *(mf_exit *)data = *status;
}

static void fail_it(struct pair *t) {
  assert_int_equal(mf_eval(t->template, "error 'x'", 9, 0, NULL, NULL), 0);
  turn_for(50);
}

/* It is in the middle of something when its function is withdrawn. */
static void give_up(struct pair *t) {
  static const char code[] = "os.execute 'exec sleep 0.3'";
  static int told;
  assert_int_equal(mf_eval(t->template, code, sizeof code - 1, 0, NULL, NULL), 0);
  assert_int_equal(mf_run(t->template, "type", on_no_run, &told), 0);
  turn_for(50);
}

static void leave(struct pair *t) {
  (void)t;
}

/* Each of these closed processes runs nothing itself, and was killed after two seconds, with
 * the clone. */
static void test_a_closed_template_whose_clone_runs_is_not_killed(void **state) {
  (void)state;
  static void (*const before[])(struct pair *) = {leave, fail_it, give_up};
  for (size_t i = 0; i < COUNT(before); i++) {
    struct pair t;
    mf_exit exit = {0};
    if (!make_pair(&t, 1))
      skip();
    before[i](&t);
    close_template(&t);
    turn_for(PAST_GRACE_MS);
    int lives = echoes(&t);
    assert_int_equal(mf_on_exit(t.clone, on_ended, &exit), 0);
    close(t.socket);
    t.socket = -1;
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
    for (int n = 0; n < PAUSES && !is_gone(&t); n++)
      turn_for(PAUSE_MS);
    int gone = is_gone(&t);
    close_clone(&t);
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
    clean_up(&t);
    if (!lives)
      print_message("# row %zu\n", i);
    assert_true(lives);
    assert_int_equal(exit.known, 1);
    assert_int_equal(exit.signal, 0);
    assert_int_equal(exit.code, 0);
    assert_true(gone);
  }
}

/* The loop ends while it runs: the program goes on without it. */
static void test_a_program_leaves_a_template_whose_clone_runs(void **state) {
  (void)state;
  static void (*const before[])(struct pair *) = {leave, fail_it, give_up};
  for (size_t i = 0; i < COUNT(before); i++) {
    for (int first = 0; first < 2; first++) {
      struct pair t;
      if (!make_pair(&t, 1))
        skip();
      before[i](&t);
      if (first)
        close_clone(&t);
      close_template(&t);
      if (!first)
        close_clone(&t);
      uv_run(uv_default_loop(), UV_RUN_DEFAULT);
      poll(NULL, 0, 2 * PAUSE_MS);
      int lives = echoes(&t);
      clean_up(&t);
      if (!lives)
        print_message("# row %zu, the clone closed %s\n", i, first ? "first" : "second");
      assert_true(lives);
      assert_int_equal(t.template_closed, 1);
      assert_int_equal(t.clone_closed, 1);
    }
  }
}

/* What has no thread left is killed as any other is; its clone is told of. */
static void test_a_killed_template_ends_its_clone(void **state) {
  (void)state;
  for (int closes = 0; closes < 2; closes++) {
    struct pair t;
    mf_exit exit = {0};
    if (!make_pair(&t, 1))
      skip();
    assert_int_equal(mf_on_exit(t.clone, on_ended, &exit), 0);
    if (closes)
      close_template(&t);
    turn_for(50);
    assert_int_equal(kill(t.pid, SIGKILL), 0);
    while (!exit.known)
      uv_run(uv_default_loop(), UV_RUN_ONCE);
    assert_int_equal(exit.signal, SIGKILL);
    close_clone(&t);
    if (!closes)
      close_template(&t);
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
    int gone = is_gone(&t);
    clean_up(&t);
    assert_true(gone);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_stopped_template_whose_clone_is_over_ends),
      cmocka_unit_test(test_a_stopped_template_whose_clone_runs_is_left_alone),
      cmocka_unit_test(test_a_template_that_hangs_ends_after_its_closed_clone),
      cmocka_unit_test(test_a_stopped_template_that_is_to_end_is_not_waited_for),
      cmocka_unit_test(test_a_closed_template_whose_clone_runs_is_not_killed),
      cmocka_unit_test(test_a_program_leaves_a_template_whose_clone_runs),
      cmocka_unit_test(test_a_killed_template_ends_its_clone),
  };
  return cmocka_run_group_tests_name("ending", tests, NULL, NULL);
}
