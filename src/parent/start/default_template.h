/* The template that the processes of mf_new are forked from: started when it is needed,
 * and again when it has ended; after failures in a row with a delay. Each context has its
 * own. Runs in the parent. */
#ifndef PARENT_START_DEFAULT_TEMPLATE_H
#define PARENT_START_DEFAULT_TEMPLATE_H

#include "parent/process/process.h"

/* The default template, started when there is none; borrowed. One that can't be started
 * is given all the same, failed. 0 or a negative code. */
int default_template(struct context *ctx, const mf_options *o, struct mf_process **ret);
/* 1 when the context's default template is the early process (taken now when it is free
 * and the context has none), 0 when not, or negative. */
int default_early(struct context *ctx, const mf_options *o);
/* Lets the default template go. */
void default_reset(struct context *ctx);
/* The same, and frees the context as soon as no process is open. */
void default_close(struct context *ctx);

#endif
