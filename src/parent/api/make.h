/* Making processes on a context that has been started. Runs in the parent. */
#ifndef PARENT_API_MAKE_H
#define PARENT_API_MAKE_H

#include "parent/process/process.h"

/* As mf_new or (exec) mf_new_exec. */
int process_make(struct context *ctx, int exec, const mf_options *o, mf_process **ret);
/* As mf_from_fd. Takes fd. */
int process_take_up(struct context *ctx, const mf_options *o, int fd, mf_process **ret);

#endif
