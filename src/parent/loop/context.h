/* What the parent's side keeps for one loop: its processes by id, the default template,
 * and the pending callbacks. Runs in the parent, on the loop's thread.
 *
 *   context_get -> processes come and go -> the last handle is closed: parked (off the
 * loop, the default template kept) -> context_get again, or context_drop
 */
#ifndef PARENT_LOOP_CONTEXT_H
#define PARENT_LOOP_CONTEXT_H

#include "base/blockcache.h"
#include "base/list.h"
#include "parent/loop/backend.h"
#include "parent/loop/deadline.h"
#include <moonfork.h>
#include <stdint.h>
#include <stdio.h>

struct uv_loop_s;

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

struct context {
  struct list link; /* in the process-wide list */
  struct uv_loop_s *loop;
  struct backend *backend;
  unsigned generation; /* of forks, when it was made */
  int started, stopping;
  int in_dispatch, in_tasks, wants_turn;
  int kept;                  /* counts as an open process */
  int dropped;               /* free it when it has stopped */
  struct list processes;     /* every record */
  struct mf_process **table; /* by id */
  size_t table_size, table_used;
  uint64_t next_id;
  size_t nopen; /* handles the user has not closed */
  size_t nbusy;
  struct list posts; /* processes with events to come (process/post.c) */
  int in_posts;
  struct list todo; /* processes with pending callbacks */
  struct list tasks;
  struct list held;            /* processes whose fork is held */
  struct list more;            /* templates with answers left for the next turn */
  struct list to_free;         /* records that nothing needs */
  struct list orphans, unborn; /* children.h */
  struct deadline births_due;
  unsigned births_wait_ms;
  struct list closing; /* closed ones whose callback waits for the loop to be empty */
  struct list dump_entries; /* rpcs and pools */
  struct deadlines deadlines;
  struct blockcache blockcache;
  struct mf_process *def; /* the default template, or NULL */
  int def_early;          /* it is the early process */
  unsigned def_failures;  /* starts in a row that came to nothing */
  uint64_t def_not_before_ms;
};

/* The context of the loop (NULL: libuv's default loop), made when there is none. 0 or
 * -errno: no memory, or too few free descriptors for the default loop. */
int context_get(struct uv_loop_s *loop, struct context **ret);
/* The context of the loop (NULL: as above) where there is one, else NULL. */
struct context *context_find(struct uv_loop_s *loop);
/* For tests: a context on a backend of theirs (taken), in no list. */
struct context *context_new_on(struct backend *backend);
/* Puts it on the loop when it is not there. 0 or -errno. */
int context_start(struct context *ctx);
/* 1 when this process is a forked copy of the one that made the context. */
int context_foreign(const struct context *ctx);
/* Frees it as soon as no process is open; the default template is let go. */
void context_drop(struct context *ctx);

static inline uint64_t context_now_ms(const struct context *ctx) {
  return ctx->backend->ops->now_ms(ctx->backend);
}

/* Events from the loop are bracketed, so that completions follow them at once. */
void context_enter(struct context *ctx);
void context_leave(struct context *ctx);
/* Callbacks are pending or forks are held: have a turn. */
void context_turn(struct context *ctx);
void context_count_busy(struct context *ctx, int delta);

/* Runs t when the event under way is over, or on the next turn; on the next turn, too,
 * when it is asked for by a task. Asking again is harmless. */
void context_task(struct context *ctx, struct task *t);
void task_init(struct task *t, void (*run)(struct task *t));
void task_clear(struct task *t);

/* It is on the context from now on; list_remove of its link ends that. */
void context_admit(struct context *ctx, struct dump_entry *r,
                   void (*dump)(const struct dump_entry *r, FILE *out));

int context_insert(struct context *ctx, struct mf_process *p); /* 0 or -ENOMEM */
void context_remove(struct context *ctx, struct mf_process *p);
struct mf_process *context_lookup(struct context *ctx, uint64_t id);

/* Counts the forks of this process's copies (atfork); see leash_pipe.c. */
unsigned fork_generation(void);
/* In a forked copy, before anything else is done with contexts. */
void contexts_forked(void);
/* Calls visit for every context of this process. */
void context_each(void (*visit)(struct context *ctx));

#endif
