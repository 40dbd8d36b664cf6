/* A node's side of stored jobs: takes jobs out of a work queue, gives them to the node's
 * pool, stores their results. Runs in the parent, on the loop's thread; job_work.h is the
 * way of one job. doc/nats-protocol.md says what is said.
 *
 *   job_worker_new -> job_worker_turn at each change of the engine
 *                  -> job_worker_drain -> job_worker_close -> callback
 *
 * It pulls as many jobs as the pool has use for, so that few wait here while another node
 * is idle. Whatever goes wrong with the engine is tried again until the end. */
#ifndef NATS_JOB_WORKER_H
#define NATS_JOB_WORKER_H

#include "nats/engine.h"
#include "nats/node_pool.h"
#include <stdio.h>
#include <uv.h>

struct job_worker;

struct job_worker_options {
  const char *subject, *stream; /* copied */
  uint64_t keep_s;              /* results are kept so long */
  /* How many calls more the node wants to hold, and where its data is. */
  size_t (*room)(void *data);
  void *data;
};

struct job_worker_stats {
  size_t held;                 /* jobs here that are not over */
  uint64_t delivered;          /* jobs that came, each time */
  uint64_t redelivered;        /* of them, not for the first time */
  uint64_t done, failed, dead; /* tries with a result and without; jobs given up */
  uint64_t returned;           /* given back without a try */
};

/* -EINVAL: the name of the stream; -ENOMEM. Borrows the engine; the
 * functions of the pool are copied. */
int job_worker_new(uv_loop_t *loop, struct engine *e, const struct node_pool *pool,
                   const struct job_worker_options *o, struct job_worker **ret);
/* The engine has another state than before, or the node has more room. */
void job_worker_turn(struct job_worker *w);
/* Takes no more; done comes once, from the loop, when nothing is held any more. */
void job_worker_drain(struct job_worker *w, void (*done)(void *data), void *data);
/* What is held is left to its lease. The pool may still be at it: its answers are
 * dropped. w is gone when closed was called. */
void job_worker_close(struct job_worker *w, void (*closed)(void *data), void *data);

size_t job_worker_held(const struct job_worker *w);
/* Why it takes no jobs, for a person; "" while it does. */
const char *job_worker_reason(const struct job_worker *w);
void job_worker_get_stats(const struct job_worker *w, struct job_worker_stats *s);
/* A line for each job that is here, for a person. */
void job_worker_dump(const struct job_worker *w, FILE *out);

#endif
