/* The handler restarts what it interrupts (SA_RESTART), so that the C library and other
 * modules see no EINTR; poll(2) is never restarted, and our own waits are made of it. The
 * signal is blocked between the look at the note and the sleep, which unblocks it.
 *
 * waitpid(2) can't be told to unblock anything. So the handler leaps out of a waitid(2)
 * that only looks (WNOWAIT): whatever it had found is still there for the next look. */
#include "os/term.h"

#include "base/at_birth.h"
#include "os/fd.h"
#include "os/fdwait.h"
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#endif

AT_BIRTH static volatile sig_atomic_t installed = 0, noted = 0;
static volatile sig_atomic_t forwarded, may_leap;
static sigjmp_buf leap;
static pthread_t owner; /* the thread whose Lua it is */
static void (*note)(void);
static struct sigaction before;
static volatile int wake_fd = -1;
static pid_t wake_pid; /* whose it is: a forked process must not wake this one */

static void set_default(void) {
  struct sigaction a;
  memset(&a, 0, sizeof a);
  a.sa_handler = SIG_DFL;
  sigaction(SIGTERM, &a, NULL);
}

static void wake(void) {
  static const uint64_t one = 1;
  if (wake_fd >= 0 && wake_pid == getpid()) {
    ssize_t n = write(wake_fd, &one, sizeof one);
    (void)n;
  }
}

/* Another thread may get it: the note and the hook are for the one that runs Lua. */
static void pass_on(void) {
  if (!forwarded) {
    forwarded = 1;
    pthread_kill(owner, SIGTERM); /* NOLINT: it is caught; that is what it is for */
    return;
  }
  set_default();
  kill(getpid(), SIGTERM);
}

static void on_signal(int signum) {
  int error = errno;
  (void)signum;
  if (!pthread_equal(pthread_self(), owner)) {
    pass_on();
    errno = error;
    return;
  }
  set_default();
  installed = 0;
  noted = 1;
  wake();
  if (note)
    note();
  errno = error;
  if (may_leap) {
    may_leap = 0;
    siglongjmp(leap, 1);
  }
}

static int install(int flags, struct sigaction *ret_before) {
  struct sigaction a;
  memset(&a, 0, sizeof a);
  a.sa_handler = on_signal;
  a.sa_flags = flags;
  sigemptyset(&a.sa_mask);
  return sigaction(SIGTERM, &a, ret_before) < 0 ? -errno : 0;
}

int term_install(void (*on_note)(void)) {
  if (installed)
    return 0;
  note = on_note;
  owner = pthread_self();
  forwarded = 0;
  installed = 1;
  int r = install(SA_RESTART, &before);
  if (r < 0)
    installed = 0;
  return r;
}

void term_remove(void) {
  if (installed)
    sigaction(SIGTERM, &before, NULL);
  installed = noted = 0;
}

int term_watched(void) {
  return installed || noted;
}

int term_noted(void) {
  return noted;
}

int term_take(void) {
  int was = noted;
  noted = 0;
  if (was && wake_fd >= 0 && wake_pid == getpid()) {
    uint64_t n;
    ssize_t got = read(wake_fd, &n, sizeof n);
    (void)got;
  }
  return was;
}

static int interrupted(void) {
  errno = EINTR;
  return -1;
}

static void block(sigset_t *ret_mask) {
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &term, ret_mask);
}

void term_unblock(void) {
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_UNBLOCK, &term, NULL);
}

int term_wait(struct pollfd *p, int n, int timeout_ms) {
  struct timespec t = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
  sigset_t mask;
  if (!term_watched())
    return fdwait(p, n, timeout_ms);
  block(&mask);
  int r = noted ? interrupted() : fdwait_masked(p, n, timeout_ms < 0 ? NULL : &t, &mask);
  int error = errno;
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  errno = error;
  return r;
}

int term_wait_child(pid_t which) {
  siginfo_t info;
  idtype_t type = which > 0 ? P_PID : which == -1 ? P_ALL : P_PGID;
  id_t id = which > 0 ? (id_t)which : which == 0 ? (id_t)getpgrp() : (id_t)-which;
  if (sigsetjmp(leap, 1))
    return interrupted();
  may_leap = 1;
  int r = noted ? interrupted() : waitid(type, id, &info, WEXITED | WNOWAIT);
  may_leap = 0;
  return r;
}

int term_accept(int fd, int flags) {
  int watched = installed;
  if (watched)
    install(0, NULL);
  int r = noted ? interrupted() : accept4(fd, NULL, NULL, flags), error = errno;
  if (watched && installed)
    install(SA_RESTART, NULL);
  errno = error;
  return r;
}

int term_wake_fd(void) {
  if (wake_fd >= 0 && wake_pid == getpid())
    return wake_fd;
#ifdef __linux__
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0)
    return -errno;
  fd = fd_raise(fd);
  if (fd < 0)
    return fd;
  wake_pid = getpid();
  wake_fd = fd;
  if (noted)
    wake();
  return fd;
#else
  return -ENOSYS;
#endif
}
