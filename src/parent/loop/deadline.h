/* Moments at which something is to be done: all of a loop in one heap, and one timer of
 * the backend for the first of them. A deadline is embedded in its owner, so setting one
 * can't fail. Runs in the parent, on the loop's thread. */
#ifndef PARENT_LOOP_DEADLINE_H
#define PARENT_LOOP_DEADLINE_H

#include "base/minheap.h"
#include "parent/loop/backend.h"

struct deadlines {
  struct backend *backend;
  struct minheap heap;
  uint64_t timer_at_ms; /* what the backend's timer is set to; UINT64_MAX: nothing */
  uint64_t after_ms; /* while deadlines_run works: what is set is due after that; or 0 */
};

struct deadline {
  struct minheap_node node; /* by time, in milliseconds */
  void (*on_due)(struct deadline *d);
};

void deadlines_init(struct deadlines *all, struct backend *backend);
/* The backend was started anew: its timer is not set. */
void deadlines_restart(struct deadlines *all);

void deadline_init(struct deadline *d, void (*on_due)(struct deadline *d));
void deadline_set(struct deadlines *all, struct deadline *d, uint64_t in_ms);
void deadline_set_at(struct deadlines *all, struct deadline *d, uint64_t at_ms);
void deadline_clear(struct deadline *d);
/* When it is due; UINT64_MAX: it is not set. */
static inline uint64_t deadline_at(const struct deadline *d) {
  return minheap_holds(&d->node) ? d->node.key : UINT64_MAX;
}

static inline int deadlines_any(const struct deadlines *all) {
  return minheap_first(&all->heap) != NULL;
}

/* The timer has fired: calls on_due of what is due, at most *left of it, which is
 * counted. What that sets anew is not due before the next time, also when it is due now.
 * 1: more is due, which is up to the caller. */
int deadlines_run(struct deadlines *all, unsigned *left);
/* The loop is about to wait: without an end is cheaper, where nothing is set any more. */
void deadlines_rest(struct deadlines *all);

#endif
