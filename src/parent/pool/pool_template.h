/* The template of a pool. Runs in the parent. */
#ifndef PARENT_POOL_POOL_TEMPLATE_H
#define PARENT_POOL_POOL_TEMPLATE_H

#include "parent/pool/pool_record.h"

/* Takes t. */
void pool_use_template(struct mf_pool *pool, mf_process *t);
/* Gives it. */
mf_process *pool_leave_template(struct mf_pool *pool);
/* Forks a worker and puts it in a slot, starting the template again where it has ended.
 * What fails is the policy's to judge. */
void pool_start_worker(struct mf_pool *pool);

#endif
