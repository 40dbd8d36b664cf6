/* One call of a pool. It stays in the id map until its worker has answered, also when its
 * callback has been called before: cancelled, or timed out. Runs in the parent. */
#ifndef PARENT_POOL_CALL_H
#define PARENT_POOL_CALL_H

#include "parent/pool/record.h"

struct work *pool_work_new(struct mf_pool *pool); /* NULL: no memory */
void pool_work_free(struct work *c);
/* The task will call its callback with that error; code 0: the failure of the pool. Nothing
 * happens when it has been called, or will be. */
void pool_work_fail(struct work *c, int code, int started);
/* For the statistics: its callback is about to be called. code 0: with an answer. */
void pool_count_end(struct work *c, int code);
/* Calls pending callbacks, up to so many as leave the loop its turns. 1 when more are pending. */
int pool_notify_pending(struct mf_pool *pool);
/* When the first of a list of calls times out; UINT64_MAX: never. */
uint64_t pool_first_timeout_in(const struct list *calls);
/* For payload_new's reuse; NULL: there is none. */
struct payload *pool_take_spare_payload(struct mf_pool *pool);

#endif
