/* Whether to look for an answer again and again for a moment before going to sleep. A
 * clone in a thread answers within some dozens of microseconds; to put the waiting
 * processor to sleep and to wake it takes as long, and the clone's thread, which has to
 * wake it, waits for that with its first bytes. Where answers come later than that, in
 * vain or on a machine that has other work, it is done less and less often. Pure. */
#ifndef PARENT_LOOP_BUSY_WAIT_H
#define PARENT_LOOP_BUSY_WAIT_H

#include <stdint.h>

enum {
  BUSY_WAIT_NS = 100000,    /* at most, from the command on */
  BUSY_WAIT_PAUSE_MAX = 256 /* answers that are slept for, after several in vain */
};

struct busy_wait {   /* all zero: nothing is expected */
  uint64_t until_ns; /* 0: nothing is */
  unsigned pause, left;
};

/* A command was sent whose answer may be near. */
void busy_wait_expect(struct busy_wait *b, uint64_t now_ns);
/* Until when, once for each expectation; 0: sleep at once. */
uint64_t busy_wait_begin(struct busy_wait *b);
/* Whether something came meanwhile. */
void busy_wait_end(struct busy_wait *b, int came);

#endif
