/* Descriptors that go along with bytes. Both sides; private to src/socket. */
#ifndef SOCKET_PASS_H
#define SOCKET_PASS_H

#include "socket/socket.h"

extern const luaL_Reg pass_methods[]; /* send_fd, recv_fd */

#endif
