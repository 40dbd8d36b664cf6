#include "remote/beat.h"

#include <stdio.h>

static int is_silent(const struct beat *b) {
  return mux_now_ms(b->mux) - b->mux->heard_ms > b->period_ms * LINK_BEATS;
}

/* It may be this process that did not run: what lies in the stream counts, and time that
 * it has slept through does not. */
static void on_due(uv_timer_t *t) {
  struct beat *b = list_entry(t, struct beat, timer);
  struct mux *m = b->mux;
  char text[96];
  uint64_t now = mux_now_ms(m), late = now > b->due_ms ? now - b->due_ms : 0;
  if (m->over)
    return;
  b->due_ms = now + b->period_ms;
  if (late > b->period_ms) /* what it has heard since is not to come */
    m->heard_ms = now - m->heard_ms > late ? m->heard_ms + late : now;
  if (is_silent(b)) {
    mux_read(m);
    mux_arm(m);
  }
  if (m->over)
    return;
  if (is_silent(b)) {
    snprintf(text, sizeof text, "nothing was heard from the other end for %.3g s",
             (double)(now - m->heard_ms) / 1000);
    mux_break(m, text);
    return;
  }
  mux_make_room(m); /* who waits longer is told that there is none */
  if (mux_ping(m) < 0)
    mux_break(m, "not enough memory for what waits to be sent");
  if (b->on_beat && !m->over)
    b->on_beat(b);
}

void beat_start(struct beat *b, struct mux *m, uint32_t period_ms,
                void (*on_beat)(struct beat *b)) {
  b->mux = m;
  b->period_ms = period_ms;
  b->on_beat = on_beat;
  b->due_ms = mux_now_ms(m) + period_ms;
  m->heard_ms = mux_now_ms(m);
  uv_timer_init(m->turn->loop, &b->timer);
  uv_timer_start(&b->timer, on_due, period_ms, period_ms);
}
