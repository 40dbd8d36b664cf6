/* Options of sockets: what moonfork.socket sets by itself, and its method `option`. Both
 * sides; private to src/socket. */
#ifndef SOCKET_OPTION_H
#define SOCKET_OPTION_H

#include "socket/socket.h"

/* For a descriptor that has become a moonfork.socket, made here or not. A TCP socket
 * sends at once what it is given: with Nagle's algorithm the second of two small writes
 * waits for the other side's delayed acknowledgement, some 40 ms. */
void option_set_defaults(const struct socket *o);
/* socket:option(name [, value]) */
int option_method(lua_State *L);

#endif
