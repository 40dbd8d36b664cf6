/* See module_clone.h. A userdata that was called, or is not needed any more, loses its
 * metatable: as garbage it would still be found by the next copy. */
#include "template/image/module_clone.h"

#include "base/copied.h"

#include <lauxlib.h>

#define LIST "moonfork.modules with __clone" /* in the registry: name = userdata */
#define NAME "moonfork.module"

static void forget(lua_State *L, int index) {
  index = lua_absindex(L, index);
  lua_pushnil(L);
  lua_setmetatable(L, index);
}

static void forget_list(lua_State *L) {
  lua_pushnil(L);
  lua_setfield(L, LUA_REGISTRYINDEX, LIST);
}

/* __clone of the userdata. */
static int l_clone(lua_State *L) {
  luaL_checktype(L, 1, LUA_TUSERDATA);
  forget(L, 1);
  forget_list(L);
  lua_getiuservalue(L, 1, 1);
  if (luaL_getmetafield(L, -1, COPIED_FIELD) != LUA_TNIL) {
    lua_insert(L, -2);
    lua_call(L, 1, 0);
  }
  return 0;
}

static void vouch_for_all(lua_State *L, void (*vouch)(void *data, lua_CFunction f),
                          void *data) { /* module | module */
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    lua_CFunction f = lua_tocfunction(L, -1);
    if (f)
      vouch(data, f);
    lua_pop(L, 1);
  }
}

static void add(lua_State *L, int list) { /* name, module | name, module */
  *(char *)lua_newuserdatauv(L, 1, 1) = 0;
  lua_pushvalue(L, -2);
  lua_setiuservalue(L, -2, 1);
  lua_createtable(L, 0, 2);
  lua_pushcfunction(L, l_clone);
  lua_setfield(L, -2, COPIED_FIELD);
  lua_pushliteral(L, NAME);
  lua_setfield(L, -2, "__name");
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -3);
  lua_insert(L, -2);
  lua_rawset(L, list);
}

void module_clone_make(lua_State *L, void (*vouch)(void *data, lua_CFunction f),
                       void *data) {
  int top = lua_gettop(L);
  luaL_checkstack(L, 12, NULL);
  if (lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE) != LUA_TTABLE) {
    lua_settop(L, top);
    return;
  }
  lua_newtable(L);
  int nmodules = 0;
  lua_pushnil(L);
  while (lua_next(L, top + 1)) {
    if (lua_istable(L, -1) && luaL_getmetafield(L, -1, COPIED_FIELD) != LUA_TNIL) {
      lua_pop(L, 1);
      vouch_for_all(L, vouch, data);
      add(L, top + 2);
      nmodules++;
    }
    lua_pop(L, 1);
  }
  if (nmodules)
    lua_setfield(L, LUA_REGISTRYINDEX, LIST);
  lua_settop(L, top);
}

void module_clone_drop(lua_State *L) {
  int top = lua_gettop(L);
  luaL_checkstack(L, 8, NULL);
  if (lua_getfield(L, LUA_REGISTRYINDEX, LIST) == LUA_TTABLE) {
    lua_pushnil(L);
    while (lua_next(L, top + 1)) {
      forget(L, -1);
      lua_pop(L, 1);
    }
    forget_list(L);
  }
  lua_settop(L, top);
}
