/* Failing, draining, closing. Runs in the parent. */
#ifndef PARENT_POOL_POOL_END_H
#define PARENT_POOL_POOL_END_H

#include "parent/pool/pool_record.h"

/* The pool has failed: calls that wait fail with it, and it is reported once. */
void pool_fail_waiting(struct mf_pool *pool);
/* The same with drop_code. Of both: as many as the turn has steps for. */
void pool_drop_waiting(struct mf_pool *pool);
/* Nothing runs again, everything under way is killed. */
void pool_give_up(struct mf_pool *pool, int code);
/* Without waiting for any worker: their calls get that code. */
void pool_abandon_workers(struct mf_pool *pool, int code);
/* Of a pool that ends: nothing is left, and nobody has a callback due. */
int pool_is_over(const struct mf_pool *pool);
void pool_on_drain_limit(struct deadline *d);
/* Begins, or begins again, the grace of a close. */
void pool_start_close_grace(struct mf_pool *pool);
void pool_on_close_grace(struct deadline *d);
/* Calls the callback of a drain, once. */
void pool_report_drained(struct mf_pool *pool);
/* All workers are gone, no callback is pending. */
void pool_end(struct mf_pool *pool);

#endif
