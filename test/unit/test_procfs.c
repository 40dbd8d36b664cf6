/* A /proc that has other processes under the numbers of ours: `unshare --pid` without
 * --mount-proc, as doc/remote.md shows it. Memory was that of a stranger, and so were
 * parent and exit status. */
#include "unit/unit.h"

#include "os/proc.h"
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SKIPPED = 77, TOUCHED = 32 * 1024 * 1024 };

/* Process 1 of a namespace of its own, with the /proc of this one, and a child. The line
 * of the first thing that is wrong, or 0. */
static int look(void) {
  struct proc_memory own, child;
  int status, seen = 0;
  static char touched[TOUCHED];
  memset(touched, 1,
         sizeof touched); /* so that the child has as much, unlike process 2 */
  if (getpid() != 1 || proc_lists_ours())
    return __LINE__;
  pid_t pid = fork();
  if (pid == 0)
    for (;;)
      pause();
  if (proc_memory(0, &own) < 0 || proc_memory(1, &child) < 0 || child.rss < TOUCHED / 2)
    seen = __LINE__;
  else if (proc_memory(pid, &child) < 0 || child.rss < TOUCHED / 2)
    seen = __LINE__;
  else if (proc_resident(pid) < TOUCHED / 2)
    seen = __LINE__;
  else if (proc_parent(pid) != 0 || proc_listed(pid) == pid)
    seen = __LINE__;
  kill(pid, SIGUSR1);
  siginfo_t si;
  waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT);
  if (!seen && (proc_zombie_status(-1, pid, &status) < 0 || status != SIGUSR1))
    seen = __LINE__;
  waitpid(pid, NULL, 0);
  if (!seen && proc_memory(pid, &child) != -ESRCH)
    seen = __LINE__;
  return seen;
}

static void test_numbers_in_the_proc_of_another_namespace_are_not_ours(void **state) {
  int status;
  pid_t pid = fork();
  if (pid == 0) {
    if (unshare(CLONE_NEWPID) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWPID) < 0)
      _exit(SKIPPED);
    pid_t first = fork();
    if (first == 0)
      _exit(look() % 256);
    waitpid(first, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  if (WEXITSTATUS(status) == SKIPPED)
    skip(); /* no namespaces here */
  assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_numbers_in_our_own_proc_are_ours(void **state) {
  assert_true(proc_lists_ours());
  assert_int_equal(proc_listed(getpid()), getpid());
  assert_int_equal(proc_parent(getpid()), getppid());
}

static unsigned long long ticks_of_boot(void) {
  struct timespec t;
  unsigned long long hz = (unsigned long long)sysconf(_SC_CLK_TCK);
  assert_int_equal(clock_gettime(CLOCK_BOOTTIME, &t), 0);
  return (unsigned long long)t.tv_sec * hz +
         (unsigned long long)t.tv_nsec / (1000000000 / hz);
}

static void test_when_a_process_was_started(void **state) {
  unsigned long long own = proc_started(getpid()), before = ticks_of_boot();
  assert_true(own > 0 && own <= before);
  pid_t pid = fork();
  if (pid == 0)
    for (;;)
      pause();
  unsigned long long started = proc_started(pid), after = ticks_of_boot();
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  assert_true(before <= started && started <= after);
  assert_int_equal(proc_started(pid), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_numbers_in_the_proc_of_another_namespace_are_not_ours),
      cmocka_unit_test(test_numbers_in_our_own_proc_are_ours),
      cmocka_unit_test(test_when_a_process_was_started),
  };
  return cmocka_run_group_tests_name("procfs", tests, NULL, NULL);
}
