/* The workers of a pool: one rpc each. Runs in the parent. */
#ifndef PARENT_POOL_POOL_WORKER_H
#define PARENT_POOL_POOL_WORKER_H

#include "parent/pool/pool_record.h"

/* Forks a worker from t. 0 or a code. */
int pool_worker_new(struct mf_pool *pool, mf_process *t, struct worker **ret);
int pool_put_in_slot(struct worker *w); /* 0 or MF_ENOMEM */
/* Another one may take its place. */
void pool_replace(struct worker *w);
/* It gets no more calls, finishes those it has, and ends. */
void pool_dismiss(struct worker *w);
/* The same, counted, and another one takes its place. */
void pool_recycle(struct worker *w);
void pool_kill_worker(struct worker *w);
/* When it leaves and has nothing to do, it has the pool's grace to end. */
void pool_start_worker_grace(struct worker *w);

#endif
