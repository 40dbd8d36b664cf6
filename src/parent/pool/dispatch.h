/* Calls to workers and back. Runs in the parent. */
#ifndef PARENT_POOL_DISPATCH_H
#define PARENT_POOL_DISPATCH_H

#include "parent/pool/pool_record.h"

/* Prepares the request and the deadlines of a new call. 0 or a code. */
int pool_fill_work(struct mf_pool *pool, struct pool_call *c, const mf_message *m,
                   struct payload *p, const mf_call_options *options);
/* Gives it to the worker in that slot, which has room. */
void pool_give(struct mf_pool *pool, struct pool_call *c, unsigned slot, uint64_t now_us);
/* The answer of c's worker, or what became of c with its death. */
void pool_on_reply(struct worker *w, struct pool_call *c, const mf_error *e,
                   const mf_message *m);
/* Gives calls that wait, as far as there is room. */
void pool_give_waiting(struct mf_pool *pool);

#endif
