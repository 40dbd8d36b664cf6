/* The record of a job_worker, for job_pull.c (streams, pulls, time) and job_work.c (the
 * way of one job). */
#ifndef NATS_JOB_WORKER_PRIVATE_H
#define NATS_JOB_WORKER_PRIVATE_H

#include "base/list.h"
#include "nats/job_stream.h"
#include "nats/job_worker.h"

enum {
  LANES_MAX = 64, /* consumers that a node pulls from */
  PULLS_MAX = 8,  /* requests of a lane that are under way */
  LATER_BATCH = 64,
  PULL_MS = 1000,      /* how long the server keeps a request that it can't satisfy */
  PULL_LOST_MS = 3000, /* since when nothing can come of it any more */
  LIST_MS = 10000,     /* between looks for consumers that nobody told of */
  RETRY_MS = 500,      /* between tries of what the server refuses */
  PAUSE_MIN_MS = 200,
  PAUSE_MAX_MS = 5000, /* without pulls, when the pool refuses */
  TICK_MS = 1000
};

struct lane_pull {
  unsigned serial, left; /* left 0: none */
  uint64_t lost_at;
};

/* A consumer of the stream. */
struct lane {
  unsigned lease_ms; /* 0: the one of jobs that wait for their time */
  struct lane_pull pulls[PULLS_MAX];
};

struct job_worker {
  uv_loop_t *loop;
  struct engine *engine;
  struct node_pool pool;
  struct job_worker_options o;
  struct job_stream_names names; /* o's strings */
  char inbox[64];

  int is_up;      /* what follows was done since the engine was UP last */
  uint64_t up_ms; /* when that was, since 1970 */
  int is_ready;   /* streams and the first consumers are there */
  struct job_setup *setup;
  struct job_api_call *call; /* one of leases, after the setup */
  uint64_t retry_at, list_at;
  char reason[300];        /* why no jobs come; "" */
  char result_reason[300]; /* what it does not take of jobs here; "" */
  struct engine_sub *deliveries, *asks, *leases;

  struct lane lanes[LANES_MAX];
  unsigned nlanes, busy_lane, serial;
  uint64_t paused_until;
  unsigned pause_ms;

  struct list jobs;
  struct job_worker_stats stats;

  uv_timer_t timer;
  int is_draining, is_closing;
  void (*drained)(void *data);
  void *drained_data;
  void (*closed)(void *data);
  void *closed_data;
};

/* Pulls more, when there is room; tells of an end of draining. In the next turn. */
void worker_wake(struct job_worker *w);
/* The pool refused a job: no pulls for a while, longer each time until worker_resume. */
void worker_pause(struct job_worker *w);
void worker_resume(struct job_worker *w);

/* Milliseconds since 1970. */
uint64_t worker_clock_ms(void);

/* ---- job_work.c ---- */
/* A delivery of a lane: takes it up. */
void work_begin(struct job_worker *w, const struct engine_message *m);
/* Renews what is due, and tries again what the engine did not take. Gives the
 * milliseconds until that is due once more, TICK_MS at most. */
uint64_t work_tick(struct job_worker *w, uint64_t now_ms);
/* Somebody cancels the job of that word. '1': this node has it, and will not try it again;
 * '2': nobody has it yet, this node stores it once more; '0': not this node. */
char work_cancel(struct job_worker *w, const char *word);
/* Lets go of all jobs. */
void work_abandon(struct job_worker *w);

#endif
