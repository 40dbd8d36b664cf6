/* What this process's children have started, and their children (os/descendants.h): who is
 * signalled, who is not, and that nothing is left of the look. */
#include "unit.h"

#include "os/descendants.h"
#include "os/proc.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILD, GRANDCHILD, LEFT, NPROCESSES }; /* LEFT: in a process group of its own */

static pid_t pids[NPROCESSES];

static int count_fds(void) {
  DIR *dir = opendir("/proc/self/fd");
  int n = 0;
  assert_non_null(dir);
  while (readdir(dir))
    n++;
  closedir(dir);
  return n;
}

static void tell(int fd, pid_t pid) {
  if (write(fd, &pid, sizeof pid) != sizeof pid)
    _exit(1);
}

_Noreturn static void be_child(int fd) {
  pid_t grandchild = fork();
  pid_t left = grandchild > 0 ? fork() : 0;
  if (left > 0) {
    if (setpgid(left, left) < 0)
      _exit(1);
    tell(fd, getpid());
    tell(fd, grandchild);
    tell(fd, left);
  }
  alarm(60); /* where the test has failed */
  for (;;)
    pause();
}

static int may_look(void) {
  int fd = proc_pidfd(getpid());
  if (fd < 0 || access("/proc/thread-self/children", R_OK) != 0)
    return 0;
  close(fd);
  return 1;
}

static void start_all(void) {
  int news[2];
  if (!may_look())
    skip();
  descendants_adopt(1);
  assert_int_equal(pipe2(news, O_CLOEXEC), 0);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0)
    be_child(news[1]);
  for (int i = 0; i < NPROCESSES; i++)
    assert_int_equal(read(news[0], &pids[i], sizeof pids[i]), sizeof pids[i]);
  close(news[0]);
  close(news[1]);
}

/* How it has ended, once it is ours. */
static int signal_of(pid_t pid) {
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFSIGNALED(status));
  return WTERMSIG(status);
}

static int keeps_none(pid_t pid) {
  (void)pid;
  return 0;
}

static int keeps_grandchild(pid_t pid) {
  return pid == pids[GRANDCHILD];
}

static void end_left(void) {
  assert_int_equal(kill(pids[LEFT], 0), 0);
  assert_int_equal(kill(pids[LEFT], SIGTERM), 0);
  assert_int_equal(signal_of(pids[LEFT]), SIGTERM); /* it was adopted */
}

static void expect_nobody(int nfds) {
  assert_int_equal(descendants_signal(0, keeps_none), 0);
  assert_int_equal(count_fds(), nfds);
  assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
  assert_int_equal(errno, ECHILD);
}

static void test_all_of_the_group_are_signalled(void **state) {
  (void)state;
  int nfds = count_fds();
  start_all();
  assert_int_equal(descendants_signal(0, keeps_none), 2);
  assert_int_equal(descendants_signal(SIGKILL, keeps_none), 2);
  assert_int_equal(signal_of(pids[CHILD]), SIGKILL);
  assert_int_equal(signal_of(pids[GRANDCHILD]), SIGKILL);
  assert_int_equal(descendants_signal(SIGKILL, keeps_none), 0);
  end_left();
  expect_nobody(nfds);
}

static void test_who_is_kept_is_left_alone(void **state) {
  (void)state;
  int nfds = count_fds();
  start_all();
  assert_int_equal(descendants_signal(SIGKILL, keeps_grandchild), 1);
  assert_int_equal(signal_of(pids[CHILD]), SIGKILL);
  assert_int_equal(kill(pids[GRANDCHILD], 0), 0);
  assert_int_equal(descendants_signal(SIGKILL, keeps_none), 1);
  assert_int_equal(signal_of(pids[GRANDCHILD]), SIGKILL);
  end_left();
  expect_nobody(nfds);
}

/* Its parent has ended, and it is another's child: it is not found again, but known. */
static int signals_a_former_grandchild(void) {
  start_all();
  descendants_adopt(0);
  int is_found = descendants_signal(SIGCONT, keeps_none) == 2;
  kill(pids[CHILD], SIGKILL);
  waitpid(pids[CHILD], NULL, 0);
  is_found = is_found && descendants_signal(SIGKILL, keeps_none) == 1;
  kill(pids[LEFT], SIGKILL);
  return is_found;
}

static void test_who_was_found_gets_the_next_signal_too(void **state) {
  int status;
  (void)state;
  if (!may_look())
    skip();
  descendants_adopt(1);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0)
    _exit(signals_a_former_grandchild() ? 0 : 1);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  for (int i = GRANDCHILD; i <= LEFT; i++) { /* ours now */
    assert_true(waitpid(-1, &status, 0) > 0);
    assert_int_equal(WTERMSIG(status), SIGKILL);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_of_the_group_are_signalled),
      cmocka_unit_test(test_who_is_kept_is_left_alone),
      cmocka_unit_test(test_who_was_found_gets_the_next_signal_too),
  };
  return cmocka_run_group_tests_name("descendants", tests, NULL, NULL);
}
