/* Into the function, and out of it (doc/design.md, "Into the function"). */
#ifndef TEMPLATE_SERVE_RUNNER_H
#define TEMPLATE_SERVE_RUNNER_H

#include "template/server/server.h"

/* The handler of RUN: as those of commands.h. */
int cmd_run(struct server *s, struct command *c);
/* After cmd_run said SERVED_RUN, out of the server loop: calls the function and leaves.
 */
_Noreturn void runner_enter(struct server *s);
/* What s->failure says is this clone's last words, which its parent finds in its slot. */
void runner_leave_words(struct server *s);

#endif
