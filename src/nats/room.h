/* Which nodes there are, how much room each has, and who takes the next call. Pure. */
#ifndef NATS_ROOM_H
#define NATS_ROOM_H

#include "base/list.h"
#include "nats/envelope.h"

enum {
  ROOM_NODES = 1024, /* more are not looked at: anybody may send beats */
  ROOM_TICKS = 5     /* without a sign of life: it is gone */
};

struct room_node {
  struct list link;
  struct node_beat beat; /* its last */
  unsigned out;          /* places that calls of ours take there */
  unsigned most;         /* that it may have until its next beat */
  unsigned ticks;        /* since its last sign of life */
  uint64_t heard_ms;
  void *user; /* of who keeps the room */
};

struct room {
  struct list nodes;
  unsigned n;
};

void room_init(struct room *r);
/* A beat has come: its node, new or known; NULL: no memory, or too many. *ret_new: it is
 * new. */
struct room_node *room_beat(struct room *r, const struct node_beat *beat, uint64_t now_ms,
                            int *ret_new);
struct room_node *room_find(const struct room *r, const char *id);
/* The node with the smallest part of its workers busy among those with room; one whose
 * pool has failed only where no other is known. NULL: none has room. */
struct room_node *room_pick(const struct room *r);
size_t room_places(const struct room *r); /* calls that could be sent now */
/* Places that a chunk takes: so many that each worker has `load` of them, as of calls. */
unsigned room_chunk_places(const struct room_node *n);
void room_sent(struct room_node *n, unsigned places);
void room_back(struct room_node *n, unsigned places); /* a call of ours has left it */
void room_full(struct room_node *n);   /* it refused one: no more until its next beat */
void room_absent(struct room_node *n); /* nobody was there: the same */
void room_alive(struct room_node *n, uint64_t now_ms); /* a sign of life */
/* Time has passed: a fifth of what a node may be silent. */
void room_tick(struct room *r);
/* One that was silent for too long, or NULL. */
struct room_node *room_gone(const struct room *r);
void room_remove(struct room *r, struct room_node *n); /* frees it */

#endif
