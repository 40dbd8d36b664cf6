/* Chunks: many items of pool:map in one message, and their answers. Runs in the parent.
 */
#ifndef BIND_LUA_CHUNK_H
#define BIND_LUA_CHUNK_H

#include <lauxlib.h>

void chunk_open(lua_State *L); /* registers the metatable */
extern const luaL_Reg bind_chunk_functions[];

#endif
