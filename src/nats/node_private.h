/* The record of a node, for its own files: node_calls.c (calls and answers), node_life.c
 * (beginning, beats, draining, what it says). Runs in the parent. */
#ifndef NATS_NODE_PRIVATE_H
#define NATS_NODE_PRIVATE_H

#include "base/list.h"
#include "nats/envelope.h"
#include "nats/job_worker.h"
#include "nats/listed.h"
#include "nats/node.h"

enum { ANSWERS_BYTES = 48 * 1024, MEANWHILE_MS = 20, NEWS_MS = 300, WINDOW_MORE = 16 };

/* Callers with calls here, or with answers that are not published. */
struct node_caller {
  struct list link;
  unsigned calls;
  struct buf out;
  char id[NODE_ID + 1];
};

struct node_chunk;

struct node_call {
  struct list link;
  mf_node *node; /* NULL: it has ended; nobody gets the answer */
  struct node_caller *caller;
  struct node_chunk *chunk; /* NULL: it is a call */
  uint64_t id, pool_id;     /* the caller's number; the pool's */
};

/* Draining: WANTED until a beat has told it, TOLD until the server sends no more calls,
 * QUIET until what is here is answered, LAST until the server has the answers, OVER. */
enum node_phase { NODE_OPEN, NODE_WANTED, NODE_TOLD, NODE_QUIET, NODE_LAST, NODE_OVER };

struct mf_node {
  uv_loop_t *loop;
  struct node_pool pool;
  struct engine *engine;
  struct engine_sub *calls_sub;
  uv_timer_t beat, limit; /* limit: of a drain */
  unsigned handles;
  char subject[SUBJECT_MAX + 1], name[NODE_NAME + 1];
  unsigned beat_ms, window_given, load, window;
  unsigned held;
  struct job_worker *jobs; /* NULL: it has none */
  int jobs_over;           /* none is here, and none comes any more */
  struct list calls, callers;
  struct list chunks; /* records that are used again */
  unsigned nchunks;
  int no_chunks;    /* this system has no records */
  int refused_some; /* since the last beat */
  int asked;        /* somebody asked since the last beat; the next one comes soon */
  uint64_t beat_at; /* the last, of uv_hrtime in ms */
  enum node_phase phase;
  uint64_t quit_at; /* ms: from then on the server need not send more */
  struct engine_fence fence;
  int late, aborted, closing;
  mf_node_cb on_drained;
  void *drained_data;
  mf_node_close_cb on_closed;
  void *closed_data;
  mf_node_info info; /* its counters */
  struct nats_listed listed;
};

enum { NODE_LONG_TEXT = 200 };
#define NODE_HANDLES_TEXT "the result has handles, which can't leave the machine"

/* node_calls.c */
int node_listen(mf_node *node);
void node_forget_calls(mf_node *node); /* their answers go nowhere */
/* Room for one more answer of so many bytes in the message that is filled. 0 or -errno.
 */
int node_make_room(mf_node *node, struct node_caller *caller, size_t more);
/* Why a result of so many bytes can't travel. */
void node_describe_long(const mf_node *node, size_t length, char text[NODE_LONG_TEXT]);

/* node_chunks.c */
/* A record for the chunk that r is. 0; MF_EINVAL: it is none; -ENOBUFS: no memory or
 * descriptor for it. */
int node_chunk_new(mf_node *node, const struct envelope_record *r,
                   struct node_chunk **ret);
int *node_chunk_fd(struct node_chunk *chunk);
void node_chunk_stop(const struct node_chunk *chunk); /* no further item is begun */
/* is_idle: no worker writes into it any more. node NULL: it has ended. */
void node_chunk_free(mf_node *node, struct node_chunk *chunk, int is_idle);
void node_forget_chunks(mf_node *node); /* the spare records */
/* Writes the answers of a reply, or what the record has and the error, for the caller. 0,
 * or -1: it is told nothing. */
int node_chunk_answer(mf_node *node, struct node_caller *caller, uint64_t id,
                      const struct node_chunk *chunk, const mf_message *m);
int node_chunk_fail(mf_node *node, struct node_caller *caller, uint64_t id,
                    const struct node_chunk *chunk, const struct envelope_record *error);

/* node_life.c */
unsigned node_held(const mf_node *node); /* calls and jobs */
void node_say(mf_node *node);            /* a beat, now */
/* The next beat by itself comes after so long, or a beat where that is shorter. */
void node_beat_in(mf_node *node, unsigned ms);
void node_step(mf_node *node); /* the next phase, if it is time for that */

#endif
