/* When a pool starts, stops and gives up workers, of which template the next one is, and
 * who gets the next call: plain numbers in, actions out. It knows no process, no clock
 * and no queue; times are milliseconds that the caller says. Pure. Runs in the parent.
 *
 *   policy_next -> do it, tell the outcome (policy_started, ...) -> policy_next ... until
 *   POLICY_WAIT; again after any other call, or at wake_ms
 *
 * A worker is a slot here:
 *
 *   STARTING -> READY -> LEAVING -> (free)
 *       \---------\---------\----> (free): policy_ended
 *
 * A template is a source here, where the next worker comes from: the usable one that has
 * the fewest, the one that was asked longest ago of several. A source whose workers die
 * too early waits, and fails in the end, by itself; the pool has failed when all sources
 * have.
 */
#ifndef PARENT_POOL_POLICY_H
#define PARENT_POOL_POLICY_H

#include "base/minheap.h"
#include "parent/pool/restarts.h"

struct policy_config {
  unsigned max, idle, load, start_ms, stop_ms, max_calls;
  struct restarts_config restarts;
};
enum { POLICY_BURST_MAX = 1000 };

enum policy_slot_state { SLOT_FREE, SLOT_STARTING, SLOT_READY, SLOT_LEAVING };

struct policy_slot {
  struct minheap_node by_load; /* in `available` while it may get a call */
  enum policy_slot_state state;
  int source;                            /* -1: it is dropped */
  unsigned load, given, answered, limit; /* limit: calls it may be given; 0: any number */
};

struct policy_source {
  int used;
  struct restarts restarts;
  unsigned nworkers;   /* starting or ready */
  uint64_t last_start; /* the number of that start among all */
};

struct policy {
  struct policy_config config;
  struct policy_source *sources;
  unsigned nsources;
  uint64_t nstarts;
  struct policy_slot **slots; /* each at its address for life */
  unsigned nslots;
  unsigned nstarting, nready, nleaving, nidle; /* idle: ready with no call */
  struct minheap available;                    /* the least loaded first */
  unsigned
      replacements_due; /* workers that are replaced at once, not at the pace of growth */
  uint64_t next_start_ms; /* growth */
  uint64_t stop_at_ms;    /* 0: nobody to stop */
  int failed, ending;     /* failed: no source is usable; ending: no workers but for calls
                             that wait */
  uint64_t random;
};

enum policy_act { POLICY_WAIT, POLICY_START, POLICY_STOP };
struct policy_action {
  enum policy_act act;
  unsigned slot;    /* STOP */
  unsigned source;  /* START */
  uint64_t wake_ms; /* WAIT: ask again then; UINT64_MAX: only after another call */
};

enum policy_end {
  END_ASKED,       /* it was told to end, or killed by us */
  END_NOT_STARTED, /* it could not be started, for no fault of its own: backoff only */
  END_DIED
};

/* 0, -EINVAL (load 0, idle above max, burst above POLICY_BURST_MAX, backoff_min_ms above
 * backoff_max_ms), -ENOMEM. */
int policy_init(struct policy *p, const struct policy_config *c, uint64_t random_seed);
void policy_deinit(struct policy *p);
/* One more source: its number, or -ENOMEM. A pool without any has not failed. */
int policy_add_source(struct policy *p);
/* No worker of it any more; how those that live end is nobody's concern. */
void policy_drop_source(struct policy *p, unsigned source);
/* No worker of it any more until it is dropped. */
void policy_fail_source(struct policy *p, unsigned source);
/* Its deaths are forgotten. */
void policy_renew_source(struct policy *p, unsigned source);
int policy_source_has_failed(const struct policy *p, unsigned source);
/* What to do next while so many calls wait. */
struct policy_action policy_next(struct policy *p, uint64_t now_ms, size_t nqueued);

/* A worker of that source is being started: its slot, or -ENOMEM. */
int policy_started(struct policy *p, unsigned source, uint64_t now_ms);
void policy_ready(struct policy *p, unsigned slot);
/* No more calls for it: retired, recycled, or stopped. */
void policy_leave(struct policy *p, unsigned slot);
/* As policy_leave, and one is to take its place at once. */
void policy_replace(struct policy *p, unsigned slot);
void policy_ended(struct policy *p, unsigned slot, enum policy_end how, uint64_t now_ms);

/* A death that is no slot's (the template's), before it was of any use. early: it counts
 * towards failing. */
void policy_death(struct policy *p, unsigned source, int early, uint64_t now_ms);

/* The least loaded worker that may get a call (the oldest of several), or -1; where there
 * may be none also before those that are there have left. */
int policy_pick(const struct policy *p);
void policy_give(struct policy *p, unsigned slot);
/* A call of its is over; answered: by an answer. 1: it has had all the calls it may have:
 * leave. */
int policy_take_back(struct policy *p, unsigned slot, int answered);

void policy_resize(struct policy *p, unsigned max);
/* A worker that could make room for one of a source that has fewer: of the source that
 * has most, the least loaded. -1: none has two more. */
int policy_pick_surplus(const struct policy *p, unsigned source);
/* No worker is kept or started unless calls wait. */
void policy_end(struct policy *p);
unsigned policy_workers(const struct policy *p); /* those that count: starting or ready */
/* Calls that workers which start, and the one that may start next, will take. */
size_t policy_room_ahead(const struct policy *p);

#endif
