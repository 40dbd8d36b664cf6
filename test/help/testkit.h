/* testkit's files: testkit.c has the module. */
#ifndef TESTKIT_H
#define TESTKIT_H

#include <lauxlib.h>
#include <lua.h>

/* The result, or nil, message, errno where it is negative. */
int kit_pushed(lua_State *L, long result);
/* True, or nil, message, errno where it is not 0. */
int kit_told(lua_State *L, int result);

extern const luaL_Reg kit_unfit_functions[];

#endif
