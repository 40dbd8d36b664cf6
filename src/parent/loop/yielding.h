/* Whether to let others have the processor for a child that is about to end. Its socket
 * ends a few microseconds before it can be reaped, and where parent and child share a
 * processor the parent runs in between. A pidfd, watched and closed again, costs more than
 * all that is left of the child. Where others want the processor, too, they have it for
 * much longer: then it is done less and less often. Pure. */
#ifndef PARENT_LOOP_YIELDING_H
#define PARENT_LOOP_YIELDING_H

#include <stdint.h>

enum {
  YIELDING_LATE_NS = 100000, /* the child alone took less */
  YIELDING_PAUSE = 64,       /* ends after one that took longer; doubled with each */
  YIELDING_PAUSE_MAX = 8192
};

struct yielding { /* all zero: it has not been tried */
  unsigned pause, left;
};

/* Whether to yield at this end. */
int yielding_is_due(struct yielding *y);
/* How long that took. */
void yielding_took(struct yielding *y, uint64_t ns);

#endif
