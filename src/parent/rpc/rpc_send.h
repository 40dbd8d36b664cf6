/* Requests out.
 * Runs in the parent. */
#ifndef PARENT_RPC_RPC_SEND_H
#define PARENT_RPC_RPC_SEND_H

#include "parent/rpc/rpc_record.h"

/* As mf_rpc_call. p: the request where it is held already, else NULL. */
int rpc_send(struct mf_rpc *rpc, const mf_message *m, struct payload *p, int chunk,
             unsigned timeout_ms, mf_reply_cb cb, void *data, uint64_t *ret_id);
/* Gives it a call of its owner's, with type and payload, until on_reply. 0, or a code: it
 * was not taken. */
int rpc_give(struct mf_rpc *rpc, struct call *c);
/* Writes what the kernel takes. */
void rpc_flush(struct mf_rpc *rpc);
size_t rpc_queue_bytes(const struct mf_rpc *rpc); /* that are not written yet */

#endif
