/* Processes: their groups, and the leash, which is pulled by a parent that is killed. */
#include "unit/unit.h"

#include "os/fd.h"
#include "os/proc.h"
#include "proc_kit.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- process groups ---- */

/* A leader with a child in its group, which is ours when the leader has ended. */
struct group {
  pid_t leader, member;
};

static struct group group_new(void) {
  struct group g;
  int news[2];
  assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  assert_int_equal(pipe2(news, O_CLOEXEC), 0);
  if ((g.leader = fork()) == 0) {
    pid_t member;
    if (setpgid(0, 0) < 0 || (member = fork()) < 0)
      _exit(1);
    if (member > 0 && write(news[1], &member, sizeof member) != sizeof member)
      _exit(1);
    for (;;)
      pause();
  }
  assert_int_equal(read(news[0], &g.member, sizeof g.member), sizeof g.member);
  fd_close(&news[0]);
  fd_close(&news[1]);
  return g;
}

static void await_end(pid_t pid) {
  siginfo_t info;
  assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
}

/* Before Linux 6.9 a pidfd does not name a group. */
static int pidfds_name_groups(void) {
  struct group g = group_new();
  int pidfd = proc_pidfd(g.leader), r;
  r = proc_kill_group(pidfd, g.leader, 0, SIGKILL);
  if (r < 0)
    assert_int_equal(proc_kill_group(pidfd, g.leader, 1, SIGKILL), 0);
  assert_int_equal(WTERMSIG(wait_for(g.leader)), SIGKILL);
  assert_int_equal(WTERMSIG(wait_for(g.member)), SIGKILL);
  fd_close(&pidfd);
  return r == 0;
}

static void test_a_group_is_reached_while_its_leader_is_not_reaped(void **state) {
  struct group g = group_new();
  assert_int_equal(proc_kill(-1, g.leader, SIGKILL), 0);
  await_end(g.leader);
  assert_int_equal(proc_kill_group(-1, g.leader, 1, SIGTERM), 0);
  assert_int_equal(WTERMSIG(wait_for(g.member)), SIGTERM);
  assert_int_equal(WTERMSIG(wait_for(g.leader)), SIGKILL);
  assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
}

static void test_a_pidfd_names_the_group_for_ever(void **state) {
  if (!pidfds_name_groups())
    skip();
  struct group g = group_new();
  int pidfd = proc_pidfd(g.leader);
  assert_int_equal(proc_kill(pidfd, g.leader, SIGKILL), 0);
  assert_int_equal(WTERMSIG(wait_for(g.leader)), SIGKILL); /* reaped */
  assert_int_equal(proc_kill_group(pidfd, g.leader, 0, SIGTERM), 0);
  assert_int_equal(WTERMSIG(wait_for(g.member)), SIGTERM);
  assert_int_equal(proc_kill_group(pidfd, g.leader, 0, SIGTERM), -ESRCH);
  fd_close(&pidfd);
  assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
}

static void test_no_group_is_signalled_by_an_unproven_number(void **state) {
  assert_int_equal(proc_kill_group(-1, getpgrp(), 0, 0), -ENOSYS);
  assert_int_equal(proc_kill_group(-1, 1, 1, 0), -ENOSYS); /* -1: everybody */
  assert_int_equal(proc_kill_group(-1, 0, 1, 0), -ENOSYS);
  assert_int_equal(proc_kill_group(-1, -1, 1, 0), -ENOSYS);
}

/* Whoever is in its group, and the process, be it there or not. */
static void test_a_tree_is_the_group_and_its_leader(void **state) {
  struct group g = group_new();
  assert_int_equal(proc_kill_tree(-1, g.leader, 1, SIGTERM), 0);
  assert_int_equal(WTERMSIG(wait_for(g.leader)), SIGTERM);
  assert_int_equal(WTERMSIG(wait_for(g.member)), SIGTERM);
  g = group_new();
  assert_int_equal(setpgid(g.leader, getpgrp()), 0);
  assert_int_equal(proc_kill_tree(-1, g.leader, 1, SIGTERM), 0);
  assert_int_equal(WTERMSIG(wait_for(g.leader)), SIGTERM);
  assert_int_equal(WTERMSIG(wait_for(g.member)), SIGTERM);
  assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
}

static void test_spawn_makes_a_group_where_asked(void **state) {
  for (int own = 0; own <= 1; own++) {
    char *argv[] = {TEXT("sleep"), TEXT("60"), NULL};
    struct proc_spawn spawn = {.program = "sleep",
                               .argv = argv,
                               .envp = environ,
                               .control_fd = -1,
                               .leash_fd = -1,
                               .stdio = {-1, -1, -1},
                               .own_group = own};
    pid_t pid;
    assert_int_equal(proc_spawn(&spawn, &pid), 0);
    assert_int_equal(getpgid(pid), own ? pid : getpgrp());
    assert_int_equal(proc_kill(-1, pid, SIGKILL), 0);
    wait_for(pid);
  }
}

/* ---- leash ---- */

/* The kernel's notice of a death: end of file, when the last holder of the write end is
 * gone. Gives 1 when that came in time. */
static int ends_in_time(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  char c;
  return poll(&p, 1, 10000) == 1 && read(fd, &c, 1) == 0;
}

_Noreturn static void spin(void) {
  for (volatile unsigned long i = 0;; i++)
    ;
}

static int leash_arm(int leash_fd, int signum) {
  int own = proc_leash_prepare(leash_fd, signum);
  return own < 0 ? own : proc_leash_own(own, signum, PROC_SELF) < 0 ? -1 : own;
}

/* parent (killed) -> child on the leash, spinning; alive is open in both. ready tells
 * that the leash is armed. */
_Noreturn static void parent_of_a_spinner(int ready, int signum, sigset_t *mask) {
  int leash[2];
  if (pipe2(leash, O_CLOEXEC) < 0)
    _exit(1);
  if (fork() == 0) {
    close(leash[1]);
    int own = leash_arm(leash[0], signum);
    if (own < 3 || !(fcntl(own, F_GETFD) & FD_CLOEXEC))
      _exit(1);
    sigprocmask(SIG_SETMASK, mask, NULL);
    if (write(ready, "r", 1) == 1)
      spin();
    _exit(1);
  }
  pause();
  _exit(1);
}

static void parent_dies(int signum, sigset_t *mask) {
  int ready[2];
  char c;
  assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
  /* the spinner becomes ours when its parent is gone, so that we can take its status */
  assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  pid_t parent = fork();
  if (parent == 0) {
    close(ready[0]);
    parent_of_a_spinner(ready[1], signum, mask);
  }
  fd_close(&ready[1]);
  assert_int_equal(read(ready[0], &c, 1), 1);
  assert_int_equal(kill(parent, SIGKILL), 0);
  assert_true(WIFSIGNALED(wait_for(parent)));
  assert_true(ends_in_time(ready[0])); /* the spinner held it too */
  int status;
  assert_true(waitpid(-1, &status, 0) > 0);
  assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
  assert_true(WIFSIGNALED(status));
  assert_int_equal(WTERMSIG(status), signum);
  fd_close(&ready[0]);
}

static void test_leash_kills_a_spinning_child(void **state) {
  sigset_t all;
  sigfillset(&all);
  parent_dies(SIGKILL, &all); /* whatever it blocks */
}

static void test_leash_terminates_where_asked(void **state) {
  sigset_t none;
  sigemptyset(&none);
  parent_dies(SIGTERM, &none);
}

/* Armed in each process of a family, it reaches each one. */
static void test_leash_reaches_every_owner(void **state) {
  enum { N = 5 };
  int leash[2], ready[2];
  pid_t pids[N];
  char c;
  assert_int_equal(pipe2(leash, O_CLOEXEC), 0);
  assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
  for (int i = 0; i < N; i++) {
    if ((pids[i] = fork()) == 0) {
      close(leash[1]);
      if (leash_arm(leash[0], SIGKILL) < 0 || write(ready[1], "r", 1) != 1)
        _exit(1);
      spin();
    }
    assert_int_equal(read(ready[0], &c, 1), 1);
  }
  fd_close(&leash[1]);
  for (int i = 0; i < N; i++)
    assert_int_equal(WTERMSIG(wait_for(pids[i])), SIGKILL);
  fd_close(&leash[0]);
  fd_close(&ready[0]);
  fd_close(&ready[1]);
}

/* What a template does: the description is made ahead, and the child that it forks owns
 * it. */
static void test_prepared_leash_is_the_childs(void **state) {
  int leash[2], ready[2];
  char c;
  assert_int_equal(pipe2(leash, O_CLOEXEC), 0);
  assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
  pid_t family = fork();
  if (family == 0) {
    close(leash[1]);
    int own = proc_leash_prepare(leash[0], SIGKILL);
    int nobodys = proc_leash_prepare(leash[0], SIGKILL);
    pid_t child = fork();
    if (child == 0) {
      if (proc_leash_own(own, SIGKILL, PROC_SELF) < 0 || write(ready[1], "r", 1) != 1)
        _exit(1);
      spin();
    }
    close(own);
    int status = wait_for(child); /* and this one is alive to see it */
    _exit(nobodys >= 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 42 : 1);
  }
  assert_int_equal(read(ready[0], &c, 1), 1);
  fd_close(&leash[1]);
  assert_int_equal(WEXITSTATUS(wait_for(family)), 42);
  fd_close(&leash[0]);
  fd_close(&ready[0]);
  fd_close(&ready[1]);
}

static int arm_a_loose_leash(void) {
  int leash[2];
  if (pipe2(leash, O_CLOEXEC) < 0)
    return 1;
  close(leash[1]);
  leash_arm(leash[0], SIGKILL);
  return 2;
}

static void test_loose_leash_kills_at_once(void **state) {
  pid_t pid = fork();
  if (pid == 0)
    _exit(arm_a_loose_leash());
  int status = wait_for(pid);
  assert_true(WIFSIGNALED(status));
  assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void test_leash_of_nothing_is_an_error(void **state) {
  assert_int_equal(leash_arm(9999, SIGKILL), -ENOENT);
}

/* It holds for a program that the process becomes. */
static void test_leash_survives_exec(void **state) {
  int leash[2];
  assert_int_equal(pipe2(leash, O_CLOEXEC), 0);
  int started[2];
  assert_int_equal(pipe2(started, O_CLOEXEC), 0);
  pid_t pid = fork();
  if (pid == 0) {
    close(leash[1]);
    int own = leash_arm(leash[0], SIGKILL);
    fd_set_cloexec(own, 0);
    dup2(started[1], 1);
    execl("/bin/sh", "sh", "-c", "echo; while :; do :; done", (char *)NULL);
    _exit(1);
  }
  char c;
  assert_int_equal(read(started[0], &c, 1), 1);
  fd_close(&leash[1]);
  assert_int_equal(WTERMSIG(wait_for(pid)), SIGKILL);
  fd_close(&leash[0]);
  fd_close(&started[0]);
  fd_close(&started[1]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_a_group_is_reached_while_its_leader_is_not_reaped),
      census_test(test_a_pidfd_names_the_group_for_ever),
      census_test(test_no_group_is_signalled_by_an_unproven_number),
      census_test(test_a_tree_is_the_group_and_its_leader),
      census_test(test_spawn_makes_a_group_where_asked),
      census_test(test_leash_kills_a_spinning_child),
      census_test(test_leash_terminates_where_asked),
      census_test(test_leash_reaches_every_owner),
      census_test(test_prepared_leash_is_the_childs),
      census_test(test_loose_leash_kills_at_once),
      census_test(test_leash_of_nothing_is_an_error),
      census_test(test_leash_survives_exec),
  };
  return cmocka_run_group_tests_name("proc groups", tests, NULL, NULL);
}
