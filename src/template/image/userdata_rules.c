/* See userdata_rules.h. */
#include "template/image/userdata_rules.h"

#include "image/layout54.h"
#include "template/audit/heap_walk.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

enum { NAMED_MAX = 320 };

/* Pushes a userdata by its address. */
static void push_userdata(lua_State *L, struct l54_object *o) {
  luaL_checkstack(L, 8, NULL);
  lua_pushnil(L);
  struct l54_cell *cell = l54_thread(L)->top - 1;
  cell->word.pointer = o;
  cell->tag = L54_USERDATA | L54_IS_OBJECT;
}

static const char *type_name(lua_State *L, int index) { /* leaves it on the stack */
  if (luaL_getmetafield(L, index, "__name") == LUA_TSTRING)
    return lua_tostring(L, -1);
  lua_pushliteral(L, "?");
  return lua_tostring(L, -1);
}

static int has_field(lua_State *L, int index, const char *name) {
  int type = luaL_getmetafield(L, index, name);
  if (type != LUA_TNIL)
    lua_pop(L, 1);
  return type != LUA_TNIL;
}

void rules_name(lua_State *L, const void *object, char *text, size_t n) {
  char path[NAMED_MAX - 120];
  int top = lua_gettop(L);
  push_userdata(L, (struct l54_object *)(uintptr_t)object);
  heap_walk_path(L, lua_topointer(L, -1), path, sizeof path);
  snprintf(text, n, "userdata of type %.80s (%s)", type_name(L, top + 1), path);
  lua_settop(L, top);
}

/* ---- the rules ---- */

/* Does it have a descriptor? Asked of objects of ours. */
static int is_open_socket(lua_State *L, int index) {
  int fd = -1;
  if (luaL_getmetafield(L, index, "__index") == LUA_TTABLE &&
      lua_getfield(L, -1, "getfd") == LUA_TFUNCTION) {
    lua_pushvalue(L, index);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_isinteger(L, -1))
      fd = (int)lua_tointeger(L, -1);
  }
  lua_settop(L, index + 1);
  return fd >= 0;
}

static int begins_with(const char *text, const char *with) {
  return strncmp(text, with, strlen(with)) == 0;
}

/* NULL: it may be copied. index: the userdata, at the top. */
static const char *obstacle(lua_State *L, const struct libraries *objects, int index) {
  const char *name = type_name(L, index);
  if (strcmp(name, LUA_FILEHANDLE) == 0) /* its stream is looked at as an address */
    return NULL;
  if (strcmp(name, "moonfork.socket") == 0)
    return is_open_socket(L, index) ? "is open; close it, and open it again after loading"
                                    : NULL;
  if (begins_with(name, "tcp{") || begins_with(name, "udp{") ||
      begins_with(name, "unix{")) /* luasocket's begin with the descriptor */
    return lua_rawlen(L, index) >= sizeof(int) && *(int *)lua_touserdata(L, index) >= 0
               ? "is open; close it, and open it again after loading"
               : NULL;
  if (strcmp(name, "lpeg-pattern") == 0 || has_field(L, index, "__clone"))
    return NULL;
  lua_settop(L, index);
  if (luaL_getmetafield(L, index, "__gc") == LUA_TNIL)
    return NULL;
  lua_CFunction gc = lua_tocfunction(L, -1);
  const struct library *o = gc ? libraries_find(objects, (uint64_t)(uintptr_t)gc) : NULL;
  if (!gc || (o && !*o->path)) /* in Lua, or of this program's own */
    return NULL;
  return "has a finaliser, and nobody has said that it may be copied; a function __clone "
         "in its metatable, which is called with the copy, says so";
}

static void check_list(lua_State *L, const struct libraries *objects,
                       struct l54_object *first, char *text, size_t n) {
  int top = lua_gettop(L);
  for (struct l54_object *o = first; o && !*text; o = o->next) {
    if (o->type != L54_USERDATA || !((struct l54_userdata *)o)->metatable)
      continue;
    push_userdata(L, o);
    const char *why = obstacle(L, objects, top + 1);
    lua_settop(L, top);
    if (!why)
      continue;
    char what[NAMED_MAX];
    rules_name(L, o, what, sizeof what);
    snprintf(text, n, "%s %s", what, why);
  }
}

void rules_check(lua_State *L, const struct libraries *objects, char *text, size_t n) {
  const struct l54_global *g = l54_thread(L)->global;
  *text = '\0';
  check_list(L, objects, g->with_finaliser, text, n);
  check_list(L, objects, g->to_finalise, text, n);
}

/* ---- in the copy ---- */

static void clone_list(lua_State *L, struct l54_object *first) {
  int top = lua_gettop(L);
  for (struct l54_object *o = first; o; o = o->next) {
    if (o->type != L54_USERDATA || !((struct l54_userdata *)o)->metatable)
      continue;
    push_userdata(L, o);
    if (luaL_getmetafield(L, top + 1, "__clone") != LUA_TNIL) {
      lua_pushvalue(L, top + 1);
      lua_call(L, 1, 0);
    }
    lua_settop(L, top);
  }
}

/* Only those with a finaliser: others are plain memory, and looking for them would read
 * all of the image. */
void rules_call_clone(lua_State *L) {
  clone_list(L, l54_thread(L)->global->with_finaliser);
}
