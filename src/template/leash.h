/* This process's end of the parent's leash: armed only when user code is about to run,
 * since a process that waits for commands notices the parent's end by itself. Runs in
 * templates and clones. */
#ifndef TEMPLATE_LEASH_H
#define TEMPLATE_LEASH_H

struct leash {
  int source;  /* the pipe's read end as it was given; -1: none */
  int armed;   /* our own description of it; -1: not armed */
  int ready;   /* one for the next clone, with SIGKILL and without an owner; -1: none */
  int resting; /* armed, but quiet */
  int broken;  /* can't be armed here (no /proc): the template kills instead */
  int full;    /* it could not be armed because no descriptor was to be had */
};

/* Takes source (-1: no leash at all). */
void leash_init(struct leash *l, int source);
/* Has a description ready for the next clone, which saves it most of the arming. For a template
 * that has nothing else to do. */
void leash_prepare(struct leash *l);
/* After a fork, there: what was ready is the clone's. */
void leash_given(struct leash *l);
/* In a forked process: the armed description is the template's. */
void leash_forked(struct leash *l);
/* Before user code that is no function given to run: SIGKILL from now on. */
void leash_hold(struct leash *l);
/* Before waiting with clones to look after: quiet, so that it may reap. */
void leash_rest(struct leash *l);
/* Before a limit on descriptors: armed, and ready for a runner, while there still are some. */
void leash_save(struct leash *l);
/* Into the function: mode is enum mf_leash. Afterwards only the armed descriptor is left. 0, or
 * -EMFILE with everything as it was: the leash is wanted and there is no descriptor for it. */
int leash_run(struct leash *l, int mode);
/* 1 when the parent's end of the pipe is closed. */
int leash_snapped(const struct leash *l);

#endif
