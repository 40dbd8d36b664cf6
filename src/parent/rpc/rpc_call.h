/* One call of an rpc. It stays in the id map until its answer has come, also when its
 * callback has been called before: cancelled, or timed out.
 * Runs in the parent. */
#ifndef PARENT_RPC_RPC_CALL_H
#define PARENT_RPC_RPC_CALL_H

#include "parent/rpc/rpc_record.h"

void rpc_init_calls(struct mf_rpc *rpc);
/* Lets go of the request that waits here, if any. */
void rpc_call_drop_payload(struct call *c);
/* The rpc is over: every call fails like it. */
void rpc_fail_calls(struct mf_rpc *rpc);
/* When the first of the calls times out; UINT64_MAX: never. */
uint64_t rpc_first_timeout(const struct mf_rpc *rpc);

#endif
