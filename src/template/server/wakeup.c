#include "template/server/wakeup.h"

#include "base/at_birth.h"

int wakeup_plan_is_due(struct wakeup_plan *p) {
  if (p->left > 0)
    p->left--;
  return p->left == 0;
}

static void begin(struct wakeup_plan *p, int wanted, unsigned forks) {
  p->wanted = (unsigned)wanted;
  p->left = p->period = forks;
}

void wakeup_plan_look(struct wakeup_plan *p, uint64_t delayed_ns) {
  uint64_t waited = delayed_ns - p->delayed_ns;
  p->delayed_ns = delayed_ns;
  if (!p->wanted) {
    begin(p, 1, WAKEUP_TRIAL);
  } else if (waited <= (uint64_t)p->period * WAKEUP_LATE_NS) {
    if (p->period == WAKEUP_LOOK)
      p->pause = 0;
    begin(p, 1, WAKEUP_LOOK);
  } else {
    p->pause = p->pause == 0                 ? WAKEUP_PAUSE
               : p->pause < WAKEUP_PAUSE_MAX ? 2 * p->pause
                                             : WAKEUP_PAUSE_MAX;
    begin(p, 0, p->pause);
  }
}

#ifdef __linux__
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SCHED_BATCH
#define SCHED_BATCH 3
#endif

AT_BIRTH static struct {
  struct wakeup_plan plan;
  int on;    /* the policy is ours */
  int never; /* it can't be had, or nothing tells how long this process waits */
} state = {{0}, 0, 0};

/* Not by libc's functions, which are pages that a clone does not touch otherwise. */
static int policy_is(int policy) {
  return syscall(SYS_sched_getscheduler, 0) == policy;
}

/* The nice value stays. */
static int set_policy(int policy) {
  static const int priority = 0; /* struct sched_param */
  return (int)syscall(SYS_sched_setscheduler, 0, policy, &priority);
}

static void turn_off(void) {
  if (state.on && policy_is(SCHED_BATCH)) /* else somebody has chosen another one */
    set_policy(SCHED_OTHER);
  state.on = 0;
}

/* A filter of system calls may kill for these ones: with any, nothing is tried. */
static void turn_on(void) {
  if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0) {
    state.never = 1;
    return;
  }
  if (!policy_is(SCHED_OTHER))
    return;
  if (set_policy(SCHED_BATCH) < 0)
    state.never = 1;
  else
    state.on = 1;
}

/* The second number of /proc/self/schedstat. 0 or -1. */
static int read_delay(uint64_t *ret_ns) {
  char text[80];
  int fd = open("/proc/self/schedstat", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0)
    close(fd);
  if (n <= 0)
    return -1;
  text[n] = 0;
  const char *second = strchr(text, ' ');
  if (!second)
    return -1;
  *ret_ns = strtoull(second + 1, NULL, 10);
  return 0;
}

void wakeup_after_fork(void) {
  uint64_t delayed_ns;
  if (state.never)
    return;
  if (wakeup_plan_is_due(&state.plan)) {
    if (read_delay(&delayed_ns) < 0) {
      turn_off();
      state.never = 1;
      return;
    }
    wakeup_plan_look(&state.plan, delayed_ns);
  }
  if (state.plan.wanted && !state.on)
    turn_on();
  else if (!state.plan.wanted)
    turn_off();
}

void wakeup_enter_user(void) {
  turn_off();
}

void wakeup_forked(void) {
  turn_off();
  state.plan = (struct wakeup_plan){0};
}

#else

void wakeup_after_fork(void) {
}

void wakeup_enter_user(void) {
}

void wakeup_forked(void) {
}

#endif
