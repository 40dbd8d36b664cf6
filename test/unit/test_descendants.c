/* What a process's children have started, and their children (os/descendants.h): who is
 * signalled, who is not, and that nothing is left of the look. Each story is a process of
 * its own, since a process remembers whom it has found. */
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

/* The number of the line that is not true is the exit status of the story. */
#define CHECK(what)                                                                      \
  do {                                                                                   \
    if (!(what))                                                                         \
      return __LINE__;                                                                   \
  } while (0)

static int count_fds(void) {
  DIR *dir = opendir("/proc/self/fd");
  int n = 0;
  if (!dir)
    return -1;
  while (readdir(dir))
    n++;
  closedir(dir);
  return n;
}

static int tell(int fd, pid_t pid) {
  return write(fd, &pid, sizeof pid) == sizeof pid;
}

_Noreturn static void be_child(int fd) {
  pid_t grandchild = fork();
  pid_t left = grandchild > 0 ? fork() : 0;
  if (left > 0 && (setpgid(left, left) < 0 || !tell(fd, getpid()) ||
                   !tell(fd, grandchild) || !tell(fd, left)))
    _exit(1);
  alarm(60); /* where the test has failed */
  for (;;)
    pause();
}

static int start_all(void) {
  int news[2];
  CHECK(pipe2(news, O_CLOEXEC) == 0);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0)
    be_child(news[1]);
  for (int i = 0; i < NPROCESSES; i++)
    CHECK(read(news[0], &pids[i], sizeof pids[i]) == sizeof pids[i]);
  close(news[0]);
  close(news[1]);
  return 0;
}

/* It ended by that signal, and is a child of this process. */
static int has_ended(pid_t pid, int signum) {
  int status;
  return waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) &&
         WTERMSIG(status) == signum;
}

static int keeps_none(pid_t pid) {
  (void)pid;
  return 0;
}

static int keeps_grandchild(pid_t pid) {
  return pid == pids[GRANDCHILD];
}

static int signals_all_of_the_group(void) {
  int nfds = count_fds();
  descendants_adopt(1);
  CHECK(start_all() == 0);
  CHECK(descendants_signal(0, keeps_none) == 2);
  CHECK(descendants_signal(SIGKILL, keeps_none) == 2);
  CHECK(has_ended(pids[CHILD], SIGKILL));
  CHECK(has_ended(pids[GRANDCHILD], SIGKILL)); /* it was adopted */
  CHECK(descendants_signal(SIGKILL, keeps_none) == 0);
  CHECK(kill(pids[LEFT], 0) == 0);
  CHECK(kill(pids[LEFT], SIGTERM) == 0);
  CHECK(has_ended(pids[LEFT], SIGTERM));
  CHECK(count_fds() == nfds);
  return 0;
}

static int leaves_alone_who_is_kept(void) {
  int nfds = count_fds();
  CHECK(start_all() == 0);
  CHECK(descendants_signal(SIGKILL, keeps_grandchild) == 1);
  CHECK(has_ended(pids[CHILD], SIGKILL));
  CHECK(kill(pids[GRANDCHILD], 0) == 0);
  CHECK(descendants_signal(SIGKILL, keeps_grandchild) == 0);
  CHECK(kill(pids[GRANDCHILD], 0) == 0);
  kill(pids[GRANDCHILD], SIGTERM);
  kill(pids[LEFT], SIGTERM);
  CHECK(count_fds() == nfds);
  return 0;
}

/* Its parent has ended, and it is another's child: it is not found again, but known. */
static int signals_who_was_found(void) {
  CHECK(start_all() == 0);
  CHECK(descendants_signal(SIGCONT, keeps_none) == 2);
  CHECK(kill(pids[CHILD], SIGKILL) == 0);
  CHECK(has_ended(pids[CHILD], SIGKILL));
  CHECK(descendants_signal(SIGKILL, keeps_none) == 1);
  kill(pids[LEFT], SIGTERM);
  return 0;
}

static int may_look(void) {
  int fd = proc_pidfd(getpid());
  if (fd < 0 || access("/proc/thread-self/children", R_OK) != 0)
    return 0;
  close(fd);
  return 1;
}

/* The signals by which what it has left ended, which is this process's then: by number. */
static void tell_story(int (*story)(void), int ret_signals[65]) {
  int status;
  if (!may_look())
    skip();
  descendants_adopt(1);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0)
    _exit(story() % 256);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0); /* else a line of it */
  memset(ret_signals, 0, 65 * sizeof ret_signals[0]);
  while (waitpid(-1, &status, 0) > 0)
    ret_signals[WTERMSIG(status)]++;
}

static void test_all_of_the_group_are_signalled(void **state) {
  int signals[65];
  (void)state;
  tell_story(signals_all_of_the_group, signals);
}

static void test_who_is_kept_is_left_alone(void **state) {
  int signals[65];
  (void)state;
  tell_story(leaves_alone_who_is_kept, signals);
  assert_int_equal(signals[SIGTERM], 2);
  assert_int_equal(signals[SIGKILL], 0);
}

static void test_who_was_found_gets_the_next_signal_too(void **state) {
  int signals[65];
  (void)state;
  tell_story(signals_who_was_found, signals);
  assert_int_equal(signals[SIGKILL], 1);
  assert_int_equal(signals[SIGTERM], 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_of_the_group_are_signalled),
      cmocka_unit_test(test_who_is_kept_is_left_alone),
      cmocka_unit_test(test_who_was_found_gets_the_next_signal_too),
  };
  return cmocka_run_group_tests_name("descendants", tests, NULL, NULL);
}
