/* Bytes in.
 * Runs in the parent. */
#ifndef PARENT_RPC_RECEIVE_H
#define PARENT_RPC_RECEIVE_H

#include "parent/rpc/rpc_record.h"

/* Reads and delivers, but leaves the loop its turns. 1 when all that was there is read.
 */
int rpc_read(struct mf_rpc *rpc);
/* The process has ended: what it wrote is read to its end, then the rpc ends. */
void rpc_drain(struct mf_rpc *rpc);
void rpc_on_grace(struct deadline *d);

#endif
