/* Serving one call after the other. Runs in clones. */
#ifndef TEMPLATE_RPC_SYNC_H
#define TEMPLATE_RPC_SYNC_H

#include "template/rpc/rpc_server.h"

/* 0: orderly, or the parent is gone; else a negated errno. */
int rpc_sync_serve(struct rpc_server *s, lua_State *L);

#endif
