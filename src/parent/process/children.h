/* The children of this process that the library knows, whatever their loop: so that no
 * two records are the same process, and that what outlives its record is reaped all the
 * same. Runs in the parent, on any thread. */
#ifndef PARENT_PROCESS_CHILDREN_H
#define PARENT_PROCESS_CHILDREN_H

#include "parent/loop/context.h"
#include "parent/process/births.h"

/* What one loop looks after. */
struct children {
  struct context *context;
  struct list kept;    /* children without a record */
  struct list pending; /* births whose number, or end, may still come */
  struct deadline births_due;
  unsigned births_wait_ms;
  struct deadline look_due; /* at those that are kept and have no pidfd */
};

void children_init(struct children *c, struct context *ctx);

/* The child is a record's from now on: 0, or -EEXIST: it is another's. (Without memory it
 * is not noted, and 0.) */
int children_claim(int pid);
/* It was reaped, or is no child any more. */
void children_release(int pid);
/* A claimed child that outlives its record: reaped at its end by its loop while the
 * context is on it, else by the next that is, or when the library is called. tree: with
 * what is left of its process group. */
void children_keep(struct children *c, int pid, int tree);
/* The same of one that has had no record: by the next loop, or when the library is called.
 */
void children_leave(int pid);
/* The context has come on its loop: it watches all that nobody watches, and waits for all
 * births that nobody waits for; and off it. */
void children_watch(struct children *c);
void children_unwatch(struct children *c);
/* The same, of a context that may be on its loop since long: cheap where nothing is left
 * of others. */
void children_adopt(struct children *c);
/* Reaps those that have ended and nobody watches. */
void children_reap(struct backend *backend);
/* A birth whose number may not be there yet, and whose record goes: looked for now and
 * then. own: the slots of what that process forks, which end with it, or NULL. Takes
 * both. */
void children_await_birth(struct children *c, struct births *b, uint32_t slot, int tree,
                          struct births *own);
/* Whether a birth from b may still come. b may be NULL. */
int children_may_come(const struct children *c, const struct births *b);
/* A process that lives, our child or another record's, and whose record goes: nobody else
 * gets its slot (b NULL: it has none) before its end, and until then it may fork into its
 * own ones. Takes both. */
void children_await_end(struct children *c, struct births *b, uint32_t slot, int pid,
                        struct births *own);
void children_look_for_births(struct children *c);
/* A number that births_late tells of: our child is reaped at its end. */
void children_late(struct children *c, int pid);
/* All of them, of a template that forks no more. b may be NULL. */
void children_sweep(struct children *c, struct births *b);
/* The context ends. If the program has others, what it waits for is the next one's of
 * them that makes a process, or comes on its loop. */
void children_leave_births(struct children *c);
/* In a forked copy: closes the descriptors. */
void children_close(struct children *c);
/* In a forked copy: all of them are the original's. */
void children_forked(void);

#endif
