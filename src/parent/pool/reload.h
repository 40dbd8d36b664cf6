/* Reloads and additions of templates, one at a time; a reload ends those that wait before
 * it. Runs in the parent. */
#ifndef PARENT_POOL_RELOAD_H
#define PARENT_POOL_RELOAD_H

#include "parent/pool/pool_record.h"

/* Gets p ready to be forked from, its history whole. 0 or a code. */
int pool_prepare_template(mf_process *p);
/* To be called by the task: the one under way, then the next. */
void pool_go_on_with_reload(struct mf_pool *pool);
void pool_begin_next_reload(struct mf_pool *pool);

#endif
