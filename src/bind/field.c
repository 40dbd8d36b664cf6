/* Fields of a checked table (field.h). Runs in the parent. */
#include "bind/field.h"

#include <lauxlib.h>

const char *field_string(lua_State *L, int idx, const char *key) {
  lua_getfield(L, idx, key);
  return luaL_optstring(L, -1, NULL); /* the slot stays */
}

lua_Integer field_integer(lua_State *L, int idx, const char *key, lua_Integer standard) {
  lua_getfield(L, idx, key);
  lua_Integer n = luaL_optinteger(L, -1, standard);
  lua_pop(L, 1);
  return n;
}

int field_flag(lua_State *L, int idx, const char *key) {
  lua_getfield(L, idx, key);
  int on = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return on;
}
