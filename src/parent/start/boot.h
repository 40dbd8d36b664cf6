/* Processes that no template forks; see boot.c. Runs in the parent. */
#ifndef PARENT_START_BOOT_H
#define PARENT_START_BOOT_H

#include "parent/process/process.h"

/* A process in a newly executed program. 0, MF_ENOMEM, MF_EINVAL or -errno; a program
 * that does not start is the new process's failure. */
int boot_exec(struct context *ctx, const mf_options *o, struct mf_process **ret);
/* A process behind fd (taken) whose number is pid; child: ours to reap. */
int boot_adopt(struct context *ctx, const mf_options *o, int fd, int pid, int child,
               struct mf_process **ret);
/* A process behind fd (taken), which has served somebody else before and says who it is.
 */
int boot_take_up(struct context *ctx, int fd, struct mf_process **ret);
/* For one that is started later: p's program and options, which wait for a socket. */
int boot_prepare(struct mf_process *p, const mf_options *o);
/* Starts it. A program that does not start is p's failure. */
void boot_spawn(struct mf_process *p, const mf_options *o);

#endif
