/* Connections: how they are made and taken. Both sides; private to src/socket. */
#ifndef SOCKET_NET_H
#define SOCKET_NET_H

#include "socket/socket.h"

extern const luaL_Reg net_functions[]; /* connect, listen */
extern const luaL_Reg net_methods[];   /* accept */

#endif
