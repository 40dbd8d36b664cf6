/* Signals of templates and clones before run. Resetting all dispositions in each clone
 * would cost a hundred system calls; so at the first fork after user code has run the
 * template notes which ones are not the default, and clones reset these. */
#include "template/server/signals.h"

#include "base/at_birth.h"
#include "template/server/autoreap.h"
#include "template/server/wakeup.h"
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

AT_BIRTH static int user_ran = 1, has_altstack = 0, blocked = 0;
AT_BIRTH static int nchanged = 0;
AT_BIRTH static sigset_t changed = {{0}}; /* dispositions that are not the default */
AT_BIRTH static sigset_t before = {{0}};  /* the mask, while all are blocked */
AT_BIRTH static int own = 0;              /* the signal whose handler is ours; 0: none */
static void (*own_handler)(int);

void signals_enter_user(void) {
  user_ran = 1;
  wakeup_enter_user();
  autoreap_enter_user();
}

void signals_enter_thread(void) {
  user_ran = 1;
  wakeup_enter_user(); /* a thread is scheduled as the one that starts it */
}

void signals_leave_user(void) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  autoreap_leave_user();
}

static void note_dispositions(void) {
  stack_t stack;
  user_ran = nchanged = 0;
  sigemptyset(&changed);
  for (int i = 1; i < NSIG; i++) {
    struct sigaction a;
    if (sigaction(i, NULL, &a) == 0 && a.sa_handler != SIG_DFL && !signals_is_own(&a)) {
      sigaddset(&changed, i);
      nchanged++;
    }
  }
  has_altstack = sigaltstack(NULL, &stack) == 0 && !(stack.ss_flags & SS_DISABLE);
}

void signals_before_fork(void) {
  sigset_t all;
  if (user_ran)
    note_dispositions();
  if (nchanged == 0)
    return;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  blocked = 1;
}

void signals_after_fork(void) {
  if (!blocked)
    return;
  blocked = 0;
  sigprocmask(SIG_SETMASK, &before, NULL);
}

static void set_default(int signum) {
  struct sigaction a;
  memset(&a, 0, sizeof a);
  a.sa_handler = SIG_DFL;
  sigaction(signum, &a, NULL);
}

/* ---- a handler of ours ---- */

void signals_set_own(int signum, void (*handler)(int)) {
  struct sigaction a, old;
  if (sigaction(signum, NULL, &old) < 0 || old.sa_handler != SIG_DFL)
    return;
  memset(&a, 0, sizeof a);
  a.sa_handler = handler;
  a.sa_flags = SA_RESTART;
  own_handler = handler;
  if (sigaction(signum, &a, NULL) == 0)
    own = signum;
}

int signals_is_own(const struct sigaction *action) {
  return own && action->sa_handler == own_handler;
}

static void reset_own(void) {
  struct sigaction a;
  if (own && sigaction(own, NULL, &a) == 0 && signals_is_own(&a))
    set_default(own);
  own = 0;
}

/* Asks nothing: clones have defaults for what user code has set, too. By the kernel
 * itself, since libc's sigaction is a page of code that a clone does not touch otherwise.
 */
static void reset_own_in_clone(void) {
  int signum = own;
  if (!signum)
    return;
  own = 0;
#ifdef SYS_rt_sigaction
  static const unsigned long
      defaults[8]; /* as the kernel has it; longer than on any machine */
  if (syscall(SYS_rt_sigaction, signum, defaults, NULL, (size_t)(_NSIG / 8)) == 0)
    return;
#endif
  set_default(signum);
}

void signals_release(void) {
  autoreap_forget();
  reset_own();
}

void signals_forked(void) {
  autoreap_forget();
  reset_own_in_clone();
  for (int i = 1; nchanged > 0 && i < NSIG; i++)
    if (sigismember(&changed, i))
      set_default(i);
  if (has_altstack) {
    stack_t off = {.ss_flags = SS_DISABLE};
    sigaltstack(&off, NULL);
    has_altstack = 0;
  }
  if (!blocked)
    return;
  sigset_t none;
  sigemptyset(&changed);
  nchanged = blocked = 0;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}
