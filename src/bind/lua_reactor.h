/* The box of a Lua state. Runs in the parent. */
#ifndef BIND_LUA_REACTOR_H
#define BIND_LUA_REACTOR_H

#include "bind/reactor.h"

/* Makes the box, pushes it. Its finaliser cancels everything and empties the loop. */
struct box *box_open(lua_State *L);

#endif
