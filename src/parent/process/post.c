/* Events that a process has for those forked from it: that their source has executed
 * their fork, has failed, or executes nothing any more. A template may have thousands of
 * clones, and clones of clones can be nested as deeply as there are descriptors. So these
 * events happen in a phase of the context's, one after the other and never inside each
 * other, and so many in a turn. Runs in the parent.
 *
 * Forks are told in rounds, and each post begins one. Who is told goes to the end of the
 * list, so the first of the list is the next one, until it has been told in this round:
 *
 *   forks -> not told -> not told -> told -> told
 */
#include "parent/process/internal.h"

static struct mf_process *next_to_tell(struct mf_process *p) {
  struct mf_process *q = list_entry(p->forks.next, struct mf_process, fork_link);
  return list_empty(&p->forks) || q->told_round == p->tell_round ? NULL : q;
}

/* The first event may be the last: then the second is none of its business. */
static void tell(const struct mf_process *p, struct mf_process *q) {
  if (p->has_failed_forks && !q->knows_failure && q->state != DEAD) {
    q->knows_failure = 1;
    process_event(q, &(struct event){EV_SOURCE_FAILED});
  }
  if (p->has_lost_forks && q->state != DEAD)
    process_event(q, &(struct event){EV_SOURCE_LOST});
}

void process_on_tell(struct task *t) {
  struct mf_process *p = list_entry(t, struct mf_process, tell), *q;
  process_confirm_forks(p);
  while ((q = next_to_tell(p))) {
    if (!context_step(p->context, PHASE_TELL)) {
      context_task(p->context, PHASE_TELL, t);
      return;
    }
    q->told_round = p->tell_round;
    list_remove(&q->fork_link);
    list_push(&p->forks, &q->fork_link);
    tell(p, q);
  }
}

void process_post_to_forks(struct mf_process *p, enum event_kind kind) {
  if (kind == EV_SOURCE_FAILED)
    p->has_failed_forks = 1;
  else
    p->has_lost_forks = 1;
  if (list_empty(&p->forks))
    return;
  p->tell_round++;
  context_task(p->context, PHASE_TELL, &p->tell);
}
