#include "template/lua/function_begin.h"

#include "socket/socket.h"

enum { INSTRUCTIONS_MAX = 300 };

static int is_write(lua_State *L, lua_Debug *ar) {
  lua_getinfo(L, "f", ar);
  lua_CFunction f = lua_tocfunction(L, -1);
  int is_lua = !lua_iscfunction(L, -1);
  lua_pop(L, 1);
  return is_lua || f == socket_write_method();
}

static void hook(lua_State *L, lua_Debug *ar) {
  if (sys_has_first() && ar->event != LUA_HOOKCOUNT && is_write(L, ar))
    return;
  lua_sethook(L, NULL, 0, 0);
  sys_flush_first();
}

void function_begin(lua_State *L) {
  if (!sys_has_first())
    return;
  if (lua_gethook(L)) /* the template's code wants it there */
    sys_flush_first();
  else
    lua_sethook(L, hook, LUA_MASKCALL | LUA_MASKCOUNT, INSTRUCTIONS_MAX);
}
