/* Signs of life: each end says something every beat, and ends when it has heard nothing
 * for three. Runs in the near end and the agent. */
#ifndef REMOTE_BEAT_H
#define REMOTE_BEAT_H

#include "remote/mux.h"

struct beat {
  struct mux *mux;
  uv_timer_t timer;
  uint64_t period_ms, due_ms;
  void (*on_beat)(struct beat *b); /* after each */
};

void beat_start(struct beat *b, struct mux *m, uint32_t period_ms,
                void (*on_beat)(struct beat *b));

#endif
