/* One call of a pool. It stays in the id map until its worker has answered, also when its
 * callback has been called before: cancelled, or timed out. Runs in the parent. */
#ifndef PARENT_POOL_POOL_CALL_H
#define PARENT_POOL_POOL_CALL_H

#include "parent/pool/pool_record.h"

void pool_init_calls(struct mf_pool *pool);
/* It does not wait any more. */
void pool_unqueue(struct pool_call *c);
/* For the statistics: its wait is over, as a worker starts it or it is given up; it is
 * over in a worker that was at it, or had not come to it; its callback is about to be
 * called (code 0: with an answer). */
void pool_count_wait(struct pool_call *c, uint64_t now_us);
void pool_count_run(const struct pool_call *c, struct worker *w, uint64_t now_us,
                    int answered);
void pool_count_end(struct pool_call *c, int code, uint64_t now_us);
void pool_count_drained(struct mf_pool *pool, int answered, int started);
/* When the first of the calls times out; UINT64_MAX: never. */
uint64_t pool_first_timeout(const struct mf_pool *pool);
/* For payload_new's reuse; NULL: there is none. */
struct payload *pool_take_spare_payload(struct mf_pool *pool);

#endif
