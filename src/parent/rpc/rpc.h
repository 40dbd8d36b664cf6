/* Calls of one function in a process that stays: framing, numbers, order, limits,
 * timeouts and the proof of what was not started, over the socket that `run` gave.
 * doc/rpc-protocol.md has the protocol. Runs in the parent.
 *
 *   rpc_new (takes the process) -> mf_rpc_call, or rpc_give, ... -> mf_rpc_close
 *     -> freed by its last callback
 *
 * A call's life:
 *
 *   PARKED -> FLYING ----------------> answered
 *     |         \-> ABANDONED (cancelled or timed out: its answer is awaited and dropped)
 *     \---------------> PENDING: a task calls its callback with an error
 *
 * A pool's call is PARKED or FLYING until it goes back to the pool: answered, or LOST
 * when the rpc has failed. All else is up to the pool.
 */
#ifndef PARENT_RPC_H
#define PARENT_RPC_H

#include "parent/process/process.h"
#include "parent/rpc/owner.h"

/* As mf_rpc_new; owner: copied, or NULL. */
int rpc_new(struct mf_process *p, const char *function, const mf_rpc_options *o,
            const struct rpc_owner *owner, mf_rpc **ret);
/* The caller's options (NULL: none, or of an older and shorter version) as a full struct,
 * checked as far as an rpc and a pool share them. 0 or MF_EINVAL. */
int rpc_options_load(const mf_rpc_options *from, mf_rpc_options *ret);
int call_options_load(const mf_call_options *from, mf_call_options *ret);
/* Delivers what has come and was not read yet, as the loop would. */
void rpc_look(mf_rpc *rpc);
/* It has failed or ended: what is reported from now on are errors of that end. */
int rpc_is_over(const mf_rpc *rpc);
const char *rpc_origin(const mf_rpc *rpc); /* of its error; NULL: not known */
/* Milliseconds from now, as a timeout of the calls: 0 for "as o says". */
unsigned rpc_timeout(const mf_call_options *c, unsigned standard_ms);

#endif
