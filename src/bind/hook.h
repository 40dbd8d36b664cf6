/* What a signal asks of an interpreter that waits in here. Its handler may do nothing but
 * set a hook, as that of lua5.4 does at Ctrl-C, and a hook runs when Lua code does. A
 * signal that comes while the process sleeps ends the sleep; one that comes with
 * something to do for the loop, or during a turn, only leaves its hook. Runs in the
 * parent. */
#ifndef BIND_HOOK_H
#define BIND_HOOK_H

#include <lua.h>

/* Whether it is another than before, when Lua code ran last: who waits lets it run. */
static inline int hook_is_new(lua_State *L, lua_Hook before) {
  return lua_gethook(L) != before;
}

#endif
