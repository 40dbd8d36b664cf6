/* Rpcs. Runs in the parent. */
#ifndef BIND_RPC_SERVICE_H
#define BIND_RPC_SERVICE_H

#include "bind/service.h"

/* Options from the normalised table at idx: of an rpc, or of the rpcs of a pool. Strings
 * are borrowed from the stack. May raise. */
void rpc_options_read(lua_State *L, int idx, mf_rpc_options *o);

#endif
