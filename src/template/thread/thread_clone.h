/* Clones that are threads of their template's process: each has a copy of the
 * interpreter, a record of its own (struct server), and its own descriptors, directory
 * and umask (unshare(2)). It serves commands and runs its function as a clone that is a
 * process does, and tells its parent of its end by itself (wire/life.h). Runs in
 * templates. */
#ifndef TEMPLATE_THREAD_CLONE_H
#define TEMPLATE_THREAD_CLONE_H

#include "template/server/server.h"

/* As a process has; a page of it exists once it is used. */
enum { THREAD_STACK_SIZE = 8 << 20 };

/* Begins the clone that the command asks for (lazy: thread_copy.h); `live` is its life,
 * entered with its own record, out of which it leaves by s->leave. 0: it has been born;
 * -1: refused, s->failure says why. Steals descriptors. */
int thread_fork(struct server *s, const struct command *c, int lazy,
                void (*live)(struct server *s));

#endif
