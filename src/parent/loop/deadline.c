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
}

void deadline_init(struct deadline *d, void (*on_due)(struct deadline *d)) {
  minheap_node_init(&d->node);
  d->on_due = on_due;
}

void deadline_set_at(struct deadlines *all, struct deadline *d, uint64_t at_ms) {
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

void deadlines_run(struct deadlines *all) {
  uint64_t now = all->backend->ops->now_ms(all->backend);
  struct minheap_node *first;
  struct minheap due;
  minheap_init(&due);
  all->timer_at_ms = UINT64_MAX;
  while ((first = minheap_first(&all->heap)) && first->key <= now)
    minheap_set(&due, first, first->key);
  if (first)
    set_timer(all, first->key);
  while ((first = minheap_first(&due))) {
    struct deadline *d = minheap_entry(first, struct deadline, node);
    minheap_remove(first);
    d->on_due(d);
  }
}

void deadlines_rest(struct deadlines *all) {
  if (all->timer_at_ms != UINT64_MAX && !minheap_first(&all->heap))
    set_timer(all, UINT64_MAX);
}
