/* All nodes of a server, of every subject, by the beats that they send anyway: for
 * `moonfork top` and nats.watch, which call nobody. Runs in the parent, on the loop's
 * thread.
 *
 *   beats_new -> beats_each, beats_count -> beats_close -> callback
 *
 * A group is a subject that a beat was heard of. It stays when its nodes have gone: its
 * stored jobs may wait. */
#ifndef NATS_BEATS_H
#define NATS_BEATS_H

#include "nats/room.h"
#include <moonfork/nats.h>

enum {
  BEATS_WORDS = 32,    /* of a subject; those of more words are not seen */
  BEATS_GROUPS = 1024, /* more are not looked at: anybody may send beats */
  BEATS_NODES = 8192
};

struct engine;
struct beats;

/* Of the options: the connection's, and silent_ms. MF_EINVAL, -ENOMEM, or what libuv
 * says. */
int beats_new(struct uv_loop_s *loop, const mf_nats_options *o, struct beats **ret);
struct engine *beats_engine(const struct beats *w);
/* Beats that were none of ours, or beyond the limits. */
uint64_t beats_bad(const struct beats *w);

/* For each group: node NULL, then once for each of its nodes. */
typedef void beats_visit(const char *subject, const struct room_node *node, void *data);
void beats_each(const struct beats *w, beats_visit *visit, void *data);

/* How many stored jobs the subject has. 0, -EINVAL or -ENOMEM. */
int beats_count(struct beats *w, const char *subject, unsigned timeout_ms, mf_jobs_cb cb,
                void *data);

/* What is asked ends with MF_ECANCELLED; w is gone when done is called. */
void beats_close(struct beats *w, void (*done)(void *data), void *data);

#endif
