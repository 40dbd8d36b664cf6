/* The end of what every unit of a mux has: it, its turns and their loop. */
#ifndef MUX_KIT_H
#define MUX_KIT_H

#include "remote/mux.h"
#include "unit.h"

static inline void mux_kit_close(uv_handle_t *h, void *arg) {
  if (!uv_is_closing(h))
    uv_close(h, NULL);
}

/* Nothing is left in the loop, or the unit fails. */
static inline void mux_kit_end(struct mux *m, struct turn *turns, uv_loop_t *loop) {
  mux_shut(m);
  turn_deinit(turns);
  uv_walk(loop, mux_kit_close, NULL);
  uv_run(loop, UV_RUN_DEFAULT);
  assert_int_equal(uv_loop_close(loop), 0);
  mux_deinit(m);
}

#endif
