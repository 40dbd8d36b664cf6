/* Signals of templates and clones before run. Resetting all dispositions in each clone
 * would cost a hundred system calls; so at the first fork after user code has run the
 * template notes which ones are not the default, and clones reset these. */
#include "template/signals.h"

#include "base/birth.h"
#include "template/autoreap.h"
#include <string.h>

AT_BIRTH static int user_ran = 1, has_altstack = 0, blocked = 0;
AT_BIRTH static int nchanged = 0;
AT_BIRTH static sigset_t changed = {{0}}; /* dispositions that are not the default */
AT_BIRTH static sigset_t before = {{0}};  /* the mask, while all are blocked */

int signals_user_ran(void) {
  return user_ran;
}

void signals_enter_user(void) {
  user_ran = 1;
  autoreap_enter_user();
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
    if (sigaction(i, NULL, &a) == 0 && a.sa_handler != SIG_DFL) {
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

void signals_release(void) {
  autoreap_forget();
}

void signals_forked(void) {
  autoreap_forget();
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
