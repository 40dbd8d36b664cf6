/* Serving calls beside each other on luv's loop. Runs in clones. */
#ifndef TEMPLATE_RPC_ASYNC_H
#define TEMPLATE_RPC_ASYNC_H

#include "template/rpc/rpc_server.h"

void rpc_async_check(lua_State *L); /* raises where luv is missing: before READY */
/* Never returns. */
void rpc_async_serve(struct rpc_server *s, lua_State *L);

#endif
