/* Starting templates; see boot.c. Runs in the parent. */
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
/* 1 when the context's default template is the early process (taken now when it is free
 * and the context has none), 0 when not, or negative. */
int boot_early(struct context *ctx, const mf_options *o);
/* The default template, started when there is none; borrowed. One that can't be started
 * is given all the same, failed. */
int boot_default(struct context *ctx, const mf_options *o, struct mf_process **ret);
/* Lets the default template go. */
void boot_reset(struct context *ctx);
/* The same, and frees the context as soon as no process is open. */
void boot_close(struct context *ctx);
/* In a forked copy: the early process is the original's. */
void boot_forget_early(void);

#endif
