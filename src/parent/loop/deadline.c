#include "parent/loop/deadline.h"

static void set_timer(struct deadlines *all, uint64_t at_ms) {
  all->timer_at_ms = at_ms;
  all->backend->ops->timer(all->backend, at_ms);
}

void deadlines_init(struct deadlines *all, struct backend *backend) {
  all->backend = backend;
  minheap_init(&all->heap);
  deadlines_restart(all);
}

void deadlines_restart(struct deadlines *all) {
  all->timer_at_ms = UINT64_MAX;
  all->after_ms = 0;
}

void deadline_init(struct deadline *d, void (*on_due)(struct deadline *d)) {
  minheap_node_init(&d->node);
  d->on_due = on_due;
}

void deadline_set_at(struct deadlines *all, struct deadline *d, uint64_t at_ms) {
  if (all->after_ms && at_ms <= all->after_ms)
    at_ms = all->after_ms + 1;
  minheap_set(&all->heap, &d->node, at_ms);
  if (at_ms < all->timer_at_ms)
    set_timer(all, at_ms);
}

void deadline_set(struct deadlines *all, struct deadline *d, uint64_t in_ms) {
  deadline_set_at(all, d, all->backend->ops->now_ms(all->backend) + in_ms);
}

void deadline_clear(struct deadline *d) {
  minheap_remove(&d->node); /* the timer may fire for nothing: cheaper than to set it */
}

int deadlines_run(struct deadlines *all, unsigned *left) {
  uint64_t now = all->backend->ops->now_ms(all->backend);
  struct minheap_node *first;
  all->timer_at_ms = UINT64_MAX;
  all->after_ms = now;
  while ((first = minheap_first(&all->heap)) && first->key <= now && *left > 0) {
    struct deadline *d = minheap_entry(first, struct deadline, node);
    minheap_remove(first);
    --*left;
    d->on_due(d);
  }
  all->after_ms = 0;
  first = minheap_first(&all->heap);
  if (first && first->key > now && first->key < all->timer_at_ms)
    set_timer(all, first->key);
  return first && first->key <= now;
}

void deadlines_rest(struct deadlines *all) {
  if (all->timer_at_ms != UINT64_MAX && !minheap_first(&all->heap))
    set_timer(all, UINT64_MAX);
}
