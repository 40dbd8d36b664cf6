#include "parent/pool/policy.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

int policy_init(struct policy *p, const struct policy_config *c, uint64_t random_seed) {
  if (!c->load || c->idle > c->max || c->restarts.burst > POLICY_BURST_MAX ||
      c->restarts.backoff_min_ms > c->restarts.backoff_max_ms)
    return -EINVAL;
  memset(p, 0, sizeof *p);
  p->config = *c;
  p->random = random_seed | 1;
  minheap_init(&p->available);
  return 0;
}

void policy_deinit(struct policy *p) {
  for (unsigned i = 0; i < p->nslots; i++)
    free(p->slots[i]);
  free(p->slots);
  for (unsigned i = 0; i < p->nsources; i++)
    restarts_deinit(&p->sources[i].restarts);
  free(p->sources);
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

/* ---- sources ---- */

static void update_failed(struct policy *p) {
  unsigned nused = 0, nfailed = 0;
  for (unsigned i = 0; i < p->nsources; i++) {
    nused += (unsigned)p->sources[i].used;
    nfailed += p->sources[i].used && p->sources[i].restarts.failed;
  }
  p->failed = nused > 0 && nused == nfailed;
}

int policy_add_source(struct policy *p) {
  struct policy_source *s;
  unsigned i = 0;
  while (i < p->nsources && p->sources[i].used)
    i++;
  if (i == p->nsources) {
    s = realloc(p->sources, (i + 1) * sizeof *s);
    if (!s)
      return -ENOMEM;
    p->sources = s;
    memset(&s[i], 0, sizeof *s);
    p->nsources++;
  }
  s = &p->sources[i];
  if (restarts_init(&s->restarts, &p->config.restarts) < 0)
    return -ENOMEM;
  s->used = 1;
  s->nworkers = 0;
  s->last_start = 0;
  update_failed(p);
  return (int)i;
}

void policy_drop_source(struct policy *p, unsigned source) {
  for (unsigned i = 0; i < p->nslots; i++)
    if (p->slots[i]->source == (int)source)
      p->slots[i]->source = -1;
  restarts_deinit(&p->sources[source].restarts);
  p->sources[source].used = 0;
  update_failed(p);
}

void policy_fail_source(struct policy *p, unsigned source) {
  p->sources[source].restarts.failed = 1;
  update_failed(p);
}

void policy_renew_source(struct policy *p, unsigned source) {
  restarts_renew(&p->sources[source].restarts);
  update_failed(p);
}

int policy_source_has_failed(const struct policy *p, unsigned source) {
  return p->sources[source].restarts.failed;
}

/* Who may start a worker at that time: the one with the fewest. -1: none. */
static int pick_source(const struct policy *p, uint64_t now_ms) {
  const struct policy_source *best = NULL;
  for (unsigned i = 0; i < p->nsources; i++) {
    const struct policy_source *s = &p->sources[i];
    if (!s->used || s->restarts.failed || s->restarts.not_before_ms > now_ms)
      continue;
    if (!best || s->nworkers < best->nworkers ||
        (s->nworkers == best->nworkers && s->last_start < best->last_start))
      best = s;
  }
  return best ? (int)(best - p->sources) : -1;
}

/* When the first of them may. */
static uint64_t first_source_at(const struct policy *p) {
  uint64_t at = UINT64_MAX;
  for (unsigned i = 0; i < p->nsources; i++) {
    const struct policy_source *s = &p->sources[i];
    if (s->used && !s->restarts.failed && s->restarts.not_before_ms < at)
      at = s->restarts.not_before_ms;
  }
  return at;
}

int policy_pick_surplus(const struct policy *p, unsigned source) {
  unsigned most = p->sources[source].nworkers + 2, least = UINT_MAX;
  int slot = -1;
  for (unsigned i = 0; i < p->nsources; i++)
    if (p->sources[i].used && p->sources[i].nworkers > most)
      most = p->sources[i].nworkers;
  for (unsigned i = 0; i < p->nslots; i++) {
    const struct policy_slot *s = p->slots[i];
    if ((s->state != SLOT_STARTING && s->state != SLOT_READY) || s->source < 0 ||
        p->sources[s->source].nworkers < most || (unsigned)s->source == source ||
        s->load >= least)
      continue;
    least = s->load;
    slot = (int)i;
  }
  return slot;
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

static void count_in_source(struct policy *p, const struct policy_slot *s, int change) {
  if (s->source >= 0 && (s->state == SLOT_STARTING || s->state == SLOT_READY))
    p->sources[s->source].nworkers += (unsigned)change;
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
  count_in_source(p, s, -1);
  s->state = state;
  count_in_source(p, s, 1);
  if (state != SLOT_FREE)
    ++*counts[state];
  if (state == SLOT_READY && !s->load)
    p->nidle++;
  place(p, slot);
}

int policy_started(struct policy *p, unsigned source, uint64_t now_ms) {
  int slot = room_for_slot(p);
  struct policy_slot *s;
  if (slot < 0)
    return slot;
  s = p->slots[slot];
  s->load = s->given = s->answered = 0;
  s->limit = draw_limit(p);
  s->source = (int)source;
  p->sources[source].last_start = ++p->nstarts;
  set_state(p, (unsigned)slot, SLOT_STARTING);
  if (p->replacements_due)
    p->replacements_due--;
  else
    p->next_start_ms = now_ms + p->config.start_ms;
  return slot;
}

void policy_ready(struct policy *p, unsigned slot) {
  struct policy_slot *s = p->slots[slot];
  if (s->state != SLOT_STARTING)
    return;
  if (s->source >= 0)
    restarts_start_succeeded(&p->sources[s->source].restarts);
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

static void note_death(struct policy *p, unsigned source, int early, int was_start,
                       uint64_t now_ms) {
  struct restarts *r = &p->sources[source].restarts;
  restarts_death(r, early, now_ms);
  if (early && was_start && !p->nready)
    restarts_start_failed(r);
  update_failed(p);
}

void policy_death(struct policy *p, unsigned source, int early, uint64_t now_ms) {
  note_death(p, source, early, 1, now_ms);
}

void policy_ended(struct policy *p, unsigned slot, enum policy_end how, uint64_t now_ms) {
  struct policy_slot *s = p->slots[slot];
  int counted = s->state == SLOT_STARTING || s->state == SLOT_READY;
  int answered = s->answered != 0, was_starting = s->state == SLOT_STARTING;
  set_state(p, slot, SLOT_FREE);
  if (counted)
    p->replacements_due++;
  if (s->source >= 0 && (how == END_NOT_STARTED || (how == END_DIED && !answered)))
    note_death(p, (unsigned)s->source, how == END_DIED, was_starting, now_ms);
}

void policy_end(struct policy *p) {
  p->ending = 1;
}

/* ---- calls ---- */

int policy_pick(const struct policy *p) {
  const struct minheap_node *first = minheap_first(&p->available);
  if (!p->config.max) /* those that are there have not been told to leave yet */
    return -1;
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
    if (s->source >= 0)
      restarts_answer(&p->sources[s->source].restarts);
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
  struct policy_action a = {.act = POLICY_WAIT, .wake_ms = wake_ms};
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
  struct policy_action a = {.act = POLICY_STOP, .slot = (unsigned)slot};
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
  uint64_t at = first_source_at(p);
  int lacks = n < kept(p);
  int wanted = lacks || (nqueued && policy_pick(p) < 0);
  if (!lacks && !nqueued)
    p->replacements_due = 0; /* nobody waits for a replacement: growth will do */
  if (!wanted || n >= p->config.max || at == UINT64_MAX)
    return UINT64_MAX;
  /* One that starts may be all that the waiting calls need: the pace of growth decides.
   */
  if (!lacks && n && !p->replacements_due && p->next_start_ms > at)
    at = p->next_start_ms;
  return at;
}

struct policy_action policy_next(struct policy *p, uint64_t now_ms, size_t nqueued) {
  uint64_t wake = UINT64_MAX, at;
  struct policy_action start = {.act = POLICY_START};
  if (policy_workers(p) > p->config.max)
    return stop(pick_victim(p, 0));
  if (overdue(p, now_ms, nqueued, &wake))
    return stop(pick_victim(p, 1));
  at = start_at(p, nqueued);
  if (at <= now_ms) {
    start.source = (unsigned)pick_source(p, now_ms);
    return start;
  }
  return wait_until(at < wake ? at : wake);
}
