/* Bytes in.
 * Runs in the parent. */
#ifndef PARENT_RPC_RECEIVE_H
#define PARENT_RPC_RECEIVE_H

#include "parent/rpc/rpc_record.h"

/* Reads and delivers what the turn has steps for, the rest in the next one. 1 when all
 * that was there is read. */
int rpc_read(struct mf_rpc *rpc);
/* The same though the turn has no steps left: before it is judged that nothing came. */
void rpc_catch_up(struct mf_rpc *rpc);
/* The process has ended: what it wrote is read to its end, then the rpc ends. */
void rpc_drain(struct mf_rpc *rpc);
void rpc_on_grace(struct deadline *d);

#endif
