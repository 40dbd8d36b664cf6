/* Options of sockets: what moonfork.socket sets by itself, and its method `option`. Both
 * sides; private to src/luafd. */
#ifndef LUAFD_OPTION_H
#define LUAFD_OPTION_H

#include "luafd/object.h"

/* For a descriptor that has become a moonfork.socket, made here or not. A TCP socket
 * sends at once what it is given: with Nagle's algorithm the second of two small writes
 * waits for the other side's delayed acknowledgement, some 40 ms. */
void option_set_defaults(const struct object *o);
/* socket:option(name [, value]) */
int option_method(lua_State *L);

#endif
