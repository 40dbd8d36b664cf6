/* Frames of the process become answers, events and reports.
 * Runs in the parent. */
#ifndef PARENT_RPC_ANSWERS_H
#define PARENT_RPC_ANSWERS_H

#include "parent/rpc/rpc_record.h"

/* The reader of its messages; rpc->options are complete. */
void rpc_init_messages(struct mf_rpc *rpc);
/* Delivers up to *budget messages. 0: more bytes are needed; 1: the budget is spent, or
 * all is over. */
int rpc_deliver(struct mf_rpc *rpc, int *budget);

#endif
