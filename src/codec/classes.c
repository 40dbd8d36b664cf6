/* The list is one table: {[name] = class, [metatable] = class}, and a class is a list. An
 * object goes by the name under which its metatable was registered last; an older name of
 * the same metatable is still read. */
#include "codec/classes.h"

#include <lauxlib.h>

/* Of the registry. The template program and a moonfork that is loaded there share it. */
#define CLASSES_KEY "moonfork.classes"

enum { NAME = 1, METATABLE, PACK, UNPACK };

static _Thread_local unsigned at_work;

int classes_at_work(void) {
  return at_work > 0;
}

/* ---- the list ---- */

/* Replaces what is on top by its class; 0: pops it. */
static int look_up(lua_State *L) {
  if (lua_getfield(L, LUA_REGISTRYINDEX, CLASSES_KEY) == LUA_TTABLE) {
    lua_insert(L, -2);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (lua_istable(L, -1))
      return 1;
    lua_pop(L, 1);
    return 0;
  }
  lua_pop(L, 2);
  return 0;
}

int classes_push_of(lua_State *L, int idx) {
  return lua_getmetatable(L, idx) && look_up(L);
}

int classes_push_named(lua_State *L, int idx) {
  lua_pushvalue(L, idx);
  return look_up(L);
}

const char *classes_name(lua_State *L, int class_idx, size_t *ret_n) {
  lua_rawgeti(L, class_idx, NAME);
  const char *name = lua_tolstring(L, -1, ret_n);
  lua_pop(L, 1); /* the class has it still */
  return name;
}

/* ---- register ---- */

/* Stack: name, ..., list on top. Forgets the class of that name; its metatable only where
 * that has no later name. */
static void unregister(lua_State *L) {
  int list = lua_gettop(L);
  lua_pushvalue(L, 1);
  if (lua_rawget(L, list) == LUA_TTABLE) {
    lua_rawgeti(L, -1, METATABLE);
    lua_pushvalue(L, -1);
    lua_rawget(L, list);
    if (lua_rawequal(L, -1, -3)) {
      lua_pushvalue(L, -2);
      lua_pushnil(L);
      lua_rawset(L, list);
    }
    lua_pushvalue(L, 1);
    lua_pushnil(L);
    lua_rawset(L, list);
  }
  lua_settop(L, list);
}

static void check_function(lua_State *L, int arg) {
  if (lua_isfunction(L, arg))
    return;
  if (luaL_getmetafield(L, arg, "__call") == LUA_TNIL)
    luaL_typeerror(L, arg, "function");
  lua_pop(L, 1);
}

int classes_register(lua_State *L) {
  luaL_checktype(L, 1, LUA_TSTRING);
  size_t n = lua_rawlen(L, 1);
  luaL_argcheck(L, n > 0 && n <= CLASS_NAME_MAX, 1,
                "the name of a class has 1 to 255 bytes");
  luaL_checkany(L, 2);
  int removes = lua_isnil(L, 2);
  if (!removes) {
    luaL_checktype(L, 2, LUA_TTABLE);
    check_function(L, 3);
    check_function(L, 4);
  }
  lua_settop(L, 4);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, CLASSES_KEY); /* 5 */
  lua_createtable(L, UNPACK, 0);                       /* 6 */
  for (int i = NAME; i <= UNPACK; i++) {
    lua_pushvalue(L, i);
    lua_rawseti(L, -2, i);
  }
  lua_insert(L, 5);
  unregister(L);
  if (removes)
    return 0;
  for (int key = NAME; key <= METATABLE; key++) {
    lua_pushvalue(L, key);
    lua_pushvalue(L, 5);
    lua_rawset(L, 6);
  }
  return 0;
}

/* ---- the functions ---- */

static int to_text(lua_State *L) {
  luaL_tolstring(L, 1, NULL);
  return 1;
}

/* Replaces the error object on top by a text. */
static void describe(lua_State *L) {
  if (lua_type(L, -1) == LUA_TSTRING)
    return;
  lua_pushcfunction(L, to_text);
  lua_insert(L, -2);
  lua_pcall(L, 1, 1, 0);
}

static int call(lua_State *L, int class_idx, int function, int idx) {
  lua_rawgeti(L, class_idx, function);
  lua_pushvalue(L, idx);
  at_work++; /* nothing raises from here on */
  int status = lua_pcall(L, 1, 1, 0);
  at_work--;
  if (status == LUA_OK)
    return 0;
  describe(L);
  return -1;
}

int classes_pack(lua_State *L, int class_idx, int idx) {
  return call(L, class_idx, PACK, idx);
}

int classes_unpack(lua_State *L, int class_idx, int idx) {
  return call(L, class_idx, UNPACK, idx);
}
