/* Processes: real programs are spawned, real children die. Most of it asks a small shell
 * script what it found. */
#include "unit/unit.h"

#include "base/result.h"
#include "os/fd.h"
#include "os/measure.h"
#include "os/proc.h"
#include "proc_kit.h"
#include "wire/proto.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

_Static_assert((int)PROC_CONTROL_FD == PROTO_BOOT_CONTROL_FD, "one number in two layers");
_Static_assert((int)PROC_LEASH_FD == PROTO_BOOT_LEASH_FD, "one number in two layers");

static char *no_env[] = {NULL};

/* Runs a script with its output in out; gives the exit code. */
static int run_script(const char *script, struct proc_spawn *spawn, char *out,
                      size_t size) {
  char *argv[] = {TEXT("sh"), TEXT("-c"), (char *)(uintptr_t)script, NULL};
  int ends[2];
  size_t n = 0;
  pid_t pid;
  assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
  spawn->program = "/bin/sh";
  spawn->argv = argv;
  spawn->envp = no_env;
  spawn->stdio[1] = ends[1];
  assert_int_equal(proc_spawn(spawn, &pid), 0);
  fd_close(&ends[1]);
  for (ssize_t got; (got = read(ends[0], out + n, size - 1 - n)) > 0;)
    n += (size_t)got;
  out[n] = '\0';
  fd_close(&ends[0]);
  int status = wait_for(pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define SPAWN_NOTHING                                                                    \
  {                                                                                      \
    .control_fd = -1, .leash_fd = -1, .stdio = { -1, -1, -1 }                            \
  }

static void test_spawn_puts_descriptors_in_place(void **state) {
  struct proc_spawn spawn = SPAWN_NOTHING;
  char out[256], expected[256];
  int control[2], leash[2];
  assert_int_equal(pipe2(control, O_CLOEXEC), 0);
  assert_int_equal(pipe2(leash, O_CLOEXEC), 0);
  spawn.control_fd = control[1];
  spawn.leash_fd = leash[1];
  assert_int_equal(
      run_script("echo control >&3; echo leash >&4; echo out", &spawn, out, sizeof out),
      0);
  assert_string_equal(out, "out\n");
  expected[read(control[0], expected, sizeof expected - 1)] = '\0';
  assert_string_equal(expected, "control\n");
  expected[read(leash[0], expected, sizeof expected - 1)] = '\0';
  assert_string_equal(expected, "leash\n");
  for (int i = 0; i < 2; i++) {
    fd_close(&control[i]);
    fd_close(&leash[i]);
  }
}

/* Sources that are each other's targets: 3 and 4 swapped, and the streams turned round.
 * In a child, whose low numbers are its own. */
static int spawn_with_collisions(void) {
  int pipes[5][2], status;
  char script[] = "printf 0 >&0; printf 1 >&1; printf 2 >&2; printf 3 >&3; printf 4 >&4";
  char *argv[] = {TEXT("sh"), TEXT("-c"), script, NULL};
  for (int i = 0; i < 5; i++) {
    if (pipe2(pipes[i], O_CLOEXEC) < 0)
      return 1;
    pipes[i][0] = fcntl(pipes[i][0], F_DUPFD_CLOEXEC, 100);
    pipes[i][1] = fcntl(pipes[i][1], F_DUPFD_CLOEXEC, 100);
  }
  /* number n holds the write end that target 4 - n is to have; so 2 is 2, 3 is 1, 4 is 0
   */
  for (int i = 0; i < 5; i++)
    if (dup3(pipes[4 - i][1], i, O_CLOEXEC) != i)
      return 2;
  struct proc_spawn spawn = {.program = "/bin/sh",
                             .argv = argv,
                             .envp = no_env,
                             .stdio = {4, 3, 2},
                             .control_fd = 1,
                             .leash_fd = 0};
  pid_t pid;
  if (proc_spawn(&spawn, &pid) < 0 || waitpid(pid, &status, 0) != pid || status != 0)
    return 3;
  for (int i = 0; i < 5; i++) {
    char c;
    if (read(pipes[i][0], &c, 1) != 1 || c != '0' + i)
      return 10 + i;
  }
  return 0;
}

static void in_child(int (*body)(void)) {
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    alarm(20);
    _exit(body());
  }
  assert_int_equal(wait_for(pid), 0);
}

static int spawn_that_ignores(void) {
  struct proc_spawn spawn = SPAWN_NOTHING;
  char out[16];
  signal(SIGINT, SIG_IGN);
  if (run_script("kill -INT $$; exit 3", &spawn, out, sizeof out) != -1)
    return 1;
  spawn.ignored = SIGINT;
  return run_script("kill -INT $$; exit 3", &spawn, out, sizeof out) != 3;
}

static void test_spawn_passes_one_ignored_signal_on(void **state) {
  in_child(spawn_that_ignores);
}

static void test_spawn_minds_colliding_numbers(void **state) {
  in_child(spawn_with_collisions);
}

/* Closed streams become /dev/null, and so does a file that slipped under number 0. */
static int spawn_without_streams(void) {
  static const char script[] =
      "[ /proc/self/fd/0 -ef /dev/null ] && [ /proc/self/fd/2 -ef /dev/null ]";
  char *argv[] = {TEXT("sh"), TEXT("-c"), (char *)(uintptr_t)script, NULL};
  struct proc_spawn spawn = SPAWN_NOTHING;
  int status;
  pid_t pid;
  spawn.program = "/bin/sh";
  spawn.argv = argv;
  spawn.envp = no_env;
  close(0);
  close(1);
  close(2);
  if (open("/etc/passwd", O_RDONLY | O_CLOEXEC) != 0)
    return 1;
  if (proc_spawn(&spawn, &pid) < 0 || waitpid(pid, &status, 0) != pid)
    return 2;
  if (fcntl(1, F_GETFD) >= 0 || fcntl(2, F_GETFD) >= 0)
    return 3; /* the caller's streams are as they were */
  return status == 0 ? 0 : 4;
}

static void test_spawn_gives_null_for_closed_streams(void **state) {
  in_child(spawn_without_streams);
}

static int spawn_with_odd_signals(void) {
  char out[512];
  sigset_t all;
  struct proc_spawn spawn = SPAWN_NOTHING;
  for (int s = 1; s <= SIGRTMAX; s++)
    if (s <= SIGSYS || s >= SIGRTMIN) /* those between are the C library's own */
      signal(s, SIG_IGN);
  signal(SIGCHLD, SIG_DFL); /* run_script waits */
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  if (run_script(
          "while read name value; do case $name in Sig[IB]*|SigCgt:) echo $value;; "
          "esac; done </proc/self/status",
          &spawn, out, sizeof out) != 0)
    return 1;
  char *line =
      strtok(out, "\n"); /* blocked, ignored; the shell itself catches nothing much */
  for (int i = 0; i < 2; i++, line = strtok(NULL, "\n"))
    if (!line || strspn(line, "0") != strlen(line))
      return 2;
  return 0;
}

static void test_spawn_gives_default_signals(void **state) {
  in_child(spawn_with_odd_signals);
}

static void test_spawn_tells_why_not(void **state) {
  struct proc_spawn spawn = SPAWN_NOTHING;
  char *argv[] = {TEXT("x"), NULL};
  pid_t pid = 77;
  spawn.argv = argv;
  spawn.envp = no_env;
  spawn.program = "/proc/nowhere/program";
  assert_int_equal(proc_spawn(&spawn, &pid), -ENOENT);
  spawn.program = "no-such-program-in-the-path";
  assert_int_equal(proc_spawn(&spawn, &pid), -ENOENT);
  spawn.program = "/etc/passwd";
  assert_int_equal(proc_spawn(&spawn, &pid), -EACCES);
  spawn.program = "/bin/sh";
  spawn.control_fd = 9999;
  assert_int_equal(proc_spawn(&spawn, &pid), -EBADF);
  assert_int_equal(pid, 77);
  assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* and no child is left */
}

static void test_program_without_slash_is_searched(void **state) {
  struct proc_spawn spawn = SPAWN_NOTHING;
  char *argv[] = {TEXT("sh"), TEXT("-c"), TEXT("exit 7"), NULL};
  pid_t pid;
  spawn.program = "sh";
  spawn.argv = argv;
  spawn.envp = no_env;
  assert_int_equal(proc_spawn(&spawn, &pid), 0);
  assert_int_equal(WEXITSTATUS(wait_for(pid)), 7);
}

/* ---- children ---- */

/* In bytes, and not in the unit of the system. */
/* The kernel keeps the most that any child had, which is this one's. */
static void test_memory_of_the_dead_is_in_bytes(void **state) {
  enum { TOUCHED = 64 << 20 };
  struct proc_status status;
  struct rusage before, after;
  assert_int_equal(getrusage(RUSAGE_CHILDREN, &before), 0);
  pid_t pid = fork();
  if (pid == 0) {
    volatile char *room = malloc(TOUCHED); /* clang would leave out what nobody reads */
    for (size_t i = 0; room && i < TOUCHED; i += 4096)
      room[i] = 1;
    _exit(!room);
  }
  int r;
  while ((r = proc_reap(-1, pid, &status)) == MF_AGAIN)
    usleep(1000);
  assert_int_equal(r, 0);
  assert_int_equal(status.status, 0);
  assert_int_equal(getrusage(RUSAGE_CHILDREN, &after), 0);
  assert_true(after.ru_maxrss > before.ru_maxrss);
#ifndef __APPLE__
  assert_int_equal(status.maxrss_bytes, (unsigned long long)after.ru_maxrss * 1024);
#endif
}

static void test_peek_then_reap(void **state) {
  int hold[2];
  struct proc_status status;
  char c;
  assert_int_equal(pipe2(hold, O_CLOEXEC), 0);
  pid_t pid = fork();
  if (pid == 0) {
    close(hold[1]);
    _exit(read(hold[0], &c, 1) == 0 ? 9 : 1);
  }
  assert_int_equal(proc_peek(-1, pid), MF_AGAIN);
  assert_int_equal(proc_reap(-1, pid, &status), MF_AGAIN);
  int pidfd = proc_pidfd(pid);
  fd_close(&hold[1]);
  siginfo_t info;
  assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
  assert_int_equal(proc_peek(-1, pid), 0);
  assert_int_equal(proc_peek(-1, pid), 0); /* looking takes nothing */
  assert_int_equal(proc_reap(-1, pid, &status), 0);
  assert_int_equal(WEXITSTATUS(status.status), 9);
  assert_true(status.maxrss_bytes > 4096);
  assert_int_equal(proc_reap(-1, pid, &status), -ECHILD);
  assert_int_equal(proc_peek(-1, pid), -ECHILD);
  if (pidfd >= 0)
    assert_int_equal(proc_kill(pidfd, pid, SIGKILL), -ESRCH);
  fd_close(&pidfd);
  fd_close(&hold[0]);
}

static void test_pidfd_signals_and_tells_the_status(void **state) {
  pid_t pid = fork();
  if (pid == 0) {
    pause();
    _exit(1);
  }
  int pidfd = proc_pidfd(pid), status = 0;
  if (pidfd == -ENOSYS) {
    kill(pid, SIGKILL);
    wait_for(pid);
    skip();
  }
  assert_true(pidfd > 2);
  assert_true(fcntl(pidfd, F_GETFD) & FD_CLOEXEC);
  assert_int_equal(proc_pidfd_status(pidfd, &status), -ENODATA); /* it lives */
  assert_int_equal(proc_kill(pidfd, pid, SIGTERM), 0);
  struct pollfd p = {.fd = pidfd, .events = POLLIN};
  assert_int_equal(poll(&p, 1, 10000), 1);
  assert_true(WIFSIGNALED(wait_for(pid)));
  int r = proc_pidfd_status(pidfd, &status);
  assert_true(r == 0 || r == -ENODATA); /* Linux 6.15 and later, or before */
  if (r == 0)
    assert_int_equal(WTERMSIG(status), SIGTERM);
  assert_int_equal(proc_pidfd(pid), -ESRCH);
  fd_close(&pidfd);
}

static void test_kill_never_means_a_group(void **state) {
  assert_int_equal(proc_kill(-1, 0, 0), -ESRCH);
  assert_int_equal(proc_kill(-1, -1, 0), -ESRCH); /* -1: everybody */
  assert_int_equal(proc_kill(-1, getpid(), 0), 0);
  assert_int_equal(proc_kill(-1, getpid(), 9999), -EINVAL);
}

/* ---- this process ---- */

static void *wait_at_barrier(void *barrier) {
  pthread_barrier_wait(barrier);
  pthread_barrier_wait(barrier);
  return NULL;
}

static int count_threads(void) {
  pthread_barrier_t barrier;
  pthread_t thread;
  int alone = proc_threads(); /* a sanitizer may have brought one of its own */
  pthread_barrier_init(&barrier, NULL, 2);
  if (pthread_create(&thread, NULL, wait_at_barrier, &barrier) != 0)
    return 1;
  pthread_barrier_wait(&barrier);
  int two = proc_threads();
  pthread_barrier_wait(&barrier);
  pthread_join(thread, NULL);
  return alone >= 1 && two == alone + 1 ? 0 : 2;
}

static void test_threads_are_counted(void **state) {
  in_child(count_threads);
}

static void *end_at_once(void *data) {
  return data;
}

/* The kernel closes them after it has told of the end. */
static void *end_with_descriptors(void *data) {
  if (unshare(CLONE_FILES) == 0)
    for (int i = 0; i < 200 && dup(0) >= 0; i++)
      ;
  return data;
}

static void *end_after(void *data) {
  const int *ms = data;
  unsigned long long end = proc_now_ns() + (unsigned long long)*ms * 1000000;
  while (proc_now_ns() < end)
    ;
  return NULL;
}

/* The kernel lists a thread for some time after it was joined, and a program that is to be
 * forked then was told that it has two. One that nobody joins may run for a moment. */
static int count_after_the_end(void) {
  static int short_ms = 60, long_ms = 3000;
  pthread_t thread;
  int alone = proc_threads();
  for (int i = 0; i < 2000; i++) {
    if (pthread_create(&thread, NULL, i % 2 ? end_at_once : end_with_descriptors, NULL))
      return 1;
    pthread_join(thread, NULL);
    if (proc_threads() != alone)
      return 2;
  }
  if (alone > 1) /* a sanitizer's is there to stay */
    return 0;
  for (int i = 0; i < 300; i++) {
    if (pthread_create(&thread, NULL, end_at_once, NULL) != 0)
      return 1;
    pthread_detach(thread);
    if (proc_threads_at_rest() != 1)
      return 3;
  }
  if (pthread_create(&thread, NULL, end_after, &short_ms) != 0)
    return 1;
  pthread_detach(thread);
  if (proc_threads_at_rest() != 1)
    return 4;
  if (pthread_create(&thread, NULL, end_after, &long_ms) != 0)
    return 1;
  return proc_threads_at_rest() == 2 ? 0 : 5;
}

static void test_threads_that_end_are_none(void **state) {
  in_child(count_after_the_end);
}

static void *ask_own_fds(void *answers) {
  int *has_own = answers;
  has_own[0] = proc_has_own_fds();
  if (unshare(CLONE_FILES) < 0)
    has_own[1] = 1; /* a sandbox forbids it */
  else
    has_own[1] = proc_has_own_fds();
  return NULL;
}

static int ask_on_thread(void) {
  pthread_t thread;
  int answers[2] = {-1, -1};
  if (proc_has_own_fds() != 0)
    return 1;
  if (pthread_create(&thread, NULL, ask_own_fds, answers) != 0)
    return 2;
  pthread_join(thread, NULL);
  return answers[0] != 0 ? 3 : answers[1] != 1 ? 4 : 0;
}

static void test_threads_with_descriptors_of_their_own_are_known(void **state) {
  in_child(ask_on_thread);
}

static int read_file(const char *path, char *out, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = read(fd, out, size - 1);
  fd_close(&fd);
  out[n > 0 ? n : 0] = '\0';
  return (int)n;
}

static int change_title(void) {
  char before[1024], after[1024], comm[32];
  int size = read_file("/proc/self/cmdline", before, sizeof before);
  proc_set_title("moonfork a title that is longer than most argument areas are "
                 "................................................................."
                 ".................................................................");
  if (read_file("/proc/self/cmdline", after, sizeof after) > size)
    return 1;
  if (strncmp(after, "moonfork a title", size > 16 ? 16 : (size_t)size - 1) != 0)
    return 2;
  proc_set_title("hi");
  read_file("/proc/self/cmdline", after, sizeof after);
  read_file("/proc/self/comm", comm, sizeof comm);
  if (strcmp(after, "hi") != 0 || strcmp(comm, "hi\n") != 0)
    return 3;
  if (!getenv("PATH") || getenv("PATH")[0] == '\0')
    return 4; /* the environment lies right behind the arguments */
  proc_set_title("");
  return 0;
}

static void test_title_stays_within_the_arguments(void **state) {
  in_child(change_title);
}

/* The title that was set before is there still; then it may be as long as the room. */
static int move_title(void) {
  enum { ROOM = 4096, LONG = 2000 };
  char shown[ROOM + 1], text[LONG + 1];
  char *room =
      mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED)
    return 1;
  proc_set_title("before");
  int r = proc_move_title(room, ROOM);
  if (r < 0) { /* kernels without it, and what stands for one */
    proc_set_title("after");
    read_file("/proc/self/cmdline", shown, sizeof shown);
    return strcmp(shown, "after") == 0 ? 0 : 2;
  }
  if (read_file("/proc/self/cmdline", shown, sizeof shown) != ROOM ||
      strcmp(shown, "before") != 0 || strcmp(room, "before") != 0)
    return 3;
  memset(text, 'x', LONG);
  text[LONG] = '\0';
  proc_set_title(text);
  read_file("/proc/self/cmdline", shown, sizeof shown);
  if (strcmp(shown, text) != 0)
    return 4;
  proc_set_title("short");
  if (read_file("/proc/self/cmdline", shown, sizeof shown) != ROOM)
    return 5;
  for (int i = 0; i < ROOM; i++)
    if (shown[i] != (i < 5 ? "short"[i] : '\0'))
      return 6;
  if (read_file("/proc/self/environ", shown, sizeof shown) <= 0 || !strstr(shown, "="))
    return 7; /* the kernel's other places are as they were */
  return sbrk(0) == sbrk(4096) ? 0 : 8;
}

static void test_title_moves(void **state) {
  in_child(move_title);
}

static void test_random_differs(void **state) {
  unsigned char a[600] = {0}, b[600] = {0}, zero[600] = {0};
  errno = 55;
  proc_random(a, sizeof a);
  proc_random(b, sizeof b);
  proc_random(a, 0);
  assert_int_equal(errno, 55);
  assert_memory_not_equal(a, b, sizeof a);
  assert_memory_not_equal(a + 568, zero, 32); /* to the last bytes */
}

static void test_clock_goes_forward(void **state) {
  unsigned long long before = proc_now_ns(), after = proc_now_ns();
  assert_true(before > 0 && after >= before);
}

static void test_memory_counts_what_is_touched(void **state) {
  enum { SIZE = 32 << 20 };
  struct proc_memory before, after, other;
  assert_int_equal(proc_memory(0, &before), 0);
  char *block =
      mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_ptr_not_equal(block, MAP_FAILED);
  memset(block, 1, SIZE);
  assert_int_equal(proc_memory(0, &after), 0);
  assert_int_equal(proc_memory(getpid(), &other), 0);
  munmap(block, SIZE);
  assert_true(after.rss - before.rss > SIZE * 9LL / 10);
  assert_true(after.uss - before.uss > SIZE * 9LL / 10);
  assert_true(after.pss >= after.uss && after.rss >= after.pss);
  assert_true(other.rss > before.rss);
  assert_int_equal(proc_memory(0x3fffffff, &other), -ESRCH);
}

static void test_memory_measured_aside(void **state) {
  struct proc_memory here, aside = {0};
  struct measure *m;
  pid_t child = fork();
  if (child == 0)
    for (;;)
      pause();
  assert_true(proc_resident(child) > 0);
  assert_true(proc_resident(0x3fffffff) == 0);
  assert_int_equal(measure_start(child, &m), 0);
  struct pollfd p = {.fd = measure_fd(m), .events = POLLIN};
  assert_int_equal(poll(&p, 1, 10000), 1);
  assert_int_equal(measure_end(m, &aside), 0);
  assert_int_equal(proc_memory(child, &here), 0);
  assert_true(aside.rss > 0 && aside.rss <= here.rss + (1 << 20));
  for (int i = 0; i < 50; i++) { /* dropped before, while and after the thread is done */
    assert_int_equal(measure_start(child, &m), 0);
    if (i % 5)
      usleep((unsigned)i * 10);
    measure_drop(m);
  }
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  assert_int_equal(measure_start(child, &m), 0); /* no such process now */
  p.fd = measure_fd(m);
  assert_int_equal(poll(&p, 1, 10000), 1);
  assert_int_equal(measure_end(m, &aside), -ESRCH);
  while (proc_threads() > 1) /* those that nobody joined close their ends */
    usleep(1000);
}

static void on_signal(int signum) {
}

static int reset_everything(void) {
  struct itimerval soon = {.it_value = {.tv_usec = 50000}};
  struct sigaction act;
  sigset_t mask;
  stack_t stack;
  static char room[65536];
  for (int s = 1; s < NSIG; s++)
    signal(s, s % 2 ? SIG_IGN : on_signal);
  stack = (stack_t){.ss_sp = room, .ss_size = sizeof room};
  sigaltstack(&stack, NULL);
  sigfillset(&mask);
  sigprocmask(SIG_SETMASK, &mask, NULL);
  setitimer(ITIMER_REAL, &soon, NULL);
  proc_reset_signals();
  for (int s = 1; s < NSIG; s++)
    if (sigaction(s, NULL, &act) == 0 && act.sa_handler != SIG_DFL)
      return 1;
  sigprocmask(SIG_SETMASK, NULL, &mask);
  for (int s = 1; s < NSIG; s++)
    if (sigismember(&mask, s) == 1)
      return 2;
  sigaltstack(NULL, &stack);
  if (!(stack.ss_flags & SS_DISABLE))
    return 3;
  struct itimerval left;
  getitimer(ITIMER_REAL, &left);
  return left.it_value.tv_sec == 0 && left.it_value.tv_usec == 0 ? 0 : 4;
}

static void test_reset_leaves_nothing_of_the_parent(void **state) {
  in_child(reset_everything);
}

/* ---- leash ---- */

static void test_zombie_tells_its_status(void **state) {
  int status = 0;
  siginfo_t info;
  pid_t pid = fork();
  if (pid == 0)
    _exit(41);
  assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
  assert_int_equal(proc_zombie_status(-1, pid, &status), 0);
  assert_int_equal(WEXITSTATUS(status), 41);
  wait_for(pid);
  assert_int_equal(proc_zombie_status(-1, pid, &status), -ENODATA);
  assert_int_equal(proc_zombie_status(-1, getpid(), &status), -ENODATA);
}

/* The kernel tells an end in two forms, siginfo_t and the number of waitpid; each way to
 * reap gives the latter. */
static void test_every_way_to_reap_tells_the_same(void **state) {
  static const struct {
    int code, signal;
  } ends[] = {{0, 0},       {1, 0},       {41, 0},     {255, 0},
              {256 + 7, 0}, {0, SIGKILL}, {0, SIGTERM}};
  for (size_t i = 0; i < COUNT(ends); i++) {
    for (int by_pidfd = 0; by_pidfd < 2; by_pidfd++) {
      int status = -1, r;
      siginfo_t info;
      pid_t pid = fork();
      if (pid == 0) {
        if (ends[i].signal)
          raise(ends[i].signal);
        _exit(ends[i].code);
      }
      int pidfd = proc_pidfd(pid);
      if (pidfd < 0) {
        wait_for(pid);
        skip();
      }
      assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
      if (by_pidfd) {
        r = proc_reap_pidfd(pidfd, &status);
      } else {
        struct proc_status full;
        r = proc_reap(pidfd, pid, &full);
        status = full.status;
      }
      assert_int_equal(r, 0);
      assert_int_equal(status,
                       ends[i].signal ? ends[i].signal : (ends[i].code & 255) << 8);
      assert_int_equal(proc_reap_pidfd(pidfd, &status), -ECHILD);
      fd_close(&pidfd);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_spawn_puts_descriptors_in_place),
      census_test(test_spawn_minds_colliding_numbers),
      census_test(test_spawn_gives_null_for_closed_streams),
      census_test(test_spawn_gives_default_signals),
      census_test(test_spawn_passes_one_ignored_signal_on),
      census_test(test_spawn_tells_why_not),
      census_test(test_program_without_slash_is_searched),
      census_test(test_memory_of_the_dead_is_in_bytes),
      census_test(test_peek_then_reap),
      census_test(test_pidfd_signals_and_tells_the_status),
      census_test(test_kill_never_means_a_group),
      census_test(test_threads_are_counted),
      census_test(test_threads_that_end_are_none),
      census_test(test_threads_with_descriptors_of_their_own_are_known),
      census_test(test_title_stays_within_the_arguments),
      census_test(test_title_moves),
      census_test(test_random_differs),
      census_test(test_clock_goes_forward),
      census_test(test_memory_counts_what_is_touched),
      census_test(test_memory_measured_aside),
      census_test(test_reset_leaves_nothing_of_the_parent),
      census_test(test_zombie_tells_its_status),
      census_test(test_every_way_to_reap_tells_the_same),
  };
  return cmocka_run_group_tests_name("proc", tests, NULL, NULL);
}
