/* moonfork.socket: the descriptor object of both sides (API 1.7). In a clone its methods
 * block by poll(2); in a parent they wait through a function that the binding sets, so
 * that the reactor turns or a coroutine is suspended. Needs base, os and lua only.
 *
 * The metatable's registry name carries the build id and whether this copy is the program
 * or the module, so that a template program and a module loaded into it don't mix. */
#ifndef LUAFD_LUAFD_H
#define LUAFD_LUAFD_H

#include <lua.h>

enum luafd_kind {
  LUAFD_OWN = 0,    /* a description that the library created: may be switched blocking or not */
  LUAFD_FOREIGN = 1 /* sent, inherited or wrapped: its blocking flag is never changed */
};

/* Pushes a moonfork.socket that owns fd. Takes fd, even when it raises (memory). The fd is
 * made close-on-exec. */
void luafd_push(lua_State *L, int fd, enum luafd_kind kind);
/* The descriptor behind the value at idx: an integer, an io file, a moonfork.socket, or an
 * object that answers fileno, getfd, pollfd or fd (in this order; methods are called, plain
 * integer fields are taken; may raise what the method raises). Returns the number (borrowed,
 * checked to be open with fcntl), or -1 with a message pushed ("... is no open descriptor");
 * raises an argument error where the value is of no such kind. */
int luafd_check(lua_State *L, int idx);
/* The module table (pair, listen, connect, open, wrap). Leaves it on the stack. */
int luafd_open(lua_State *L);
/* How sockets of this state wait: a function wait(fd, events, timeout) -> true | false
 * ("timed out") | nil, message; events "r", "w" or "rw", timeout seconds or nil. It may
 * yield. Pops it from the stack; nil: poll(2). Methods call it with lua_callk when an
 * operation would block. */
void luafd_set_wait(lua_State *L);

#endif
