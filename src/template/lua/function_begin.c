#include "template/lua/function_begin.h"

#include "socket/socket.h"
#include "template/lua/on_term.h"

enum { INSTRUCTIONS_MAX = 300 };

static int is_write(lua_State *L, lua_Debug *ar) {
  lua_getinfo(L, "f", ar);
  lua_CFunction f = lua_tocfunction(L, -1);
  int is_lua = !lua_iscfunction(L, -1);
  lua_pop(L, 1);
  return is_lua || f == socket_write_method();
}

/* A signal's handler may set a hook meanwhile, which is lost by that: it is set again. */
static void set(lua_State *L, lua_Hook f, int mask, int count) {
  lua_sethook(L, f, mask, count);
  on_term_running(L);
  on_term_look(L);
}

static void hook(lua_State *L, lua_Debug *ar) {
  if (sys_has_first() && ar->event != LUA_HOOKCOUNT && is_write(L, ar))
    return;
  set(L, NULL, 0, 0);
  sys_flush_first();
}

void function_begin(lua_State *L) {
  if (!sys_has_first())
    return;
  if (lua_gethook(L)) /* the template's code wants it there */
    sys_flush_first();
  else
    set(L, hook, LUA_MASKCALL | LUA_MASKCOUNT, INSTRUCTIONS_MAX);
}
