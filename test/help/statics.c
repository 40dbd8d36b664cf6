/* statics: a C module with variables of every kind, for stories of images. Compiled
 * twice: as a library with one variable, and as the module, which needs that library. */
#ifdef STATICS_LIBRARY
int statics_of_library;

__attribute__((visibility("default"))) int *statics_library(void);

int *statics_library(void) {
  return &statics_of_library;
}
#else
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

int *statics_library(void);

static int counter;
static int initialised = 41;
static _Thread_local int of_thread;
static int *constructed; /* malloc's, from the time when the module is loaded */
static const char *chosen = "first";
static const char other[] = "second";
static int *allocated;

__attribute__((constructor)) static void construct(void) {
  constructed = malloc(sizeof *constructed);
  if (constructed)
    *constructed = 1;
}

static int *place_of(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  if (strcmp(name, "counter") == 0)
    return &counter;
  if (strcmp(name, "initialised") == 0)
    return &initialised;
  if (strcmp(name, "thread") == 0)
    return &of_thread;
  return statics_library();
}

static int l_get(lua_State *L) {
  lua_pushinteger(L, *place_of(L));
  return 1;
}

static int l_set(lua_State *L) {
  *place_of(L) = (int)luaL_checkinteger(L, 2);
  return 0;
}

/* "forget": the constructed; "choose": another text of the module; "allocate": a block of
 * malloc's; "interpreter": memory of Lua's in the place of the constructed. */
static int l_point(lua_State *L) {
  const char *what = luaL_checkstring(L, 1);
  if (strcmp(what, "forget") == 0)
    constructed = NULL;
  else if (strcmp(what, "choose") == 0)
    chosen = other;
  else if (strcmp(what, "allocate") == 0)
    allocated = malloc(sizeof *allocated);
  else
    constructed = lua_touserdata(L, 2);
  lua_pushboolean(L, chosen && (constructed || allocated));
  return 1;
}

__attribute__((visibility("default"))) int luaopen_statics(lua_State *L);

int luaopen_statics(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"get", l_get}, {"set", l_set}, {"point", l_point}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
#endif
