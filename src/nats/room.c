/* Room bookkeeping (room.h). Pure. */
#include "nats/room.h"

#include <stdlib.h>
#include <string.h>

void room_init(struct room *r) {
  list_init(&r->nodes);
  r->n = 0;
}

struct room_node *room_find(const struct room *r, const char *id) {
  list_each(it, &r->nodes) {
    struct room_node *n = list_entry(it, struct room_node, link);
    if (strcmp(n->beat.node, id) == 0)
      return n;
  }
  return NULL;
}

/* What it holds and is not ours is of other callers. */
static unsigned others(const struct room_node *n) {
  return n->beat.held > n->out ? n->beat.held - n->out : 0;
}

struct room_node *room_beat(struct room *r, const struct node_beat *beat, uint64_t now_ms,
                            int *ret_new) {
  struct room_node *n = room_find(r, beat->node);
  *ret_new = !n;
  if (!n) {
    n = r->n < ROOM_NODES ? calloc(1, sizeof *n) : NULL;
    if (!n)
      return NULL;
    list_push(&r->nodes, &n->link);
    r->n++;
  }
  n->beat = *beat;
  unsigned taken = others(n);
  n->most = beat->draining || beat->window <= taken ? 0 : beat->window - taken;
  room_alive(n, now_ms);
  return n;
}

static int has_room(const struct room_node *n) {
  return n->out < n->most;
}

/* Whether a has a smaller part of its workers busy than b. */
static int is_better(const struct room_node *a, const struct room_node *b) {
  uint64_t workers_a = a->beat.workers ? a->beat.workers : 1;
  uint64_t workers_b = b->beat.workers ? b->beat.workers : 1;
  uint64_t busy_a = (uint64_t)others(a) + a->out, busy_b = (uint64_t)others(b) + b->out;
  return busy_a * workers_b < busy_b * workers_a;
}

struct room_node *room_pick(const struct room *r) {
  struct room_node *best = NULL, *failed = NULL;
  int healthy = 0;
  list_each(it, &r->nodes) {
    struct room_node *n = list_entry(it, struct room_node, link);
    healthy |= !n->beat.failed && !n->beat.draining;
    struct room_node **of = n->beat.failed ? &failed : &best;
    if (has_room(n) && (!*of || is_better(n, *of)))
      *of = n;
  }
  return best || healthy ? best : failed;
}

size_t room_places(const struct room *r) {
  size_t places = 0;
  list_each(it, &r->nodes) {
    const struct room_node *n = list_entry(it, struct room_node, link);
    places += has_room(n) ? n->most - n->out : 0;
  }
  return places;
}

unsigned room_chunk_places(const struct room_node *n) {
  uint64_t chunks = (uint64_t)n->beat.workers * n->beat.load;
  return chunks > 0 && chunks < n->beat.window ? (unsigned)(n->beat.window / chunks) : 1;
}

void room_sent(struct room_node *n, unsigned places) {
  n->out += places;
}

void room_back(struct room_node *n, unsigned places) {
  n->out -= places;
}

void room_full(struct room_node *n) {
  if (n->most > n->out)
    n->most = n->out;
}

void room_absent(struct room_node *n) {
  n->most = 0;
}

void room_alive(struct room_node *n, uint64_t now_ms) {
  n->ticks = 0;
  n->heard_ms = now_ms;
}

void room_tick(struct room *r) {
  list_each(it, &r->nodes) list_entry(it, struct room_node, link)->ticks++;
}

struct room_node *room_gone(const struct room *r) {
  list_each(it, &r->nodes) {
    struct room_node *n = list_entry(it, struct room_node, link);
    if (n->ticks > ROOM_TICKS)
      return n;
  }
  return NULL;
}

void room_remove(struct room *r, struct room_node *n) {
  list_remove(&n->link);
  r->n--;
  free(n);
}
