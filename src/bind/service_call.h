/* Calls. Runs in the parent. */
#ifndef BIND_SERVICE_CALL_H
#define BIND_SERVICE_CALL_H

#include <lua.h>

void call_open(lua_State *L); /* registers the metatables */

#endif
