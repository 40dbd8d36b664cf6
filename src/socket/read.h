/* Reading by formats. Both sides; private to src/socket. */
#ifndef SOCKET_READ_H
#define SOCKET_READ_H

#include "socket/socket.h"

extern const luaL_Reg read_methods[]; /* read, lines */

#endif
