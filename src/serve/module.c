#include "serve/module.h"

#include <lauxlib.h>
#include <string.h>

int serve_fail(lua_State *L, int error, const char *what) {
  luaL_pushfail(L);
  if (what)
    lua_pushfstring(L, "%s: %s", what, strerror(error));
  else
    lua_pushstring(L, strerror(error));
  lua_pushinteger(L, error);
  return 3;
}

__attribute__((visibility("default"))) int luaopen_moonfork_serve_core(lua_State *L);

int luaopen_moonfork_serve_core(lua_State *L) {
  lua_newtable(L);
  board_open(L);
  user_open(L);
  tree_open(L);
  return 1;
}
