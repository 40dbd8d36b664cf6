/* What the parent's side keeps for one loop: its processes by id, the default template,
 * the deadlines, and the pending callbacks. Runs in the parent, on the loop's thread.
 *
 *   home_get -> processes come and go -> the last handle is closed: parked (off the loop,
 *   the default template kept) -> home_get again, or home_drop
 */
#ifndef PARENT_LOOP_CONTEXT_H
#define PARENT_LOOP_CONTEXT_H

#include "base/blockcache.h"
#include "base/list.h"
#include "base/minheap.h"
#include "parent/loop/backend.h"
#include <moonfork.h>
#include <stdint.h>
#include <stdio.h>

struct uv_loop_s;

struct deadline {
  struct minheap_node node; /* by time, in milliseconds */
  void (*on_due)(struct deadline *d);
};

/* Something to be done once, outside of any event: embedded in its owner. */
struct task {
  struct list link; /* empty: not asked for */
  void (*run)(struct task *t);
};

/* What lives on a home besides processes, an rpc or a pool: embedded in it. */
struct dump_entry {
  struct list link; /* empty: a pool's worker, which the pool knows */
  uint64_t made_ms;
  void (*dump)(const struct dump_entry *r, FILE *out); /* its lines in mf_dump's text */
};

struct home {
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
  struct minheap deadlines;
  uint64_t timer_at_ms;
  struct blockcache blockcache;
  struct mf_process *def; /* the default template, or NULL */
  int def_early;          /* it is the early process */
  unsigned def_failures;  /* starts in a row that came to nothing */
  uint64_t def_not_before_ms;
};

/* The home of the loop (NULL: libuv's default loop), made when there is none. 0 or
 * -errno: no memory, or too few free descriptors for the default loop. */
int home_get(struct uv_loop_s *loop, struct home **ret);
/* The home of the loop (NULL: as above) where there is one, else NULL. */
struct home *home_find(struct uv_loop_s *loop);
/* For tests: a home on a backend of theirs (taken), in no list. */
struct home *home_new_on(struct backend *backend);
/* Puts it on the loop when it is not there. 0 or -errno. */
int home_start(struct home *h);
/* 1 when this process is a forked copy of the one that made the home. */
int home_foreign(const struct home *h);
/* Frees it as soon as no process is open; the default template is let go. */
void home_drop(struct home *h);

/* Events from the loop are bracketed, so that completions follow them at once. */
void home_enter(struct home *h);
void home_leave(struct home *h);
/* Callbacks are pending or forks are held: have a turn. */
void home_turn(struct home *h);
void home_count_busy(struct home *h, int delta);

/* Runs t when the event under way is over, or on the next turn; on the next turn, too,
 * when it is asked for by a task. Asking again is harmless. */
void home_task(struct home *h, struct task *t);
void task_init(struct task *t, void (*run)(struct task *t));
void task_clear(struct task *t);

/* It is on the home from now on; list_remove of its link ends that. */
void home_admit(struct home *h, struct dump_entry *r,
                void (*dump)(const struct dump_entry *r, FILE *out));

int home_insert(struct home *h, struct mf_process *p); /* 0 or -ENOMEM */
void home_remove(struct home *h, struct mf_process *p);
struct mf_process *home_lookup(struct home *h, uint64_t id);

void deadline_init(struct deadline *d, void (*on_due)(struct deadline *d));
void deadline_set(struct home *h, struct deadline *d, uint64_t in_ms);
void deadline_set_at(struct home *h, struct deadline *d, uint64_t at_ms);
void deadline_clear(struct deadline *d);
/* When it is due; UINT64_MAX: it is not set. */
static inline uint64_t deadline_at(const struct deadline *d) {
  return minheap_holds(&d->node) ? d->node.key : UINT64_MAX;
}

/* Counts the forks of this process's copies (atfork); see leash_pipe.c. */
unsigned fork_generation(void);
/* In a forked copy, before anything else is done with homes. */
void homes_forked(void);
/* Calls visit for every home of this process. */
void home_each(void (*visit)(struct home *h));

#endif
