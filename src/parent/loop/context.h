/* What the parent's side keeps for one loop: its backend, its deadlines, and what is to
 * be done outside of events. It knows nobody who lives on it: the processes, in a
 * registry (process/registry.h), which is this with more; rpcs and pools. Runs in the
 * parent, on the loop's thread.
 *
 *   made -> context_start: on the loop -> the last handle is closed: parked, off the loop
 *   -> context_start again, or context_drop
 */
#ifndef PARENT_LOOP_CONTEXT_H
#define PARENT_LOOP_CONTEXT_H

#include "base/blockcache.h"
#include "base/list.h"
#include "parent/loop/backend.h"
#include "parent/loop/busy_wait.h"
#include "parent/loop/deadline.h"
#include "parent/loop/yielding.h"
#include <moonfork.h>
#include <stdint.h>
#include <stdio.h>

struct uv_loop_s;

/* When tasks run. Those of one phase run in the order in which they were asked for. Each
 * phase has so many steps in a turn of the loop (context_step); what is left of it waits
 * for the next one. So no turn is long, however many processes end, calls fail or timers
 * are due in the same moment, and no phase waits for the end of another. */
enum task_phase {
  PHASE_WRITE,  /* on the next turn: what was kept back to be written together */
  PHASE_READ,   /* then: what was left to be read */
  PHASE_TELL,   /* when the event under way is over: what it means for forks */
  PHASE_NOTIFY, /* then: callbacks */
  PHASE_WORK,   /* then: anything else */
  PHASE_FREE,   /* then: nobody uses it any more */
  PHASE_CLOSED, /* when the loop has nothing of ours any more, or goes on without */
  PHASE_COUNT
};

/* Something to be done once, outside of any event: embedded in its owner. */
struct task {
  struct list link; /* empty: not asked for */
  void (*run)(struct task *t);
};

/* What lives on a context besides processes, an rpc or a pool: embedded in it. */
struct dump_entry {
  struct list link; /* empty: a pool's worker, which the pool knows */
  uint64_t made_ms;
  void (*dump)(const struct dump_entry *r, FILE *out); /* its lines in mf_dump's text */
};

struct context;
struct outbox;

/* What the context's owner does at its turns of life. */
struct context_ops {
  void (*on_start)(struct context *ctx); /* it is on the loop (again) */
  /* Nothing is open any more: lets go of as much as this turn has steps for. 1: more is
   * left. */
  int (*on_rest)(struct context *ctx);
  void (*on_park)(struct context *ctx); /* everything has to be off the loop */
  void (*free)(struct context *ctx);    /* after context_deinit */
};

struct context {
  struct list link; /* in the process-wide list */
  struct uv_loop_s *loop;
  struct backend *backend;
  const struct context_ops *ops;
  unsigned generation; /* of forks, when it was made */
  int has_own_fds;     /* those of the thread that made it: no forked copy has them */
  int started, stopping;
  int resting; /* nothing is open, and it is let go of: it is about to be parked */
  int in_dispatch, leaving, in_work, wants_turn;
  int began;                   /* this turn of the loop has its steps already */
  int more_due;                /* deadlines that the last turn had no room for */
  unsigned due_left;           /* deadlines for which this turn has */
  unsigned steps[PHASE_COUNT]; /* that this turn has left */
  int kept;                    /* counts as an open process */
  int dropped;                 /* free it when it has stopped */
  size_t nopen;                /* handles the user has not closed */
  size_t nbusy;
  struct list phases[PHASE_COUNT];
  struct list dump_entries; /* rpcs and pools */
  struct list unsent;       /* of outboxes that were dropped: descriptors to be closed */
  struct task close_unsent;
  struct deadlines deadlines;
  struct blockcache blockcache;
  struct busy_wait busy_wait;
  struct yielding yielding;
};

/* On that backend (taken), in no list. */
void context_init(struct context *ctx, struct backend *backend,
                  const struct context_ops *ops);
/* It is its loop's from now on, to be found by others. */
void context_publish(struct context *ctx, struct uv_loop_s *loop);
/* The context of the loop (NULL: libuv's default loop) where there is one, else NULL. */
struct context *context_find(struct uv_loop_s *loop);
/* *loop, where it is NULL, is libuv's default loop from now on. 0 or -errno: no memory,
 * or too few free descriptors for it. */
int context_choose_loop(struct uv_loop_s **loop);
/* Puts it on the loop when it is not there. 0 or -errno. */
int context_start(struct context *ctx);
/* 1 when this process is a forked copy of the one that made the context. */
int context_foreign(const struct context *ctx);
/* Frees it as soon as no process is open. */
void context_drop(struct context *ctx);

static inline uint64_t context_now_ms(const struct context *ctx) {
  return ctx->backend->ops->now_ms(ctx->backend);
}

static inline int context_is_on(const struct context *ctx) {
  return ctx->started && !ctx->stopping && !ctx->resting;
}

/* Events from the loop are bracketed, so that completions follow them at once. */
void context_enter(struct context *ctx);
void context_leave(struct context *ctx);
/* Tasks are waiting: have a turn. */
void context_turn(struct context *ctx);
/* What the turn was for may be done already: then the loop need not have one. */
void context_spare_turn(struct context *ctx);
void context_count_busy(struct context *ctx, int delta);

/* Runs t once in that phase: what is asked for by a task of the same phase, on the next
 * turn. Asking again is harmless. A task of PHASE_CLOSED does not make the loop turn. */
void context_task(struct context *ctx, enum task_phase phase, struct task *t);
/* One more step of that phase may be done in this turn, and is counted: 1. Else 0, and
 * there will be another turn. A task is one step; one that has much to do takes one for
 * each part of it. */
int context_step(struct context *ctx, enum task_phase phase);
/* How many there are left; and that so many were done. */
unsigned context_steps(const struct context *ctx, enum task_phase phase);
void context_count_steps(struct context *ctx, enum task_phase phase, unsigned n);
/* Drops what is queued there; where that is thousands of descriptors, in several turns. */
void context_drop_outbox(struct context *ctx, struct outbox *o);
/* Closes at once what context_drop_outbox has left. */
void context_close_unsent(struct context *ctx);
/* Runs those of that phase now, however many. */
void context_flush_phase(struct context *ctx, enum task_phase phase);
void task_init(struct task *t, void (*run)(struct task *t));
void task_clear(struct task *t);
static inline int task_waits(const struct task *t) {
  return !list_empty(&t->link);
}

/* It is on the context from now on; list_remove of its link ends that. */
void context_admit(struct context *ctx, struct dump_entry *r,
                   void (*dump)(const struct dump_entry *r, FILE *out));

/* Prints what other libraries have on the loop: mf_dump_add. */
void context_dump_parts(struct uv_loop_s *loop, FILE *out);

/* Whether this process has a context. */
int context_any(void);
/* In a forked copy, before anything else is done with contexts. */
void contexts_forked(void);
/* Calls visit for every context of this process. */
void context_each(void (*visit)(struct context *ctx));

#endif
