/* coroutine.resume and wrap that say which thread of Lua runs, and pass hibernation on;
 * yield and isyieldable for which the function of run is no coroutine; and a
 * debug.sethook that does not lose a hook of ours. Runs in templates and clones. */
#ifndef TEMPLATE_LUA_COROUTINE_H
#define TEMPLATE_LUA_COROUTINE_H

#include <lua.h>

void coroutine_install(
    lua_State *L); /* after the libraries are open. May raise (memory) */

#endif
