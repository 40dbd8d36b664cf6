/* objects: userdata as C modules make it, for stories about copies of interpreters.
 *
 *   new(metatable or nil [, user values])
 *                      4 words, zero
 *   set(object, i, what)
 *                      word i, from 1: "malloc", "variable", "function", "self", a number
 *   get(object, i)     the word, as a number
 *   kind(object, i)    "zero", "variable" or "function" of this module, "self", "other"
 *   free(object)       a finaliser: frees the first word, once
 *   renew(object)      a __clone in C: the first word becomes memory of its own
 *   light()            a light userdata that leads to memory from malloc
 *   gc_count()         how often free was called in this process
 */
#include <lauxlib.h>
#include <lua.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { WORDS = 4, BLOCK = 64 };
static int a_variable, ngc;

static void **word_at(lua_State *L) {
  void **words = lua_touserdata(L, 1);
  lua_Integer i = luaL_checkinteger(L, 2);
  luaL_argcheck(L, words && i >= 1 && i <= WORDS, 2, "no such word");
  return &words[i - 1];
}

static int l_new(lua_State *L) {
  void **words =
      lua_newuserdatauv(L, WORDS * sizeof *words, (int)luaL_optinteger(L, 2, 0));
  memset(words, 0, WORDS * sizeof *words);
  if (lua_istable(L, 1)) {
    lua_pushvalue(L, 1);
    lua_setmetatable(L, -2);
  }
  return 1;
}

static int l_set(lua_State *L) {
  static const char *const names[] = {"malloc", "variable", "function", "self", NULL};
  void **word = word_at(L);
  if (lua_type(L, 3) == LUA_TNUMBER) {
    *word = (void *)(uintptr_t)luaL_checkinteger(L, 3);
    return 0;
  }
  switch (luaL_checkoption(L, 3, NULL, names)) {
  case 0:
    *word = calloc(1, BLOCK);
    return *word ? 0 : luaL_error(L, "not enough memory");
  case 1:
    *word = &a_variable;
    return 0;
  case 2:
    *word = (void *)(uintptr_t)&l_new;
    return 0;
  default:
    *word = lua_touserdata(L, 1);
    return 0;
  }
}

static int l_light(lua_State *L) {
  void *block = calloc(1, BLOCK);
  if (!block)
    return luaL_error(L, "not enough memory");
  lua_pushlightuserdata(L, block);
  return 1;
}

static int l_get(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)(uintptr_t)*word_at(L));
  return 1;
}

static int l_kind(lua_State *L) {
  const void *word = *word_at(L);
  lua_pushstring(L, !word                                     ? "zero"
                    : word == &a_variable                     ? "variable"
                    : word == (const void *)(uintptr_t)&l_new ? "function"
                    : word == lua_touserdata(L, 1)            ? "self"
                                                              : "other");
  return 1;
}

static int l_free(lua_State *L) {
  void **words = lua_touserdata(L, 1);
  ngc++;
  free(words[0]);
  words[0] = NULL;
  return 0;
}

static int l_renew(lua_State *L) {
  void **words = lua_touserdata(L, 1);
  words[0] = calloc(1, BLOCK);
  return words[0] ? 0 : luaL_error(L, "not enough memory");
}

static int l_gc_count(lua_State *L) {
  lua_pushinteger(L, ngc);
  return 1;
}

__attribute__((visibility("default"))) int luaopen_objects(lua_State *L);
int luaopen_objects(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"new", l_new},     {"set", l_set},           {"get", l_get},
      {"kind", l_kind},   {"free", l_free},         {"renew", l_renew},
      {"light", l_light}, {"gc_count", l_gc_count}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
