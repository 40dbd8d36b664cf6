/* moonfork.clone, and how a clone leaves. Runs in templates and clones; in a plain parent
 * on_fork and before_fork register for a later template() or early. */
#ifndef TEMPLATE_LUA_CLONE_LIB_H
#define TEMPLATE_LUA_CLONE_LIB_H

#include <lua.h>

/* Replaces os.exit and math.randomseed of a state that becomes a template's. May raise.
 */
void clone_lib_install(lua_State *L);
/* In a clone: objects with finalisers made from here on are this clone's own. May raise.
 */
void clone_lib_mark_birth(lua_State *L);
/* Calls the original math.randomseed with two numbers. May raise. */
void clone_lib_reseed(lua_State *L);

/* HOOK_BIRTH: the library's own, which run in a clone before those of HOOK_ON_FORK. */
enum clone_hook { HOOK_ON_FORK, HOOK_BEFORE_FORK, HOOK_BIRTH, HOOK_KINDS };
/* The interpreter was loaded from an image: how many hooks it has, and when goes_on is
 * set, which objects are its function's own. */
void clone_lib_resume(lua_State *L, int goes_on);
/* Whether any were registered in this process. */
int clone_lib_has_hooks(enum clone_hook kind);
/* Pushes the list of hooks, or nil. */
void clone_lib_push_hooks(lua_State *L, enum clone_hook kind);

#endif
