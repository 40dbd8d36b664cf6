/* A question and its whole answer over one socket. Both sides; private to src/socket. */
#ifndef SOCKET_COMMUNICATE_H
#define SOCKET_COMMUNICATE_H

#include "socket/socket.h"

extern const luaL_Reg communicate_methods[]; /* communicate */

#endif
