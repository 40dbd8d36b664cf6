/* The table of methods. Both sides; private to src/socket. */
#ifndef SOCKET_METHODS_H
#define SOCKET_METHODS_H

#include <lua.h>

/* Makes it, once a state. May raise (memory). */
void methods_open(lua_State *L);

#endif
