/* The modules of a template's Lua that C code of a host opens, too. Implemented where
 * each of them lives (lua/script.c, lua/clone_lib.c, rpc/rpc_serve.c). */
#ifndef TEMPLATE_MODULES_H
#define TEMPLATE_MODULES_H

#include <lua.h>

/* 1 where L belongs to a template program; 0: to any other. Raises where that is of another
 * build than this code, which is that of a module (its name): they would take each other's
 * objects for their own. */
int template_check_build(lua_State *L, const char *module);
/* Opens moonfork.clone on L (also in a plain parent, where on_fork and before_fork
 * register for a later template() or early, and the rest works or says that this is no
 * clone). Leaves the module table on the stack; a lua_CFunction. */
int template_open_clone(lua_State *L);
/* registry[TEMPLATE_ON_BIRTH] is there as soon as moonfork.clone was opened: a function as
 * on_fork, for hooks of the library itself, which run before those of anybody. */
#define TEMPLATE_ON_BIRTH "moonfork.on_birth"
/* The same as template_open_clone for moonfork.rpc (serve, event, flush) and moonfork.pool
 * (retire). */
int template_open_rpc(lua_State *L);
int template_open_pool(lua_State *L);
/* Pushes what the audit can find: {NAME = {kind=, severity=, why=, remedy=}}. A
 * lua_CFunction. */
int template_push_finding_kinds(lua_State *L);

#endif
