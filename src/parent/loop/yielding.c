#include "parent/loop/yielding.h"

int yielding_is_due(struct yielding *y) {
  if (y->left == 0)
    return 1;
  y->left--;
  return 0;
}

void yielding_took(struct yielding *y, uint64_t ns) {
  if (ns <= YIELDING_LATE_NS)
    y->pause = 0;
  else if (y->pause == 0)
    y->pause = YIELDING_PAUSE;
  else if (y->pause < YIELDING_PAUSE_MAX)
    y->pause *= 2;
  y->left = y->pause;
}
