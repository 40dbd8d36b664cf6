/* Waiting for several sockets at once. Both sides; private to src/socket. */
#ifndef SOCKET_READY_H
#define SOCKET_READY_H

#include "socket/socket.h"

extern const luaL_Reg poll_functions[]; /* poll */

#endif
