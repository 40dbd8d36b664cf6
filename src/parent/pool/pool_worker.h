/* The workers of a pool: one rpc each. Runs in the parent. */
#ifndef PARENT_POOL_POOL_WORKER_H
#define PARENT_POOL_POOL_WORKER_H

#include "parent/pool/pool_record.h"

/* Forks a worker from t; why, for on_worker. 0 or a code. */
int pool_worker_new(struct mf_pool *pool, mf_process *t, const char *why,
                    struct worker **ret);
int pool_put_in_slot(struct worker *w); /* 0 or MF_ENOMEM */
/* Another one may take its place. */
void pool_replace(struct worker *w);
/* How and why it ends, for on_worker: the first reason counts, but a kill has its own. */
void pool_note_end(struct worker *w, enum mf_worker_event ends, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* It gets no more calls, finishes those it has, and ends. */
void pool_dismiss(struct worker *w);
/* The same, counted, and another one takes its place. */
void pool_recycle(struct worker *w);
/* The first time it is counted; pool_note_end says why. */
void pool_kill_worker(struct worker *w);
/* When it leaves and has nothing to do, it has the pool's grace to end. */
void pool_start_worker_grace(struct worker *w);

#endif
