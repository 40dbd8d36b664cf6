/* The calls that an rpc has. Each stays in the id map until its answer has come, also
 * when its callback has been called before: cancelled, or timed out. Runs in the parent.
 */
#ifndef PARENT_RPC_RPC_CALL_H
#define PARENT_RPC_RPC_CALL_H

#include "parent/rpc/rpc_record.h"

void rpc_init_calls(struct mf_rpc *rpc);
/* Behind the others; with its request, where it needs one. */
void rpc_call_park(struct call *c);
/* A parked call is so no more: its request is let go, but a pool's. */
void rpc_call_unpark(struct call *c);
/* It has its answer, e or m. */
void rpc_call_end(struct call *c, const mf_error *e, const mf_message *m);
/* All of it was sent. Before, nobody can have entered it, and once the rpc is given up
 * nobody will. */
int rpc_call_has_left(const struct call *c);
/* It never gets one (code 0: the rpc's failure): it fails, or goes back to the owner. */
void rpc_call_lose(struct call *c, int code, int started);
/* One that it has not answered. */
int rpc_has_calls(const struct mf_rpc *rpc);
/* c is new, and the rpc over: it fails like it, after those that were there before. */
void rpc_fail_late(struct call *c);
/* For the task: once the rpc is over every call fails like it; callbacks of errors are
 * called, and lost calls given back, as many as the turn has steps for. 1 when more are
 * pending. */
int rpc_notify(struct mf_rpc *rpc);
/* When the first of the calls times out; UINT64_MAX: never. */
uint64_t rpc_first_timeout(const struct mf_rpc *rpc);

#endif
