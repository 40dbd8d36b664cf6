/* The children of this process that the library knows, whatever their loop: so that no
 * two records are the same process, and that what outlives its record is reaped all the
 * same. Runs in the parent, on any thread. */
#ifndef PARENT_PROCESS_CHILDREN_H
#define PARENT_PROCESS_CHILDREN_H

#include "parent/loop/context.h"
#include "parent/process/births.h"

/* The child is a record's from now on: 0, or -EEXIST: it is another's. (Without memory it
 * is not noted, and 0.) */
int children_claim(int pid);
/* It was reaped, or is no child any more. */
void children_release(int pid);
/* A claimed child that outlives its record: reaped at its end by its context while that
 * is on the loop, else by the next that is, or when the library is called. */
void children_orphan(struct context *ctx, int pid);
/* The context has come on its loop: it watches all orphans there are; and off it. */
void children_watch(struct context *ctx);
void children_unwatch(struct context *ctx);
/* Reaps those that have ended and nobody watches. */
void children_reap(struct backend *backend);
/* A birth whose number may not be there yet, and whose record goes: looked for now and
 * then. Takes b. */
void children_unborn(struct context *ctx, struct births *b, uint32_t slot);
void children_look_for_unborn(struct context *ctx);
void children_forget_unborn(struct context *ctx);
void children_on_births_due(struct deadline *d); /* of the context */
/* In a forked copy: all of them are the original's. */
void children_forked(void);

#endif
