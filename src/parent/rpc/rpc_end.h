/* The end of an rpc. Whatever happens first decides; the rest is ignored.
 * Runs in the parent. */
#ifndef PARENT_RPC_RPC_END_H
#define PARENT_RPC_RPC_END_H

#include "parent/rpc/rpc_record.h"

/* Calls fail like this, the socket is closed, the error is reported by the task. */
void rpc_fail_with_at(const char *origin, struct mf_rpc *rpc, const mf_error *e);
void rpc_fail_at(const char *origin, struct mf_rpc *rpc, int code, const char *message);
/* The process broke the protocol: it is killed. */
void rpc_broken_at(const char *origin, struct mf_rpc *rpc, const char *what);
#define rpc_fail_with(...) rpc_fail_with_at(ORIGIN, __VA_ARGS__)
#define rpc_fail(...) rpc_fail_at(ORIGIN, __VA_ARGS__)
#define rpc_broken(...) rpc_broken_at(ORIGIN, __VA_ARGS__)
/* No memory for what it says: it is killed. */
void rpc_lack_memory(struct mf_rpc *rpc, const char *text);
/* The socket has come to its end: the process gets a little time to end, too. */
void rpc_end_of_file(struct mf_rpc *rpc);
/* Nothing more will come: closed in order, or dead. */
void rpc_finish_end(struct mf_rpc *rpc);
/* Frees what was read and not delivered. */
void rpc_drop_input(struct mf_rpc *rpc);
/* Begins, or begins again, the grace of a close. */
void rpc_start_grace(struct mf_rpc *rpc);
void rpc_on_exit_timeout(struct deadline *d);

#endif
