#include "parent/loop/busy_wait.h"

void busy_wait_expect(struct busy_wait *b, uint64_t now_ns) {
  b->until_ns = now_ns + BUSY_WAIT_NS;
}

uint64_t busy_wait_begin(struct busy_wait *b) {
  uint64_t until_ns = b->until_ns;
  b->until_ns = 0;
  if (!until_ns || b->left == 0)
    return until_ns;
  b->left--;
  return 0;
}

void busy_wait_end(struct busy_wait *b, int came) {
  if (came)
    b->pause = 0;
  else if (b->pause < BUSY_WAIT_PAUSE_MAX)
    b->pause = b->pause ? 2 * b->pause : 1;
  b->left = b->pause;
}
