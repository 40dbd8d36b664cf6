/* Processes, the part that every UNIX has: starting a program, asking for and reaping a
 * child, dispositions, the clock, randomness. proc_linux.c or proc_posix.c has the rest.
 * proc_spawn runs in the parent, proc_reap and proc_peek in whoever forked or spawned,
 * the others everywhere. Nothing here forks by copying memory. */
#include "os/proc.h"

#include "base/result.h"
#include "os/fd.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/random.h>
#endif

/* ---- spawn ---- */

/* The numbers that the new process finds: the standard streams, control socket, leash,
 * and the intake of a template behind a link. */
enum { TARGETS = 6, SAFE_NUMBER = 10 };
static const int targets[TARGETS] = {
    0, 1, 2, PROC_CONTROL_FD, PROC_LEASH_FD, PROC_THIRD_FD};

/* Where each target comes from: a duplicate above all targets, so that no dup2 in the
 * child overwrites what a later one needs, and none is a dup2 onto itself, which would
 * leave close-on-exec set. -1: the child keeps what it inherits. */
struct sources {
  int fd[TARGETS];
};

static void sources_close(struct sources *s) {
  for (int i = 0; i < TARGETS; i++)
    fd_close(&s->fd[i]);
}

static int dup_high(int fd) {
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, SAFE_NUMBER);
  return copy < 0 ? -errno : copy;
}

static int null_high(void) {
  int fd = fd_open_null();
  if (fd < 0 || fd >= SAFE_NUMBER)
    return fd;
  int copy = dup_high(fd);
  fd_close(&fd);
  return copy;
}

/* A program that was started without its standard streams opens files of its own under
 * their numbers; such a file is close-on-exec, or it is meant to be inherited. */
static int is_inheritable(int fd) {
  int flags = fcntl(fd, F_GETFD);
  return flags >= 0 && !(flags & FD_CLOEXEC);
}

static int source_for(int wanted, int target, int *ret_fd) {
  int fd;
  if (wanted >= 0)
    fd = dup_high(wanted);
  else if (target <= 2 && !is_inheritable(target))
    fd = null_high();
  else
    return 0;
  if (fd < 0)
    return fd;
  *ret_fd = fd;
  return 0;
}

static int sources_open(struct sources *s, const struct proc_spawn *spawn) {
  const int wanted[TARGETS] = {
      spawn->stdio[0],   spawn->stdio[1], spawn->stdio[2],
      spawn->control_fd, spawn->leash_fd, spawn->third_fd > 0 ? spawn->third_fd : -1};
  for (int i = 0; i < TARGETS; i++)
    s->fd[i] = -1;
  for (int i = 0; i < TARGETS; i++) {
    int r = source_for(wanted[i], targets[i], &s->fd[i]);
    if (r == 0)
      continue;
    sources_close(s);
    return r;
  }
  return 0;
}

static int add_actions(posix_spawn_file_actions_t *actions, const struct sources *s) {
  int r = 0;
  for (int i = 0; r == 0 && i < TARGETS; i++)
    if (s->fd[i] >= 0)
      r = posix_spawn_file_actions_adddup2(actions, s->fd[i], targets[i]);
  return -r;
}

/* Every bit is set by hand, because sigfillset of glibc leaves out its two internal
 * signals, which its posix_spawn then leaves ignored in the new program. Some systems
 * refuse the whole set when it names the two signals that have no choice. */
static int set_attributes(posix_spawnattr_t *attr, const struct proc_spawn *s) {
  short flags = POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK;
  sigset_t all, none;
  memset(&all, 0xff, sizeof all);
  sigdelset(&all, SIGKILL);
  sigdelset(&all, SIGSTOP);
  sigemptyset(&none);
  if (s->ignored)
    sigdelset(&all, s->ignored);
  if (s->own_group)
    flags |= POSIX_SPAWN_SETPGROUP; /* 0, the default: its own number */
  int r = posix_spawnattr_setflags(attr, flags);
  if (r == 0)
    r = posix_spawnattr_setsigdefault(attr, &all);
  if (r == 0)
    r = posix_spawnattr_setsigmask(attr, &none);
  return -r;
}

/* Where a sandbox answers clone3 with EPERM, posix_spawn gives up (it expects ENOSYS).
 * The child of vfork(2) borrows our memory until it has executed: it only makes calls. */
static int spawn_by_vfork(const struct proc_spawn *s, const struct sources *sources,
                          pid_t *ret_pid) {
  volatile int error = 0;
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old); /* no handler of ours may run in the child */
  pid_t pid = vfork();
  if (pid == 0) {
    for (int i = 0; i < TARGETS; i++)
      if (sources->fd[i] >= 0 && dup2(sources->fd[i], targets[i]) < 0)
        _Exit(error = errno); /* not _exit: coverage.c replaces that, and writes files */
    if (s->own_group)
      setpgid(0, 0);
    proc_reset_signals();
    if (s->ignored)
      signal(s->ignored, SIG_IGN);
    execvpe(s->program, s->argv, s->envp);
    error = errno;
    _Exit(127);
  }
  int r = pid < 0 ? -errno : -error;
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (pid > 0 && r < 0)
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
      ;
  if (r == 0)
    *ret_pid = pid;
  return r;
}

static int spawn_with(const struct proc_spawn *s, const struct sources *sources,
                      posix_spawn_file_actions_t *actions, posix_spawnattr_t *attr,
                      pid_t *ret_pid) {
  int r = add_actions(actions, sources);
  if (r == 0)
    r = set_attributes(attr, s);
  if (r < 0)
    return r;
  pid_t pid;
  r = posix_spawnp(&pid, s->program, actions, attr, s->argv, s->envp);
  if (r == EPERM)
    return spawn_by_vfork(s, sources, ret_pid);
  if (r != 0)
    return -r;
  *ret_pid = pid;
  return 0;
}

int proc_spawn(const struct proc_spawn *s, pid_t *ret_pid) {
  struct sources sources;
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attr;
  int r = sources_open(&sources, s);
  if (r < 0)
    return r;
  r = -posix_spawn_file_actions_init(&actions);
  if (r < 0)
    goto no_actions;
  r = -posix_spawnattr_init(&attr);
  if (r < 0)
    goto no_attr;
  r = spawn_with(s, &sources, &actions, &attr, ret_pid);
  posix_spawnattr_destroy(&attr);
no_attr:
  posix_spawn_file_actions_destroy(&actions);
no_actions:
  sources_close(&sources);
  return r;
}

/* ---- children ---- */

static unsigned long long microseconds(struct timeval t) {
  return (unsigned long long)t.tv_sec * 1000000 + (unsigned long long)t.tv_usec;
}

enum { OF_PIDFD = 3 }; /* P_PIDFD of Linux 5.4, which older headers lack */

static int reap_number(pid_t pid, struct proc_status *ret) {
  struct rusage usage;
  int status;
  pid_t r;
  assert(pid > 0);
  do
    r = wait4(pid, &status, WNOHANG, &usage);
  while (r < 0 && errno == EINTR);
  if (r < 0)
    return -errno;
  if (r == 0)
    return MF_AGAIN;
  ret->status = status;
  ret->utime_us = microseconds(usage.ru_utime);
  ret->stime_us = microseconds(usage.ru_stime);
  ret->maxrss_bytes = (unsigned long long)usage.ru_maxrss * PROC_MAXRSS_UNIT;
  return 0;
}

#ifdef __linux__
static int to_wait_status(const siginfo_t *i) {
  switch (i->si_code) {
  case CLD_EXITED:
    return (i->si_status & 0xff) << 8;
  case CLD_DUMPED:
    return (i->si_status & 0x7f) | 0x80;
  default:
    return i->si_status & 0x7f;
  }
}

/* The system call, unlike the function of libc, has a fifth argument that is filled with
 * the resources that the child used. */
static int reap_pidfd(int pidfd, struct proc_status *ret) {
  siginfo_t info = {0};
  struct rusage usage = {0};
  long r;
  do
    r = syscall(SYS_waitid, OF_PIDFD, pidfd, &info, WEXITED | WNOHANG, &usage);
  while (r < 0 && errno == EINTR);
  if (r < 0)
    return -errno;
  if (info.si_pid == 0)
    return MF_AGAIN;
  *ret = (struct proc_status){to_wait_status(&info), microseconds(usage.ru_utime),
                              microseconds(usage.ru_stime),
                              (unsigned long long)usage.ru_maxrss * PROC_MAXRSS_UNIT};
  return 0;
}
#else
static int reap_pidfd(int pidfd, struct proc_status *ret) {
  (void)pidfd, (void)ret;
  return -EINVAL;
}
#endif

int proc_reap_pidfd(int pidfd, int *ret_status) {
  struct proc_status status;
  if (reap_pidfd(pidfd, &status) != 0)
    return -ECHILD;
  *ret_status = status.status;
  return 0;
}

int proc_reap(int pidfd, pid_t pid, struct proc_status *ret) {
  int r = pidfd >= 0 ? reap_pidfd(pidfd, ret) : -EINVAL;
  return r == -EINVAL || r == -ENOSYS ? reap_number(pid, ret) : r; /* before Linux 5.4 */
}

int proc_peek(int pidfd, pid_t pid) {
  siginfo_t info;
  int r;
  assert(pid > 0 || pidfd >= 0);
  do {
    info.si_pid = 0;
    r = pidfd >= 0
            ? waitid((idtype_t)OF_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT)
            : waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT);
  } while (r < 0 && errno == EINTR);
  if (r < 0 && errno == EINVAL && pidfd >= 0 && pid > 0)
    return proc_peek(-1, pid);
  if (r < 0)
    return -errno;
  return info.si_pid > 0 ? 0 : MF_AGAIN;
}

static atomic_int thieves;

void proc_note_thief(void) {
  atomic_store(&thieves, 1);
}

int proc_is_careless(void) {
  struct sigaction a;
  if (atomic_load(&thieves))
    return 1;
  return sigaction(SIGCHLD, NULL, &a) == 0 &&
         (a.sa_handler != SIG_DFL || (a.sa_flags & SA_NOCLDWAIT));
}

/* Whether the process is in its group is looked at first: it may be gone by the signal.
 */
int proc_kill_tree(int pidfd, pid_t pid, int by_number, int signum) {
  int is_member = getpgid(pid) == pid;
  if (signum != 0 && proc_kill_group(pidfd, pid, by_number, signum) == 0 && is_member)
    return 0;
  return proc_kill(pidfd, pid, signum);
}

/* ---- signals ---- */

static void stop_timers(void) {
  static const struct itimerval off;
  setitimer(ITIMER_REAL, &off, NULL);
  setitimer(ITIMER_VIRTUAL, &off, NULL);
  setitimer(ITIMER_PROF, &off, NULL);
}

/* Order: no timer may fire into a default disposition, no handler may run on a stack that
 * is gone, and the mask opens last. */
#ifdef __linux__
/* Two signals are the C library's own and sigaction refuses them; one that was left
 * ignored (glibc's posix_spawn does that to what it starts) would be inherited for ever.
 * A handler is the library's and stays. */
static void reset_hidden_signals(void) {
  struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long long mask;
  } old, none = {0};
  for (int signum = 32; signum < SIGRTMIN; signum++)
    if (syscall(SYS_rt_sigaction, signum, NULL, &old, sizeof old.mask) == 0 &&
        old.handler == SIG_IGN)
      syscall(SYS_rt_sigaction, signum, &none, NULL, sizeof none.mask);
}
#else
static void reset_hidden_signals(void) {
}
#endif

void proc_reset_signals(void) {
  struct sigaction act = {.sa_handler = SIG_DFL};
  sigset_t none;
  stop_timers();
  sigemptyset(&act.sa_mask);
  for (int signum = 1; signum < NSIG; signum++)
    sigaction(signum, &act, NULL); /* the few that refuse are seen to below */
  reset_hidden_signals();
  stack_t no_stack = {.ss_flags = SS_DISABLE};
  sigaltstack(&no_stack, NULL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

/* ---- clock and randomness ---- */

unsigned long long proc_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (unsigned long long)t.tv_sec * 1000000000 + (unsigned long long)t.tv_nsec;
}

unsigned long long proc_now_coarse_ns(void) {
#ifdef CLOCK_MONOTONIC_COARSE
  struct timespec t;
  if (clock_gettime(CLOCK_MONOTONIC_COARSE, &t) == 0)
    return (unsigned long long)t.tv_sec * 1000000000ull + (unsigned long long)t.tv_nsec;
#endif
  return proc_now_ns();
}

/* Both give the number of bytes they could fill from the front. */

static size_t random_by_call(unsigned char *out, size_t n) {
  enum { CALL_MAX = 256 };
  size_t done = 0;
  while (done < n) {
    size_t part = n - done < CALL_MAX ? n - done : CALL_MAX;
    if (getentropy(out + done, part) < 0)
      break;
    done += part;
  }
  return done;
}

static size_t random_by_device(unsigned char *out, size_t n) {
  size_t done = 0;
  if (n == 0)
    return 0;
  int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  while (fd >= 0 && done < n) {
    ssize_t got = read(fd, out + done, n - done);
    if (got <= 0 && !(got < 0 && errno == EINTR))
      break;
    done += got > 0 ? (size_t)got : 0;
  }
  fd_close(&fd);
  return done;
}

/* Different in every process and at every call, and no more than that (splitmix64). */
static void random_by_clock(unsigned char *out, size_t n) {
  static uint64_t calls;
  struct timespec wall;
  clock_gettime(CLOCK_REALTIME, &wall);
  uint64_t state = (uint64_t)wall.tv_sec * 1000000007u ^ (uint64_t)wall.tv_nsec << 20 ^
                   (uint64_t)getpid() << 40 ^ proc_now_ns() ^ ++calls << 56;
  for (size_t i = 0; i < n; i++) {
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    out[i] = (unsigned char)(z >> 56);
  }
}

void proc_random(void *out, size_t n) {
  unsigned char *bytes = out;
  int saved = errno;
  size_t done = random_by_call(bytes, n);
  if (done < n)
    done += random_by_device(bytes + done, n - done);
  if (done < n)
    random_by_clock(bytes + done, n - done);
  errno = saved;
}
