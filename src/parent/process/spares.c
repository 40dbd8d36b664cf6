/* Clones forked ahead: while a template has nothing else to do it is asked for a few,
 * which wait in their command loops until a fork takes one. A spare is a record like any
 * other, but the library's (internal) until it is taken. Runs in the parent.
 *
 * They are exact copies of the template as it is, so every later command to the template
 * makes them stale; a fork with options of its own that act at birth is not served by
 * them. */
#include "parent/process/process.h"

enum { REFILL_DELAY_MS = 1 };   /* out of the way of what was just taken */
enum { RETRY_DELAY_MS = 1000 }; /* after a fork that failed */

static void let_go(struct mf_process *q) {
  list_remove(&q->spare_link);
  q->internal = 0;
  process_event(q, &(struct event){EV_CLOSE});
}

void spares_drop(struct mf_process *p) {
  deadline_clear(&p->refill);
  p->refilling = 0;
  p->nspares = 0;
  while (!list_empty(&p->spares))
    let_go(list_entry(p->spares.next, struct mf_process, spare_link));
}

void spares_lose(struct mf_process *p) {
  struct mf_process *template = p->source;
  if (list_empty(&p->spare_link) || !template)
    return;
  list_remove(&p->spare_link);
  template->nspares--;
  if (template->state == SERVING)
    deadline_set(&template->context->deadlines, &template->refill, RETRY_DELAY_MS);
}

/* The youngest that is there: what it touches is in the processor's caches still. One
 * that has hung up is as good as dead, though nobody has told its end yet. */
static struct mf_process *find_fit(const struct mf_process *p) {
  struct mf_process *found = NULL;
  list_each(it, &p->spares) {
    struct mf_process *q = list_entry(it, struct mf_process, spare_link);
    if (!q->eof && !q->gone && (q->forked || !found))
      found = q;
  }
  return found;
}

/* Whoever takes one wants its first word soon, and a birth would be in the way: each
 * that is taken puts refilling off, unless few are left. */
static void put_off_refill(struct mf_process *p) {
  int wants = p->refilling || p->nspares < p->spares_min;
  int is_set = deadline_at(&p->refill) != UINT64_MAX;
  int few = p->nspares < p->spares_min / 2;
  if (wants && !(few && (is_set || p->refilling)))
    deadline_set(&p->context->deadlines, &p->refill, REFILL_DELAY_MS);
}

struct mf_process *spares_take(struct mf_process *p, const mf_options *o) {
  struct mf_process *q;
  if (list_empty(&p->spares) || p->batched_child ||
      options_act_at_birth(o)) /* which is over */
    return NULL;
  q = find_fit(p);
  if (!q)
    return NULL;
  list_remove(&q->spare_link);
  p->nspares--;
  q->internal = 0;
  q->open = 1;
  q->context->nopen++;
  /* What it is given until run goes in one message, as with a batched fork. */
  q->chan.corked = 1;
  context_task(q->context, PHASE_WRITE, &q->write);
  deadline_clear(&p->limit);
  put_off_refill(p);
  process_update(q);
  return q;
}

static int fork_one(struct mf_process *p) {
  struct mf_process *q = process_new(p->context, BATCHED);
  if (!q)
    return MF_ENOMEM;
  q->open = 0;
  q->internal = 1;
  q->tree = p->tree;
  p->context->nopen--;
  if (batch_new(p->context, NULL, &q->batch) < 0 ||
      process_event(p, &(struct event){EV_FORK, .fork = q}) < 0) {
    q->internal = 0;
    process_end_unstarted(q);
    return MF_ENOMEM;
  }
  list_push(&p->spares, &q->spare_link);
  p->nspares++;
  process_flush(q);
  process_update(q);
  return q->state == DEAD ? MF_EFORK_FAILED : 0;
}

/* One at a time, each when the last is there: a row of births would keep what was taken
 * from its processor. */
static void refill_step(struct mf_process *p) {
  uint64_t limit_at = deadline_at(&p->limit);
  if (p->state != SERVING || p->nspares >= p->spares_max || p->context->stopping) {
    p->refilling = 0;
  } else if (fork_one(p) < 0) {
    p->refilling = 0;
    if (p->state == SERVING) /* nobody else may ask it for anything that reminds of it */
      deadline_set(&p->context->deadlines, &p->refill, RETRY_DELAY_MS);
  }
  /* A fork disarms the template's own timeout; these are not the user's. */
  if (limit_at != UINT64_MAX && p->state == SERVING)
    deadline_set_at(&p->context->deadlines, &p->limit, limit_at);
}

void spares_want(struct mf_process *p) {
  if (!p->spares_max || p->state != SERVING || p->refilling || p->ndone < p->nsent ||
      deadline_at(&p->refill) != UINT64_MAX)
    return;
  if (p->nspares < p->spares_min || (p->nspares == 0 && !p->spares_begun))
    deadline_set(&p->context->deadlines, &p->refill, REFILL_DELAY_MS);
}

void spares_go_on(struct mf_process *p) {
  if (p->refilling && p->state == SERVING && p->ndone == p->nsent &&
      deadline_at(&p->refill) == UINT64_MAX)
    refill_step(p);
}

void spares_on_refill(struct deadline *d) {
  struct mf_process *p = list_entry(d, struct mf_process, refill);
  p->spares_begun = 1;
  p->refilling = 1;
  refill_step(p);
}

/* Those that are there: one that was asked for a moment ago is taken, too, but its birth
 * would be waited for. */
int mf_spares(const mf_process *p) {
  int n = 0;
  if (!p)
    return MF_EINVAL;
  list_each(it, &p->spares) {
    n += list_entry(it, struct mf_process, spare_link)->forked;
  }
  return n;
}
