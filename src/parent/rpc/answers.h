/* Frames of the process become answers, events and reports.
 * Runs in the parent. */
#ifndef PARENT_RPC_ANSWERS_H
#define PARENT_RPC_ANSWERS_H

#include "parent/rpc/record.h"

/* A frame of whose body the first `have` bytes are there. */
void rpc_on_frame(struct mf_rpc *rpc, const struct frame *f, size_t have);
/* The rest of such a body has been read to the end of rpc->gather. */
void rpc_end_part(struct mf_rpc *rpc, int more);

#endif
