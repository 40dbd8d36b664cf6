/* Events that processes have for those forked from them: that their source has failed, or
 * executes nothing any more. Clones of clones can be nested as deeply as there are
 * descriptors, so these events happen one after the other and never inside each other:
 * that would take a stack as deep. Runs in the parent. */
#include "parent/process/internal.h"

static void handle(struct mf_process *p) {
  static const enum event_kind order[] = {EV_SOURCE_FAILED, EV_SOURCE_LOST};
  unsigned posts = p->posts;
  p->posts = 0;
  for (size_t i = 0; i < sizeof order / sizeof order[0]; i++)
    if (posts & (1u << order[i]))
      process_event(p, &(struct event){order[i]});
}

void process_post_to_forks(struct mf_process *p, enum event_kind kind) {
  struct registry *r = registry_of(p->context);
  list_each(it, &p->forks) {
    struct mf_process *q = list_entry(it, struct mf_process, fork_link);
    if (q->state == DEAD)
      continue;
    q->posts |= 1u << kind;
    if (list_empty(&q->post_link))
      list_push(&r->posts, &q->post_link);
  }
  if (r->in_posts)
    return;
  r->in_posts = 1;
  while (!list_empty(&r->posts)) {
    struct mf_process *q = list_entry(r->posts.next, struct mf_process, post_link);
    list_remove(&q->post_link);
    handle(q);
  }
  r->in_posts = 0;
}
