/* The record of a node, for its own files: node_calls.c (calls and answers), node_life.c
 * (beginning, beats, draining, what it says). Runs in the parent. */
#ifndef NATS_NODE_PRIVATE_H
#define NATS_NODE_PRIVATE_H

#include "base/list.h"
#include "nats/envelope.h"
#include "nats/job_worker.h"
#include "nats/listed.h"
#include "nats/node.h"

enum { ANSWERS_BYTES = 48 * 1024, MEANWHILE_MS = 20, WINDOW_MORE = 16 };

/* Callers with calls here, or with answers that are not published. */
struct node_caller {
  struct list link;
  unsigned calls;
  struct buf out;
  char id[NODE_ID + 1];
};

struct node_call {
  struct list link;
  mf_node *node; /* NULL: it has ended; nobody gets the answer */
  struct node_caller *caller;
  uint64_t id, pool_id; /* the caller's number; the pool's */
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
  int refused_some; /* since the last beat */
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

/* node_calls.c */
int node_listen(mf_node *node);
void node_forget_calls(mf_node *node); /* their answers go nowhere */

/* node_life.c */
unsigned node_held(const mf_node *node); /* calls and jobs */
void node_say(mf_node *node);            /* a beat, now */
void node_step(mf_node *node);           /* the next phase, if it is time for that */

#endif
