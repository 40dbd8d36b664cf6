/* FORK (wire/rpc_proto.h): between two calls, the process of a synchronous server forks a
 * copy that serves commands, and can be the template of further servers. Runs in clones.
 *
 * These are given what this one was given, init's arguments too. So those are remembered
 * from the start on: strings, and handles as long as init keeps them. */
#ifndef TEMPLATE_RPC_RPC_FORK_H
#define TEMPLATE_RPC_RPC_FORK_H

#include "template/rpc/rpc_server.h"

/* Remembers nargs arguments from first on. May raise (memory). */
void rpc_fork_remember(lua_State *L, int first, int nargs);
/* Forks, and queues the answer; the copy does not return. The socket is at index 1. */
void rpc_fork_run(struct rpc_server *s, lua_State *L, const struct rpc_call *call);

#endif
