/* How a template is woken: under SCHED_BATCH (sched(7)) it does not preempt whoever has
 * sent it a command. That one is about to sleep, and when it sleeps before the template
 * forks, the new process begins on the processor where all of them are. Else it begins on
 * another one that has to be woken, and the next wake-ups move everybody to and fro.
 *
 * On a machine where others want the processors a template that preempts nobody waits for
 * them. So it looks how long it waited for a processor, and takes the policy only while
 * that is not long. User code and clones never have it. Runs in templates and clones. */
#ifndef TEMPLATE_SERVER_WAKEUP_H
#define TEMPLATE_SERVER_WAKEUP_H

#include <stdint.h>

/* ---- the decision: numbers in, a verdict out ---- */

enum {
  WAKEUP_LATE_NS = 40000,               /* a longer wait, on average, is too long */
  WAKEUP_TRIAL = 4,                     /* forks under it until the first look */
  WAKEUP_LOOK = 32,                     /* between two looks */
  WAKEUP_PAUSE = 256,                   /* forks without it after a long wait, */
  WAKEUP_PAUSE_MAX = 32 * WAKEUP_PAUSE, /* twice as many after the next one, up to this */
};

struct wakeup_plan { /* all zero: no fork yet */
  unsigned wanted;
  unsigned left;       /* forks until the next look */
  unsigned period;     /* forks since the last one, when it comes */
  unsigned pause;      /* forks of the last pause; 0: there was none */
  uint64_t delayed_ns; /* what the process had waited in all at the last look */
};

/* After each fork: 1 when it is time to look. */
int wakeup_plan_is_due(struct wakeup_plan *p);
/* The look. delayed_ns: how long the process has waited for a processor in all. */
void wakeup_plan_look(struct wakeup_plan *p, uint64_t delayed_ns);

/* ---- and what it is carried out with ---- */

/* In a template, after a fork. */
void wakeup_after_fork(void);
/* Before user code, which may start processes of its own. */
void wakeup_enter_user(void);
/* In the clone. */
void wakeup_forked(void);

#endif
