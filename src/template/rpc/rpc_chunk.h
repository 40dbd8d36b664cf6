/* A chunk of items for a synchronous function, which is called for each. Runs in clones.
 */
#ifndef TEMPLATE_RPC_CHUNK_H
#define TEMPLATE_RPC_CHUNK_H

#include "template/rpc/rpc_server.h"

/* Answers the chunk that call is. handler: the index of rpc_server_on_error; keeps the
 * stack. */
void rpc_chunk_run(struct rpc_server *s, lua_State *L, const struct rpc_call *call,
                   int handler);
/* Answers it with an error: the function is asynchronous. */
void rpc_chunk_refuse(struct rpc_server *s, const struct rpc_call *call);

#endif
