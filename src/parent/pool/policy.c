#include "parent/pool/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int policy_init(struct policy *p, const struct policy_config *c, uint64_t random_seed) {
  if (!c->load || c->idle > c->max || c->restart_burst > POLICY_BURST_MAX ||
      c->backoff_min_ms > c->backoff_max_ms)
    return -EINVAL;
  memset(p, 0, sizeof *p);
  p->config = *c;
  p->random = random_seed | 1;
  minheap_init(&p->available);
  p->early = calloc(c->restart_burst + 1, sizeof *p->early);
  return p->early ? 0 : -ENOMEM;
}

void policy_deinit(struct policy *p) {
  for (unsigned i = 0; i < p->nslots; i++)
    free(p->slots[i]);
  free(p->slots);
  free(p->early);
  memset(p, 0, sizeof *p);
}

unsigned policy_workers(const struct policy *p) {
  return p->nstarting + p->nready;
}

size_t policy_room_ahead(const struct policy *p) {
  unsigned next = !p->failed && policy_workers(p) < p->config.max;
  return ((size_t)p->nstarting + next) * p->config.load;
}

static unsigned kept(const struct policy *p) {
  if (p->ending)
    return 0;
  return p->config.idle < p->config.max ? p->config.idle : p->config.max;
}

/* ---- slots ---- */

static uint32_t next_random(struct policy *p) {
  p->random ^= p->random << 13;
  p->random ^= p->random >> 7;
  p->random ^= p->random << 17;
  return (uint32_t)(p->random >> 32);
}

/* Up to a quarter below max_calls, so that workers that began together don't end
 * together. */
static unsigned draw_limit(struct policy *p) {
  unsigned max = p->config.max_calls;
  return max ? max - next_random(p) % (max / 4 + 1) : 0;
}

/* Puts it where its load and state say. */
static void place(struct policy *p, unsigned slot) {
  struct policy_slot *s = p->slots[slot];
  if (s->state != SLOT_READY || s->load >= p->config.load ||
      (s->limit && s->given >= s->limit))
    minheap_remove(&s->by_load);
  else
    minheap_set(&p->available, &s->by_load, (uint64_t)s->load << 32 | slot);
}

static int room_for_slot(struct policy *p) {
  struct policy_slot **slots, *s;
  unsigned i;
  for (i = 0; i < p->nslots; i++)
    if (p->slots[i]->state == SLOT_FREE)
      return (int)i;
  slots = realloc(p->slots, (i + 1) * sizeof(struct policy_slot *));
  if (!slots)
    return -ENOMEM;
  p->slots = slots;
  s = calloc(1, sizeof *s);
  if (!s)
    return -ENOMEM;
  minheap_node_init(&s->by_load);
  p->slots[p->nslots++] = s;
  return (int)i;
}

static void set_state(struct policy *p, unsigned slot, enum policy_slot_state state) {
  struct policy_slot *s = p->slots[slot];
  unsigned *counts[] = {[SLOT_STARTING] = &p->nstarting,
                        [SLOT_READY] = &p->nready,
                        [SLOT_LEAVING] = &p->nleaving};
  if (s->state == SLOT_READY && !s->load)
    p->nidle--;
  if (s->state != SLOT_FREE)
    --*counts[s->state];
  s->state = state;
  if (state != SLOT_FREE)
    ++*counts[state];
  if (state == SLOT_READY && !s->load)
    p->nidle++;
  place(p, slot);
}

int policy_started(struct policy *p, uint64_t now_ms) {
  int slot = room_for_slot(p);
  struct policy_slot *s;
  if (slot < 0)
    return slot;
  s = p->slots[slot];
  s->load = s->given = s->answered = 0;
  s->limit = draw_limit(p);
  set_state(p, (unsigned)slot, SLOT_STARTING);
  if (p->replacements_due)
    p->replacements_due--;
  else
    p->next_start_ms = now_ms + p->config.start_ms;
  return slot;
}

void policy_ready(struct policy *p, unsigned slot) {
  if (p->slots[slot]->state == SLOT_STARTING)
    set_state(p, slot, SLOT_READY);
}

void policy_leave(struct policy *p, unsigned slot) {
  enum policy_slot_state s = p->slots[slot]->state;
  if (s == SLOT_STARTING || s == SLOT_READY)
    set_state(p, slot, SLOT_LEAVING);
}

void policy_replace(struct policy *p, unsigned slot) {
  enum policy_slot_state s = p->slots[slot]->state;
  if (s != SLOT_STARTING && s != SLOT_READY)
    return;
  p->replacements_due++;
  policy_leave(p, slot);
}

/* ---- deaths ---- */

/* More than burst deaths within the period: the ring has room for burst + 1. */
static int is_too_much(struct policy *p, uint64_t now_ms) {
  unsigned size = p->config.restart_burst + 1;
  p->early[p->early_at] = now_ms;
  p->early_at = (p->early_at + 1) % size;
  if (p->nearly < size)
    p->nearly++;
  return p->nearly == size &&
         now_ms - p->early[p->early_at] <= p->config.restart_period_ms;
}

/* The first is replaced after min. Never at once: starting may fail without a wait. */
static uint64_t backoff_ms(const struct policy *p) {
  uint64_t ms = p->config.backoff_min_ms, max = p->config.backoff_max_ms;
  for (unsigned n = p->deaths_in_a_row; n > 1 && ms < max; n--)
    ms *= 2;
  ms = ms < max ? ms : max;
  return ms ? ms : 1;
}

void policy_death(struct policy *p, int early, uint64_t now_ms) {
  if (p->deaths_in_a_row < 64) /* it has doubled enough by then */
    p->deaths_in_a_row++;
  p->last_death_ms = now_ms;
  p->not_before_ms = now_ms + backoff_ms(p);
  if (early && is_too_much(p, now_ms))
    p->failed = 1;
}

/* Some worker works: what has died without an answer was no sign of trouble for all. Who
 * waits to be replaced waits as the first would. */
static void end_backoff(struct policy *p) {
  uint64_t first = p->last_death_ms + p->config.backoff_min_ms;
  if (!p->deaths_in_a_row)
    return;
  p->deaths_in_a_row = 0;
  if (p->not_before_ms > first)
    p->not_before_ms = first;
}

void policy_ended(struct policy *p, unsigned slot, enum policy_end how, uint64_t now_ms) {
  struct policy_slot *s = p->slots[slot];
  int counted = s->state == SLOT_STARTING || s->state == SLOT_READY;
  int answered = s->answered != 0;
  set_state(p, slot, SLOT_FREE);
  if (counted)
    p->replacements_due++;
  if (how == END_NOT_STARTED || (how == END_DIED && !answered))
    policy_death(p, how == END_DIED, now_ms);
}

void policy_fail(struct policy *p) {
  p->failed = 1;
}

void policy_renew(struct policy *p) {
  p->failed = 0;
  p->nearly = 0;
  p->deaths_in_a_row = 0;
  p->not_before_ms = 0;
}

void policy_end(struct policy *p) {
  p->ending = 1;
}

/* ---- calls ---- */

int policy_pick(const struct policy *p) {
  const struct minheap_node *first = minheap_first(&p->available);
  return first ? (int)(first->key & 0xffffffff) : -1;
}

void policy_give(struct policy *p, unsigned slot) {
  struct policy_slot *s = p->slots[slot];
  if (!s->load++ && s->state == SLOT_READY)
    p->nidle--;
  s->given++;
  place(p, slot);
}

int policy_take_back(struct policy *p, unsigned slot, int answered) {
  struct policy_slot *s = p->slots[slot];
  if (answered) {
    s->answered++;
    end_backoff(p);
  }
  if (!--s->load && s->state == SLOT_READY)
    p->nidle++;
  place(p, slot);
  return s->state == SLOT_READY && s->limit && s->given >= s->limit;
}

void policy_resize(struct policy *p, unsigned max) {
  p->config.max = max;
}

/* ---- what to do ---- */

static struct policy_action wait_until(uint64_t wake_ms) {
  struct policy_action a = {POLICY_WAIT, 0, wake_ms};
  return a;
}

/* The best to stop: an idle one, else one that starts, else the least loaded; the
 * youngest of equals. -1: nobody. */
static int pick_victim(const struct policy *p, int idle_only) {
  unsigned best = 0xffffffff, i;
  int victim = -1;
  for (i = 0; i < p->nslots; i++) {
    const struct policy_slot *s = p->slots[i];
    unsigned cost = s->state == SLOT_STARTING ? 1 : s->load * 2;
    if (s->state != SLOT_STARTING && s->state != SLOT_READY)
      continue;
    if (idle_only && cost > (p->ending ? 1 : 0))
      continue;
    if (cost <= best) {
      best = cost;
      victim = (int)i;
    }
  }
  return victim;
}

static struct policy_action stop(int slot) {
  struct policy_action a = {POLICY_STOP, (unsigned)slot, 0};
  return a;
}

/* Idle workers above what is kept go one at a time; *wake is when the next may. */
static int overdue(struct policy *p, uint64_t now_ms, size_t nqueued, uint64_t *wake) {
  if (p->ending && !nqueued)
    return p->nidle + p->nstarting > 0;
  if (nqueued || p->nidle <= kept(p)) {
    p->stop_at_ms = 0;
    return 0;
  }
  if (!p->stop_at_ms)
    p->stop_at_ms = now_ms + p->config.stop_ms;
  if (now_ms >= p->stop_at_ms) {
    p->stop_at_ms = 0;
    return 1;
  }
  *wake = p->stop_at_ms;
  return 0;
}

/* When another worker may start: UINT64_MAX: none is wanted. */
static uint64_t start_at(struct policy *p, size_t nqueued) {
  unsigned n = policy_workers(p);
  uint64_t at = p->not_before_ms;
  int lacks = n < kept(p);
  int wanted = lacks || (nqueued && policy_pick(p) < 0);
  if (!lacks && !nqueued)
    p->replacements_due = 0; /* nobody waits for a replacement: growth will do */
  if (p->failed || !wanted || n >= p->config.max)
    return UINT64_MAX;
  /* One that starts may be all that the waiting calls need: the pace of growth decides.
   */
  if (!lacks && n && !p->replacements_due && p->next_start_ms > at)
    at = p->next_start_ms;
  return at;
}

struct policy_action policy_next(struct policy *p, uint64_t now_ms, size_t nqueued) {
  uint64_t wake = UINT64_MAX, at;
  struct policy_action start = {POLICY_START, 0, 0};
  if (policy_workers(p) > p->config.max)
    return stop(pick_victim(p, 0));
  if (overdue(p, now_ms, nqueued, &wake))
    return stop(pick_victim(p, 1));
  at = start_at(p, nqueued);
  if (at <= now_ms)
    return start;
  return wait_until(at < wake ? at : wake);
}
