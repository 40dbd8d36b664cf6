/* Options of a process. Runs in the parent. */
#ifndef BIND_LUA_OPTIONS_H
#define BIND_LUA_OPTIONS_H

#include "bind/reactor.h"

/* Options from the normalised table at idx (nil: none), in memory that lives as long as
 * the values it pushes: an unknown number of stack slots stays in use. May raise. */
void bind_options_read(lua_State *L, int idx, struct reactor *r, mf_options *ret);

#endif
