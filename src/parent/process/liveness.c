#include "parent/process/liveness.h"

/* Nobody will tell of its end by the kernel's word: its own socket, and its source. */
static enum life_verdict decide_mute(const struct life *l) {
  if (l->unheard)
    return LIFE_DEAD; /* at once: of an end that nobody notices nothing can be said later
                       */
  if (!l->hung_up)
    return LIFE_NOTHING; /* somebody holds the other end */
  if (l->spoke || l->numbered)
    return LIFE_DEAD;
  switch (l->source) {
  case LIFE_SOURCE_SERVES:
    return LIFE_NOTHING; /* its answer, or its end, comes */
  case LIFE_SOURCE_ENDED:
    return LIFE_NEVER_STARTED;
  default:
    return LIFE_DEAD; /* it ended before its first word */
  }
}

enum life_verdict life_decide(const struct life *l, unsigned *ret_wait_ms) {
  switch (l->kernel) {
  case LIFE_KERNEL_STATUS:
    return LIFE_DEAD;
  case LIFE_KERNEL_GONE:
    *ret_wait_ms = LIFE_LOOK_MS;
    return l->nlooks < LIFE_LOOKS_MAX ? LIFE_WAIT : LIFE_DEAD;
  case LIFE_KERNEL_LIVES:
    *ret_wait_ms = LIFE_GRACE_MS;
    return l->hung_up && !l->unheard ? LIFE_WAIT : LIFE_NOTHING;
  default:
    return decide_mute(l);
  }
}
