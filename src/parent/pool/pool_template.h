/* The templates of a pool. Runs in the parent. */
#ifndef PARENT_POOL_TEMPLATE_H
#define PARENT_POOL_TEMPLATE_H

#include "parent/pool/pool_record.h"

/* One more, to be given its process before anything else happens. 0 or MF_ENOMEM. */
int pool_template_new(struct mf_pool *pool, struct pool_template **ret);
/* Takes p. */
void pool_template_use(struct pool_template *t, mf_process *p);
/* Another process in its place, which is started again as the former one. Takes p. */
void pool_template_exchange(struct pool_template *t, mf_process *p);
/* It is a former one from now on: closed, and its workers are nobody's. */
void pool_template_drop(struct pool_template *t);
int pool_has_template(const struct mf_pool *pool, const mf_process *p);
/* Forks a worker from the template of that source and puts it in a slot, starting the
 * template again where it has ended. What fails is the policy's to judge. */
void pool_start_worker(struct mf_pool *pool, unsigned source);
/* Those that have not failed. */
unsigned pool_count_templates(const struct mf_pool *pool);
/* To on_error, each once; where the last one has failed the pool's failure is told. */
void pool_report_failed_templates(struct mf_pool *pool);

/* The end, in this order. All are told to end. */
void pool_finish_templates(struct mf_pool *pool);
/* Some are waited for, as somebody wants to know how they end: the task runs again. */
int pool_awaits_templates(struct mf_pool *pool);
/* Closes all: cb is called for each, and counts nclosing down. */
void pool_close_templates(struct mf_pool *pool, mf_close_cb cb);
/* Of a pool that never came to be: they have no process. */
void pool_free_templates(struct mf_pool *pool);

#endif
