/* The beginning of a function: that it runs is told with the first bytes that it writes
 * to its socket, if those come soon. Else it is told before any other function of C is
 * called, so that nobody can see anything that it does before that was told; and after a
 * few instructions at the latest. (Finalisers have no hooks: serve/runner.c sees to
 * them.) Each message by itself would wake its receiver, which takes longer than all that
 * a clone does up to there. Runs in clones. */
#ifndef TEMPLATE_LUA_FUNCTION_BEGIN_H
#define TEMPLATE_LUA_FUNCTION_BEGIN_H

#include <lua.h>

/* L is about to be given its function: sees to it, if something is to be told
 * (sys_write_first). */
void function_begin(lua_State *L);

#endif
