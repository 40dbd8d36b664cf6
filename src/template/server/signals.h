/* Signals of a process that serves: user code runs with an empty mask, a clone begins
 * with default dispositions. Runs in templates and clones before run. */
#ifndef TEMPLATE_SERVER_SIGNALS_H
#define TEMPLATE_SERVER_SIGNALS_H

#include <signal.h>

/* Around user code: the mask is empty inside, and afterwards; the policy of scheduling is
 * the process's own (wakeup.h). */
void signals_enter_user(void);
void signals_leave_user(void);
/* It runs on another thread from now on, until that has ended: any disposition may change,
 * and that of the signal that ends such threads does. */
void signals_enter_thread(void);
/* A handler of the library's own, for one signal: set now, where the disposition is the
 * default, and never again, so that what user code sets stays. Clones, and the function
 * of run, have the default. It may run at any time, in a clone as well until
 * signals_forked: it must be async-signal-safe and may not rely on being in the template.
 */
void signals_set_own(int signum, void (*handler)(int));
int signals_is_own(const struct sigaction *action);
/* Around a fork: no handler of the template's runs in the clone. Takes note of the
 * dispositions that user code has changed; where there are none, nothing is blocked. */
void signals_before_fork(void);
void signals_after_fork(void); /* in the template */
/* Before the function: nothing of ours is left. */
void signals_release(void);
/* In the clone: defaults for everything, the mask empty. */
void signals_forked(void);

#endif
