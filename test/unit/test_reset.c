/* mf_reset when no handle is open: nothing of the library is on the loop then, so nobody
 * would kill a default template that does not end. One that was stopped stayed for as
 * long as the host. With the real template program. */
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

static void test_a_stopped_default_template_ends(void **state) {
  (void)state;
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_stopped_default_template_ends),
  };
  return cmocka_run_group_tests_name("reset", tests, NULL, NULL);
}
