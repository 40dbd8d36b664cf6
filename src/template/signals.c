/* Signals of templates and clones before run. Resetting all dispositions in each clone
 * would cost a hundred system calls; so at the first fork after user code has run the
 * template notes which ones are not the default, and clones reset these. */
#include "template/signals.h"

#include "base/birth.h"
#include "os/proc.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>

enum { HINTS_MAX = 64 };

AT_BIRTH static volatile sig_atomic_t nhints = 0;
AT_BIRTH static pid_t hints[HINTS_MAX] = {0};
AT_BIRTH static int watching = 0; /* SIGCHLD is ours, and blocked */
AT_BIRTH static int user_ran = 1, has_altstack = 0;
AT_BIRTH static pthread_t waiter = 0; /* who serves */
AT_BIRTH static int nchanged = 0;
AT_BIRTH static sigset_t changed = {{0}}; /* dispositions that are not the default */

/* Where user code has brought threads (and the audit was switched off), the kernel may choose
 * one of theirs, and whoever waits would sleep on. */
static void on_sigchld(int signum, siginfo_t *info, void *context) {
  int saved = errno;
  if (!pthread_equal(pthread_self(), waiter))
    pthread_kill(waiter, signum);
  if (nhints < HINTS_MAX)
    hints[nhints] = info->si_pid;
  nhints = nhints < HINTS_MAX ? nhints + 1 : HINTS_MAX;
  errno = saved;
}

static void handle_sigchld(void) {
  struct sigaction a;
  memset(&a, 0, sizeof a);
  a.sa_sigaction = on_sigchld;
  a.sa_flags = SA_SIGINFO | SA_RESTART | SA_NOCLDSTOP;
  sigfillset(&a.sa_mask);
  sigaction(SIGCHLD, &a, NULL);
}

static void mask_sigchld(int how) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigprocmask(how, &set, NULL);
}

void signals_watch_children(void) {
  if (watching)
    return;
  watching = 1;
  waiter = pthread_self();
  mask_sigchld(SIG_BLOCK);
  handle_sigchld();
}

int signals_user_ran(void) {
  return user_ran;
}

void signals_enter_user(void) {
  user_ran = 1;
  if (watching)
    mask_sigchld(SIG_UNBLOCK);
}

static void note_dispositions(void) {
  stack_t stack;
  user_ran = nchanged = 0;
  sigemptyset(&changed);
  for (int i = 1; i < NSIG; i++) {
    struct sigaction a;
    if (sigaction(i, NULL, &a) == 0 && a.sa_handler != SIG_DFL) {
      sigaddset(&changed, i);
      nchanged++;
    }
  }
  has_altstack = sigaltstack(NULL, &stack) == 0 && !(stack.ss_flags & SS_DISABLE);
}

void signals_leave_user(void) {
  sigset_t mask;
  sigemptyset(&mask);
  if (watching) {
    sigaddset(&mask, SIGCHLD);
    handle_sigchld();
  }
  sigprocmask(SIG_SETMASK, &mask, NULL);
}

int signals_take_hints(pid_t *ret_pids, int max) {
  int n = nhints < max ? nhints : max;
  memcpy(ret_pids, hints, (size_t)n * sizeof *hints);
  nhints = 0;
  return n;
}

void signals_block_all(sigset_t *ret_old) {
  sigset_t all;
  if (user_ran)
    note_dispositions();
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, ret_old);
}

void signals_restore(const sigset_t *old) {
  sigprocmask(SIG_SETMASK, old, NULL);
}

static void set_default(int signum) {
  struct sigaction a;
  memset(&a, 0, sizeof a);
  a.sa_handler = SIG_DFL;
  sigaction(signum, &a, NULL);
}

void signals_release(void) {
  if (!watching)
    return;
  set_default(SIGCHLD);
  mask_sigchld(SIG_UNBLOCK);
  watching = 0;
}

void signals_forked(void) {
  sigset_t none;
  if (watching)
    set_default(SIGCHLD);
  for (int i = 1; nchanged > 0 && i < NSIG; i++)
    if (i != SIGCHLD && sigismember(&changed, i))
      set_default(i);
  if (has_altstack) {
    stack_t off = {.ss_flags = SS_DISABLE};
    sigaltstack(&off, NULL);
  }
  sigemptyset(&changed);
  nchanged = has_altstack = watching = 0;
  nhints = 0;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}
