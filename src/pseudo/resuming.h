/* coroutine.resume, wrap, yield, running and isyieldable for a program that is itself a
 * coroutine: they behave as Lua's do for one that is not, and let a fork pass: it yields
 * out to the driver through every coroutine, and comes back the same way. */
#ifndef PSEUDO_RESUMING_H
#define PSEUDO_RESUMING_H

#include <lua.h>

/* Puts them into the table at the top. */
void resuming_open(lua_State *L);
/* fork(): yields to the driver, and gives its result: a number, or nil and why not. */
int resuming_fork(lua_State *L);
/* Has the code of L end: an error in each instruction of Lua, until none is left. Raises
 * it. */
int resuming_leave(lua_State *L);
/* The hook that does it. */
void resuming_hook(lua_State *L, lua_Debug *ar);

#endif
