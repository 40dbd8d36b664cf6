/* clone.on_term: a function in place of the end by SIGTERM. Runs in clones; templates
 * only keep the function for them. */
#ifndef TEMPLATE_LUA_ON_TERM_H
#define TEMPLATE_LUA_ON_TERM_H

#include <lua.h>

int on_term_set(lua_State *L); /* clone.on_term(f): f, or nil to take it back */
/* The interpreter was loaded from an image: whether it has such a function. */
void on_term_resume(lua_State *L);
/* The thread of Lua that runs from now on; its owner is the one that calls. */
void on_term_running(lua_State *L);
/* Before the function of `run`: from here on the signal is caught, where somebody asked.
 */
void on_term_enter(lua_State *L);
/* In a copy of the function's process that does not run it. */
void on_term_leave(void);
/* Between two waits: calls the function if the signal has come. May raise what it raises.
 */
void on_term_safe_point(lua_State *L);
/* A hook was taken off, or another thread of Lua runs: sees to it that the function is
 * called before the next instruction all the same. */
void on_term_look(lua_State *L);

#endif
