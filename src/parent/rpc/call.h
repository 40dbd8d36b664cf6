/* One call of an rpc. It stays in the id map until its answer has come, also when its
 * callback has been called before: cancelled, or timed out.
 * Runs in the parent. */
#ifndef PARENT_RPC_CALL_H
#define PARENT_RPC_CALL_H

#include "parent/rpc/record.h"

struct call *rpc_call_new(struct mf_rpc *rpc, mf_reply_cb cb, void *data); /* NULL: no memory */
void rpc_call_free(struct call *c);
/* From now on; MF_NO_TIMEOUT: none. */
void rpc_call_set_timeout(struct call *c, unsigned timeout_ms);
/* Lets go of the request that waits here, if any. */
void rpc_call_drop_payload(struct call *c);
/* The task will call its callback with that error; code 0: the failure of the rpc. Nothing
 * happens when it has been called, or will be. */
void rpc_call_fail(struct call *c, int code, int started);
/* The rpc is over: every call fails like it. */
void rpc_fail_calls(struct mf_rpc *rpc);
/* Calls pending callbacks, up to so many as leave the loop its turns. */
void rpc_notify_pending(struct mf_rpc *rpc);
/* When the first of the calls times out; UINT64_MAX: never. */
uint64_t rpc_first_timeout(const struct mf_rpc *rpc);

#endif
