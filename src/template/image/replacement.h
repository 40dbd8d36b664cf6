/* A file that takes the place of another as a whole, when it is complete and on the disk:
 * who opens the name meanwhile, or after a crash, finds the old one or the new one.
 *
 * It has no name while it is written, where the file system can do that (O_TMPFILE): of a
 * process that is killed nothing is left. Elsewhere, and for the moment in which it takes
 * the place of another, it is NAME.moonfork-XXXXXX and locked (flock); those that nobody
 * locks are of processes that were killed, and the next replacement removes them. Runs in
 * templates and clones. */
#ifndef TEMPLATE_IMAGE_REPLACEMENT_H
#define TEMPLATE_IMAGE_REPLACEMENT_H

#include <limits.h>

struct replacement {
  int fd;     /* to write to: for its owner alone, for it may hold secrets */
  int folder; /* private from here on */
  int is_named;
  char name[NAME_MAX + 1], temporary[NAME_MAX + 1];
};

/* Begins a file at path. 0; a negative errno; or -EEXIST with *ret_why: what is there is
 * neither a file nor a link, and is not replaced. */
int replacement_begin(struct replacement *r, const char *path, const char **ret_why);
/* What was written is the file from now on. 0 or a negative errno. */
int replacement_commit(struct replacement *r);
/* After the commit, or instead of it: then nothing has changed. */
void replacement_end(struct replacement *r);

#endif
