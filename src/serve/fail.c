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
