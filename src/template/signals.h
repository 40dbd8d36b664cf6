/* Signals of a process that serves: SIGCHLD is blocked but while it waits, user code runs
 * with an empty mask, a clone begins with default dispositions. Runs in templates and
 * clones before run. */
#ifndef TEMPLATE_SIGNALS_H
#define TEMPLATE_SIGNALS_H

#include <signal.h>
#include <sys/types.h>

/* Before the first fork: SIGCHLD is handled and blocked from now on. Idempotent. */
void signals_watch_children(void);
/* Around user code: the mask is empty inside; afterwards SIGCHLD is ours again. */
void signals_enter_user(void);
void signals_leave_user(void);
/* Whether user code ran since the last fork. */
int signals_user_ran(void);
/* The children that SIGCHLD named since the last call; at most max. With SIGCHLD blocked.
 */
int signals_take_hints(pid_t *ret_pids, int max);
/* Around fork(): nothing interrupts, and no handler runs in the clone. Takes note of the
 * dispositions that user code has changed. */
void signals_block_all(sigset_t *ret_old);
void signals_restore(const sigset_t *old);
/* Before the function: SIGCHLD is nobody's any more. */
void signals_release(void);
/* In the clone: defaults for everything, the mask empty. */
void signals_forked(void);

#endif
