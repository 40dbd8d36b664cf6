/* Options of sockets. Both sides; private to src/socket. */
#ifndef SOCKET_OPTION_H
#define SOCKET_OPTION_H

#include "socket/socket.h"

extern const luaL_Reg option_methods[]; /* option */

#endif
