/* A running function's process forks a copy of itself that serves commands, as a template
 * does: for functions that can be left at a moment of their own, as an rpc's between two
 * calls. Runs in clones.
 *
 * The frames of the function stay below, in both processes; the copy serves on a thread
 * of Lua of its own. The interpreter is sealed in the function's process, before the
 * fork, so that garbage is finalised once; from then on that process is to its heap what
 * a clone is. */
#ifndef TEMPLATE_FORK_PROMOTE_H
#define TEMPLATE_FORK_PROMOTE_H

#include "template/server/server.h"

enum { PROMOTE_BODY_MAX = 256 };

/* c: as a FORK, with the owner's leash as its last descriptor. 0: forked; SERVED_BORN:
 * this is the copy, which calls promote_leave next, and gets no signal of user code until
 * then; -1: refused, s->failure says why. */
int promote_fork(struct server *s, const struct command *c);
/* The copy, which is to serve next (serve/entry.h). Its descriptors that were the
 * function's own are closed by settle, which runs when allocating is allowed again, and
 * may call Lua on L; 0, or -1 with s->failure. */
void promote_leave(struct server *s, int (*settle)(struct server *s));

#endif
