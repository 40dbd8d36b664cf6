/* Templates behind a command: the near end of a link is started, and given the command.
 * Runs in the parent. */
#ifndef PARENT_START_REMOTE_H
#define PARENT_START_REMOTE_H

#include "parent/process/far.h"

/* A link that has not been started. NULL: no memory. */
struct far_link *remote_new(struct context *ctx);
/* Starts p's, and connects p to the far template, which says hello when it is there. 0 or
 * -errno: the near end can't be started. */
int remote_start(struct mf_process *p, const mf_options *o);
/* The command for messages; to be freed. NULL: no memory. */
char *remote_name(const mf_options *o);

#endif
