/* Into the function, and out of it (doc/design.md, "Into the function"). */
#ifndef TEMPLATE_RUNNER_H
#define TEMPLATE_RUNNER_H

#include "template/server.h"

/* After cmd_run said SERVED_RUN, out of the server loop: calls the function and leaves.
 */
_Noreturn void runner_enter(struct server *s);
/* A process that will run no user code any more (a reaper) lets go of what it holds for
 * user code: standard streams, handles, files. Idempotent. */
void runner_retire(struct server *s);
/* What s->failure says is this clone's last words, which its template reports with its exit. */
void runner_leave_words(struct server *s);

#endif
