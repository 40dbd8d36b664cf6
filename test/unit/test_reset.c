/* Templates that are stopped when the host has closed all. mf_reset when no handle is
 * open: nothing of the library is on the loop then, so nobody would kill a default
 * template that does not end. One that was stopped stayed for as long as the host. With
 * the real template program. */
#include "unit.h"

#include <moonfork.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

enum { PAUSE_MS = 5, PAUSES = 4000 };

static void on_run(mf_process *p, const mf_error *error, int socket, void *data) {
  (void)p, (void)data;
  assert_null(error);
  close(socket);
}

static void on_exit_told(mf_process *p, const mf_exit *status, void *data) {
  (void)data;
  assert_int_equal(status->code, 0);
  mf_close(p, NULL, NULL);
}

/* The only child; 0: there is none. */
static pid_t only_child(void) {
  char path[64];
  int pid = 0, other;
  snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
  FILE *f = fopen(path, "re");
  assert_non_null(f);
  int n = fscanf(f, "%d %d", &pid, &other);
  fclose(f);
  assert_true(n < 2);
  return pid;
}

/* A default template that has run something, and is stopped: its number. */
static pid_t stopped_default_template(void) {
  mf_process *p;
  if (access("/proc/thread-self/children", R_OK) != 0)
    skip();
  assert_int_equal(mf_new(NULL, &p), 0);
  assert_int_equal(mf_eval(p, "function f() end", 16, 0, NULL, NULL), 0);
  assert_int_equal(mf_on_exit(p, on_exit_told, NULL), 0);
  assert_int_equal(mf_run(p, "f", on_run, NULL), 0);
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
  pid_t pid = only_child();
  assert_true(pid > 0);
  assert_int_equal(kill(pid, SIGSTOP), 0);
  assert_int_equal(waitpid(pid, NULL, WUNTRACED), pid); /* it has stopped */
  return pid;
}

static void test_a_stopped_default_template_ends(void **state) {
  (void)state;
  pid_t pid = stopped_default_template();
  assert_int_equal(mf_reset(NULL), 0);
  int status, told = 0;
  for (int i = 0; i < PAUSES && !told; i++) {
    told = waitpid(pid, &status, WNOHANG);
    poll(NULL, 0, told ? 0 : PAUSE_MS);
  }
  if (!told)
    kill(pid, SIGKILL);
  assert_int_equal(told, pid);
  assert_int_equal(status, 0);
}

static int count_children(void) {
  char path[64];
  int pid, n = 0;
  snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
  FILE *f = fopen(path, "re");
  assert_non_null(f);
  while (fscanf(f, "%d", &pid) == 1)
    n++;
  fclose(f);
  return n;
}

static void on_late_run(mf_process *p, const mf_error *error, int socket, void *data) {
  (void)p, (void)socket, (void)data;
  assert_int_equal(error->code, MF_ECANCELLED);
}

/* It was continued, executed the forks that lay in its socket, and each clone was a zombie
 * for as long as the host lived. */
static void test_nothing_is_born_for_closed_processes(void **state) {
  (void)state;
  mf_process *p;
  pid_t pid = stopped_default_template();
  for (int i = 0; i < 8; i++) {
    assert_int_equal(mf_new(NULL, &p), 0);
    assert_int_equal(mf_run(p, "type", on_late_run, NULL), 0);
    uv_run(uv_default_loop(), UV_RUN_NOWAIT); /* the fork is written */
    mf_close(p, NULL, NULL);
  }
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
  assert_int_equal(mf_reset(NULL), 0);
  siginfo_t info = {0};
  for (int i = 0; i < PAUSES && info.si_pid == 0; i++) {
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    poll(NULL, 0, info.si_pid ? 0 : PAUSE_MS);
  }
  int n = count_children();
  while (waitpid(-1, NULL, 0) > 0)
    ;
  assert_int_equal(n, 1);
}

static void on_memory(mf_process *p, const mf_error *error, const mf_memory_info *info,
                      void *data) {
  (void)p, (void)info;
  assert_null(error);
  *(int *)data = 1;
}

static void on_no_run(mf_process *p, const mf_error *error, int socket, void *data) {
  (void)p, (void)socket;
  assert_non_null(error);
  ++*(int *)data;
}

/* A clone in a thread that was closed before its birth kept the process of its template
 * from being killed, as one that runs does. */
static void test_a_stopped_template_with_a_thread_to_fork_ends(void **state) {
  (void)state;
  for (int runs = 0; runs < 2; runs++) {
    mf_process *template, *clone;
    mf_options options = MF_OPTIONS_INIT;
    int is_there = 0, told = 0, status, r = 0;
    options.isolation = MF_ISOLATION_THREAD;
    assert_int_equal(mf_new_exec(NULL, &template), 0);
    assert_int_equal(mf_eval(template, "function f() end", 16, 0, NULL, NULL), 0);
    assert_int_equal(mf_memory(template, on_memory, &is_there), 0);
    while (!is_there)
      uv_run(uv_default_loop(), UV_RUN_ONCE);
    pid_t pid = mf_pid(template);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    assert_int_equal(waitpid(pid, NULL, WUNTRACED), pid);
    assert_int_equal(mf_fork_options(template, &options, &clone), 0);
    if (runs)
      assert_int_equal(mf_run(clone, "f", on_no_run, &told), 0);
    mf_close(template, NULL, NULL);
    mf_close(clone, NULL, NULL);
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
    assert_int_equal(told, runs);
    for (int i = 0; i < PAUSES && r == 0; i++) {
      r = waitpid(pid, &status, WNOHANG);
      poll(NULL, 0, r ? 0 : PAUSE_MS);
    }
    if (r == 0)
      kill(pid, SIGKILL);
    assert_true(r != 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_stopped_default_template_ends),
      cmocka_unit_test(test_nothing_is_born_for_closed_processes),
      cmocka_unit_test(test_a_stopped_template_with_a_thread_to_fork_ends),
  };
  return cmocka_run_group_tests_name("reset", tests, NULL, NULL);
}
