#include "image/blocker.h"

#include "image/layout54.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

enum { FRAME_YIELDS = 1 << 4, FRAME_FINALISER = 1 << 7, FRAME_HOOK = 1 << 3 };

/* "string.gsub", as it is called in package.loaded; else the name that the caller uses;
 * else nil. */
static void push_name(lua_State *L, lua_Debug *ar) {
  int top = lua_gettop(L);
  lua_getinfo(L, "nf", ar); /* the function */
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushnil(L);
  while (lua_next(L, top + 2)) {
    if (lua_type(L, -2) == LUA_TSTRING && lua_istable(L, -1)) {
      lua_pushnil(L);
      while (lua_next(L, -2)) {
        if (lua_rawequal(L, -1, top + 1) && lua_type(L, -2) == LUA_TSTRING) {
          const char *module = lua_tostring(L, top + 3), *name = lua_tostring(L, -2);
          if (!strcmp(module, "_G"))
            lua_pushstring(L, name);
          else
            lua_pushfstring(L, "%s.%s", module, name);
          lua_replace(L, top + 1);
          lua_settop(L, top + 1);
          return;
        }
        lua_pop(L, 1);
      }
    }
    lua_pop(L, 1);
  }
  lua_settop(L, top);
  lua_pushstring(L, ar->name);
}

/* A continuation, and no rest of a Lua function that had the frame before. It may be the
 * rest of a C function that had it: so `strict` looks at those frames, too, when no other
 * is found. */
static int has_continuation(const struct l54_frame *f, const void *heap) {
  uintptr_t at = (uintptr_t)f->as.c.continuation;
  uint64_t distance = at - (uintptr_t)heap; /* wider than pointers of 32 bits */
  return at && distance >= (uint64_t)64 << 30;
}

/* Lua's functions that can be left, though not when they are called inside of one that
 * can't: it is in the way then, not they. */
static int passes(lua_State *L, const struct l54_frame *f) {
  static const char *const names[] = {"pcall", "xpcall", "dofile"};
  int found = 0;
  if (f->function->tag != L54_LIGHT_C_FUNCTION)
    return 0;
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, LUA_GNAME);
  for (size_t i = 0; i < sizeof names / sizeof *names && lua_istable(L, -1); i++) {
    lua_pushstring(L, names[i]);
    lua_rawget(L, -2);
    lua_CFunction known = lua_tocfunction(L, -1);
    found |= known && f->function->word.pointer == (void *)(uintptr_t)known;
    lua_pop(L, 1);
  }
  lua_pop(L, 2);
  return found;
}

static int is_in_the_way(lua_State *L, const struct l54_frame *f, const void *heap,
                         int strict) {
  if (f->state & (FRAME_FINALISER | FRAME_HOOK))
    return 1;
  if (!(f->state & L54_FRAME_OF_C) || f->state & FRAME_YIELDS || passes(L, f))
    return 0;
  return strict || !has_continuation(f, heap);
}

/* The line of Lua that has led there: of the first Lua function outside of a level. */
static void add_place(lua_State *L, int level, char *text, size_t size) {
  lua_Debug ar;
  while (lua_getstack(L, ++level, &ar) && lua_getinfo(L, "Sl", &ar))
    if (ar.currentline > 0) {
      snprintf(text, size, ", called at %s:%d", ar.short_src, ar.currentline);
      return;
    }
}

int blocker_name(lua_State *L, int from, const void *heap, int strict, char *text,
                 size_t size) {
  lua_Debug ar;
  int found = 0;
  luaL_checkstack(L, 8, NULL);
  for (int level = from; lua_getstack(L, level, &ar); level++) {
    const struct l54_frame *f = (const struct l54_frame *)(const void *)ar.i_ci;
    if (!is_in_the_way(L, f, heap, strict))
      continue;
    if (f->state & (FRAME_FINALISER | FRAME_HOOK)) {
      snprintf(text, size, "%s", f->state & FRAME_HOOK ? "a debug hook" : "a finaliser");
      return 1;
    }
    push_name(L, &ar);
    const char *name = lua_tostring(L, -1);
    int n = name ? snprintf(text, size, "the C function %s", name)
                 : snprintf(text, size, "a C function");
    int named = name != NULL;
    lua_pop(L, 1);
    if (n > 0 && (size_t)n < size)
      add_place(L, level, text + n, size - (size_t)n);
    if (named)
      return 1;
    found = 1; /* of C code within another one, which may have a name */
  }
  return found;
}
