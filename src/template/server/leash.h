/* What ends this process when its parent ends, while it runs user code: a process that
 * waits for commands notices by itself. Runs in templates and clones.
 *
 * The kernel sends a signal at the end of the thread that made this process's template
 * (PR_SET_PDEATHSIG): no descriptor, no /proc, and it holds through exec. It is lost when
 * the process changes its credentials, and so set again then (credentials.c) and before
 * every piece of user code. Where the parent is not the owner, or that thread may end
 * before its process, or prctl is refused, the leash is a pipe whose write end only the
 * owner has (proc.h).
 *
 * With the option tree the leash is the whole process group's, and always that pipe: the
 * kernel signals a group at its hang-up, whoever in it is stopped or handles what. What
 * the process starts inherits the armed descriptor, and holds the leash when the process
 * itself has ended. PR_SET_PDEATHSIG besides, for a process that has left its own group.
 */
#ifndef TEMPLATE_SERVER_LEASH_H
#define TEMPLATE_SERVER_LEASH_H

#include <sys/types.h>

struct leash {
  int source; /* the pipe's read end as it was given; -1: none */
  int armed;  /* our own description of it; -1: not armed */
  int by_pipe;
  int group; /* it is the whole process group's, by the pipe */
  int own;   /* the signal is set, by whichever way */
  int none;  /* it is a thread: its process has one */
  int stays; /* SIGKILL also while this process waits for commands */
  int full;  /* the pipe could not be armed because no descriptor was to be had */
  pid_t
      parent; /* as it was when the leash was given: another one means that it is gone */
};

/* Takes source (-1: none). The parent of this moment is the one to die with. */
void leash_init(struct leash *l, int source);
/* Of a thread: whatever is asked of it, it does nothing. */
void leash_none(struct leash *l);
/* Threads of this process run user code from now on, at any time. */
void leash_stay(struct leash *l);
/* From now on by that pipe (taken; -1: the one that is there). */
void leash_use_pipe(struct leash *l, int source);
/* From now on the leash of the whole process group, by that pipe (taken; -1: the one that
 * is there), and armed with SIGKILL. 0 or -errno: no /proc, no descriptor. */
int leash_use_group(struct leash *l, int source);
/* Takes the pipe (-1: none) for clones that are no siblings; the leash stays what it is. */
void leash_keep_pipe(struct leash *l, int source);
/* No clone will need the pipe: closes it, unless it is the leash. */
void leash_drop_pipe(struct leash *l);
/* In a forked process: nothing is set here yet. sibling 0: the parent is the template,
 * and only the pipe leads to the owner. keep: the pipe stays, for leash_use_group. */
void leash_forked(struct leash *l, int sibling, int keep);
/* Before user code that is no function given to run: SIGKILL from now on. */
void leash_hold(struct leash *l);
/* User code is over, and this process waits for commands: it ends by itself, with 0. One
 * that is stopped is continued for that. */
void leash_rest(struct leash *l);
/* Before a limit on descriptors: armed while there still are some. */
void leash_save(struct leash *l);
/* Into the function: mode is enum mf_leash. Afterwards only the armed descriptor is left.
 * 0, or -EMFILE with everything as it was: the leash is wanted and there is no descriptor
 * for it. */
int leash_run(struct leash *l, int mode);
/* The credentials have changed, or may have: once more as it was. */
void leash_again(struct leash *l);
/* 1 when the owner is gone, as far as the leash shows. */
int leash_snapped(const struct leash *l);

#endif
