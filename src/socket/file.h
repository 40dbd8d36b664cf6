/* From a socket to a file of Lua's io library. Both sides; private to src/socket. */
#ifndef SOCKET_FILE_H
#define SOCKET_FILE_H

#include "socket/socket.h"

extern const luaL_Reg file_methods[]; /* file */

#endif
