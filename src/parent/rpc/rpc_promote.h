/* Runs in the parent. */
#ifndef PARENT_RPC_RPC_PROMOTE_H
#define PARENT_RPC_RPC_PROMOTE_H

#include "parent/rpc/rpc_record.h"

/* The copy's process, which is forked between two calls, or fails. Of a synchronous rpc
 * that has an owner. 0; MF_EUNSUPPORTED, MF_ECLOSED, or another code. */
int rpc_promote(mf_rpc *rpc, struct mf_process **ret);

#endif
