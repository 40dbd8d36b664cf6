/* What other UNIXes get, run on this one: every function answers as the header says, and
 * what can't be done is said. */
#include "unit/unit.h"

#include "base/result.h"
#include "os/proc.h"
#include <sys/wait.h>
#include <unistd.h>

static void test_missing_things_are_said(void **state) {
  int status;
  struct proc_memory memory;
  assert_int_equal(proc_pidfd(getpid()), -ENOSYS);
  assert_int_equal(proc_pidfd_status(-1, &status), -ENODATA);
  assert_int_equal(proc_threads(), -ENOSYS);
  assert_int_equal(proc_leash_prepare(0, SIGTERM), -ENOSYS);
  assert_int_equal(proc_leash_own(0, SIGTERM, PROC_SELF), -ENOSYS);
  assert_int_equal(proc_memory(1, &memory), -ENOSYS);
  proc_set_title("no harm");
}

static void test_own_memory_is_known_roughly(void **state) {
  struct proc_memory memory;
  assert_int_equal(proc_memory(0, &memory), 0);
  assert_true(memory.rss > 4096);
  assert_true(memory.pss == 0 && memory.uss == 0 && memory.shared == 0);
}

static void test_kill_never_means_a_group(void **state) {
  assert_int_equal(proc_kill(-1, 0, 0), -ESRCH);
  assert_int_equal(proc_kill(-1, -1, 0), -ESRCH); /* -1: everybody */
  assert_int_equal(proc_kill(-1, getpid(), 0), 0);
}

static void test_spawned_program_is_killed_and_reaped(void **state) {
  char *argv[] = {TEXT("sh"), TEXT("-c"), TEXT("exec sleep 30"), NULL}, *envp[] = {NULL};
  struct proc_spawn spawn = {.program = "/bin/sh",
                             .argv = argv,
                             .envp = envp,
                             .control_fd = -1,
                             .leash_fd = -1,
                             .stdio = {-1, -1, -1}};
  struct proc_status status;
  pid_t pid;
  assert_int_equal(proc_spawn(&spawn, &pid), 0);
  assert_int_equal(proc_peek(-1, pid), MF_AGAIN);
  assert_int_equal(proc_kill(-1, pid, SIGKILL), 0);
  siginfo_t info;
  assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
  assert_int_equal(proc_reap(-1, pid, &status), 0);
  assert_true(WIFSIGNALED(status.status) && WTERMSIG(status.status) == SIGKILL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_missing_things_are_said),
      census_test(test_own_memory_is_known_roughly),
      census_test(test_kill_never_means_a_group),
      census_test(test_spawned_program_is_killed_and_reaped),
  };
  return cmocka_run_group_tests_name("proc_posix", tests, NULL, NULL);
}
