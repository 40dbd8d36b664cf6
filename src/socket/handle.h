/* The descriptor behind any value that has one. Both sides. */
#ifndef SOCKET_HANDLE_H
#define SOCKET_HANDLE_H

#include <lua.h>

/* The descriptor behind the value at idx: an integer, an io file, a moonfork.socket, or
 * an object that answers fileno, getfd, pollfd or fd (in this order; methods are called,
 * plain integer fields are taken; may raise what the method raises). Returns the number
 * (borrowed, checked to be open with fcntl), or -1 with a message pushed ("... is no open
 * descriptor"); raises an argument error where the value is of no such kind. */
int handle_check(lua_State *L, int idx);
/* Whether the value at idx is of such a kind, open or not. */
int handle_is_kind(lua_State *L, int idx);

#endif
