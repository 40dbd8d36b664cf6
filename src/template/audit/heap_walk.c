/* See heap_walk.h. A breadth-first walk, so that the path to an object is the shortest:
 * "app.connection", "app.query (upvalue cache)[3]". It begins with the modules that are
 * neither standard nor the library's, then with the globals, then with what C modules
 * keep in the registry.
 *
 *   queue[i]    the i-th object
 *   key[i]      the key, or the name of the upvalue, under which its parent has it
 *   step[i]     the parent's number, and how it has it
 *
 * The two lists are Lua tables, for what is in them must not be collected; the rest is
 * one userdata. */
#include "template/audit/heap_walk.h"

#include <lauxlib.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#ifdef __linux__
#include <stdio_ext.h>
#else
#define __fpending(file) ((size_t)0)
#endif

enum { KINDS_MAX = 32, PATH_SIZE = 160, DEPTH_MAX = 64 };

enum how {
  FROM_MODULE,
  FROM_GLOBALS,
  FROM_REGISTRY,
  FROM_FIELD,
  FROM_UPVALUE,
  FROM_INSIDE
};
struct step {
  uint32_t parent; /* 0: none */
  uint32_t how;
};

struct walk {
  int queue, keys; /* stack indices */
  uint32_t max, count, kinds;
  size_t seen_size; /* a power of 2 */
  struct with_finaliser {
    const void *metatable;
    uint32_t first, n;
    int is_c;
  } kind[KINDS_MAX];
  struct step *step;
  const void **seen; /* open addressing */
  const void *light; /* the light userdata that counts as an object; NULL: none does */
  audit_found *found;
  void *data;
};

/* ---- what was seen ---- */

static int is_new(struct walk *w, const void *p) {
  size_t at = (size_t)(((uintptr_t)p >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 20);
  for (;; at++) {
    const void **entry = &w->seen[at & (w->seen_size - 1)];
    if (*entry == p)
      return 0;
    if (*entry == NULL) {
      *entry = p;
      return 1;
    }
  }
}

/* Pops key and value (on top): value is queued, where it is an object that is new. */
static void put(lua_State *L, struct walk *w, uint32_t parent, enum how how) {
  int type = lua_type(L, -1);
  int is_object = type == LUA_TTABLE || type == LUA_TFUNCTION || type == LUA_TUSERDATA ||
                  type == LUA_TTHREAD ||
                  (type == LUA_TLIGHTUSERDATA && w->light == lua_touserdata(L, -1));
  if (is_object && w->count < w->max && is_new(w, lua_topointer(L, -1))) {
    w->count++;
    w->step[w->count] = (struct step){parent, (uint32_t)how};
    lua_rawseti(L, w->queue, w->count);
    lua_rawseti(L, w->keys, w->count);
    return;
  }
  lua_pop(L, 2);
}

/* ---- names ---- */

static void add(char *path, const char *text) {
  size_t n = strlen(path);
  snprintf(path + n, PATH_SIZE - n, "%s", text);
  for (char *p = path + n; *p != '\0'; p++)
    if ((unsigned char)*p < ' ' || *p == 0x7f)
      *p = '?';
}

static void add_step(lua_State *L, struct walk *w, uint32_t i, char *path) {
  char text[80];
  int type = lua_rawgeti(L, w->keys, i);
  const char *name = type == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
  switch (w->step[i].how) {
  case FROM_MODULE:
    snprintf(text, sizeof text, "%s", name ? name : "?");
    break;
  case FROM_GLOBALS:
    text[0] = '\0';
    break;
  case FROM_REGISTRY:
    snprintf(text, sizeof text, "registry[%s]", name ? name : "...");
    break;
  case FROM_UPVALUE:
    snprintf(text, sizeof text, " (upvalue%s%s)", name && *name ? " " : "",
             name ? name : ""); /* those of C functions have no names */
    break;
  case FROM_INSIDE:
    snprintf(text, sizeof text, " (%s)", name ? name : "inside");
    break;
  default:
    if (name)
      snprintf(text, sizeof text, "%s%s", *path ? "." : "", name);
    else if (lua_isinteger(L, -1))
      snprintf(text, sizeof text, "[%lld]", (long long)lua_tointeger(L, -1));
    else
      snprintf(text, sizeof text, "[a %s]", luaL_typename(L, -1));
  }
  lua_pop(L, 1);
  add(path, text);
}

/* The path to the object, and the module that it begins with ("" for a global). */
static void name_object(lua_State *L, struct walk *w, uint32_t i, char *path,
                        char *module) {
  uint32_t chain[DEPTH_MAX];
  int n = 0;
  do
    chain[n++] = i;
  while ((i = w->step[i].parent) != 0 && n < DEPTH_MAX);
  path[0] = module[0] = '\0';
  if (w->step[chain[n - 1]].how == FROM_MODULE)
    add_step(L, w, chain[n - 1], module);
  while (n-- > 0)
    add_step(L, w, chain[n], path);
}

/* ---- one object ---- */

static void note_finaliser(lua_State *L, struct walk *w, uint32_t i) { /* metatable | */
  lua_pushliteral(L, "__gc");
  int type = lua_rawget(L, -2), is_c = lua_iscfunction(L, -1);
  lua_pop(L, 1);
  if (type != LUA_TFUNCTION)
    return;
  const void *metatable = lua_topointer(L, -1);
  for (uint32_t k = 0; k < w->kinds; k++)
    if (w->kind[k].metatable == metatable) {
      w->kind[k].n++;
      return;
    }
  if (w->kinds < KINDS_MAX)
    w->kind[w->kinds++] = (struct with_finaliser){metatable, i, 1, is_c};
}

static void look_at_file(lua_State *L, struct walk *w, uint32_t i) {
  luaL_Stream *s = luaL_testudata(L, -1, LUA_FILEHANDLE);
  size_t pending = s && s->closef ? __fpending(s->f) : 0;
  if (pending == 0)
    return;
  char path[PATH_SIZE], module[PATH_SIZE], text[PATH_SIZE + 80];
  name_object(L, w, i, path, module);
  snprintf(text, sizeof text, "%zu bytes written to the file %s are still in its buffer",
           pending, path);
  w->found(&(struct finding){AUDIT_UNWRITTEN, -1, module[0] ? module : NULL, text},
           w->data);
}

static void look_at_table(lua_State *L, struct walk *w, uint32_t i) {
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    if (lua_type(L, -2) != LUA_TSTRING && !lua_isnumber(L, -2)) {
      lua_pushliteral(L, "a key"); /* an object that is a key */
      lua_pushvalue(L, -3);
      put(L, w, i, FROM_INSIDE);
    }
    lua_pushvalue(L, -2);
    lua_insert(L, -2); /* key key value */
    put(L, w, i, FROM_FIELD);
  }
}

static void look_at_function(lua_State *L, struct walk *w, uint32_t i) {
  const char *name;
  for (int n = 1; (name = lua_getupvalue(L, -1, n)) != NULL; n++) {
    lua_pushstring(L, name);
    lua_insert(L, -2);
    if (lua_istable(L, -1) && strcmp(name, "_ENV") == 0)
      lua_pop(L, 2); /* the globals, which are looked at as such */
    else
      put(L, w, i, FROM_UPVALUE);
  }
}

static void look_at_userdata(lua_State *L, struct walk *w, uint32_t i) {
  for (int n = 1; lua_getiuservalue(L, -1, n) != LUA_TNONE; n++) {
    lua_pushliteral(L, "user value");
    lua_insert(L, -2);
    put(L, w, i, FROM_INSIDE);
  }
  lua_pop(L, 1);
}

/* The local variables of a suspended coroutine. */
static void look_at_thread(lua_State *L, struct walk *w, uint32_t i) {
  lua_State *co = lua_tothread(L, -1);
  lua_Debug ar;
  const char *name;
  if (co == L || lua_status(co) != LUA_YIELD || !lua_checkstack(co, 2))
    return;
  for (int level = 0; lua_getstack(co, level, &ar); level++)
    for (int n = 1; (name = lua_getlocal(co, &ar, n)) != NULL; n++) {
      lua_pushfstring(L, "local %s", name);
      lua_xmove(co, L, 1);
      put(L, w, i, FROM_INSIDE);
    }
}

static int is_standard(const char *name) {
  static const char *const names[] = {"_G",   "package", "coroutine", "table",
                                      "io",   "os",      "string",    "math",
                                      "utf8", "debug",   "moonfork"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(name, names[i]) == 0)
      return 1;
  return strncmp(name, "moonfork.", 9) == 0;
}

static void look_at(lua_State *L, struct walk *w, uint32_t i) {
  lua_rawgeti(L, w->queue, i);
  if (lua_getmetatable(L, -1)) {
    if (!luaL_testudata(L, -2, LUA_FILEHANDLE)) /* a descriptor, which is told as such */
      note_finaliser(L, w, i);
    lua_pushliteral(L, "metatable");
    lua_insert(L, -2);
    put(L, w, i, FROM_INSIDE);
  }
  switch (lua_type(L, -1)) {
  case LUA_TTABLE:
    look_at_table(L, w, i);
    break;
  case LUA_TFUNCTION:
    look_at_function(L, w, i);
    break;
  case LUA_TUSERDATA:
    look_at_file(L, w, i);
    look_at_userdata(L, w, i);
    break;
  case LUA_TTHREAD:
    look_at_thread(L, w, i);
    break;
  }
  lua_pop(L, 1);
}

/* ---- the walk ---- */

static void put_modules(lua_State *L, struct walk *w) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    if (lua_type(L, -2) == LUA_TSTRING && !is_standard(lua_tostring(L, -2)))
      put(L, w, 0, FROM_MODULE);
    else
      lua_pop(L, 2);
  }
  lua_pop(L, 1);
}

static void put_globals(lua_State *L, struct walk *w) {
  lua_pushliteral(L, "");
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  put(L, w, 0, FROM_GLOBALS);
}

/* Under light userdata are mostly the library's own. "_CLIBS" is Lua's, and a table with
 * a finaliser. */
static void put_registry(lua_State *L, struct walk *w) {
  lua_pushnil(L);
  while (lua_next(L, LUA_REGISTRYINDEX) != 0) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    if (name ? strcmp(name, "_CLIBS") != 0 && !is_standard(name) : lua_isinteger(L, -2))
      put(L, w, 0, FROM_REGISTRY);
    else
      lua_pop(L, 2);
  }
}

static void tell_finalisers(lua_State *L, struct walk *w) {
  for (uint32_t k = 0; k < w->kinds; k++) {
    const struct with_finaliser *kind = &w->kind[k];
    char path[PATH_SIZE], module[PATH_SIZE], text[2 * PATH_SIZE + 160] = "";
    name_object(L, w, kind->first, path, module);
    lua_rawgeti(L, w->queue, kind->first);
    int has_name = luaL_getmetafield(L, -1, "__name") == LUA_TSTRING;
    if (module[0])
      snprintf(text, sizeof text, "module '%s' has ", module);
    size_t n = strlen(text);
    snprintf(text + n, sizeof text - n, "%u object%s%s%.60s%s with a finaliser (%s%s)",
             (unsigned)kind->n, kind->n == 1 ? "" : "s", has_name ? " of type '" : "",
             has_name ? lua_tostring(L, -1) : "", has_name ? "'" : "",
             kind->n == 1 ? "" : "the first: ", path);
    lua_settop(L, w->keys);
    w->found(&(struct finding){kind->is_c ? AUDIT_C_FINALISER : AUDIT_FINALISER, -1,
                               module[0] ? module : NULL, text},
             w->data);
  }
}

/* Lists of the size that the heap may need, and no larger: a small template is walked in
 * no time. */
static size_t estimate(lua_State *L) {
  size_t n = (size_t)lua_gc(L, LUA_GCCOUNT) * 1024 / 32, size = 1024;
  while (size < n && size < HEAP_WALK_MAX)
    size *= 2;
  return size;
}

/* A new walk, on the stack with its lists, from all its beginnings. */
static struct walk *begin(lua_State *L, const void *light) {
  int top = lua_gettop(L);
  luaL_checkstack(L, 16, NULL);
  size_t n = estimate(L);
  size_t steps = (n + 1) * sizeof(struct step), seen = 2 * n * sizeof(void *);
  struct walk *w = lua_newuserdatauv(L, sizeof *w + steps + seen, 0);
  memset(w, 0, sizeof *w + steps + seen);
  *w = (struct walk){.max = (uint32_t)n, .seen_size = 2 * n, .light = light};
  w->step = (struct step *)(w + 1);
  w->seen = (const void **)(w->step + n + 1);
  lua_newtable(L);
  lua_newtable(L);
  w->queue = top + 2;
  w->keys = top + 3;
  is_new(w, w); /* not this walk itself */
  put_modules(L, w);
  put_globals(L, w);
  put_registry(L, w);
  return w;
}

void heap_walk(lua_State *L, audit_found *found, void *data) {
  int top = lua_gettop(L);
  struct walk *w = begin(L, NULL);
  w->found = found;
  w->data = data;
  for (uint32_t i = 1; i <= w->count; i++)
    look_at(L, w, i);
  tell_finalisers(L, w);
  lua_settop(L, top);
}

static void ignore(const struct finding *f, void *data) {
  (void)f, (void)data;
}

static int is_at_top(lua_State *L, const void *object, const void *light) {
  return light ? lua_islightuserdata(L, -1) && lua_touserdata(L, -1) == light
               : !lua_islightuserdata(L, -1) && lua_topointer(L, -1) == object;
}

static void find(lua_State *L, const void *object, const void *light, char *path,
                 size_t n) {
  int top = lua_gettop(L);
  char found[PATH_SIZE], module[PATH_SIZE];
  struct walk *w = begin(L, light);
  w->found = ignore;
  snprintf(path, n, "an object that nothing names");
  for (uint32_t i = 1; i <= w->count; i++) {
    lua_rawgeti(L, w->queue, i);
    int is_it = is_at_top(L, object, light);
    lua_pop(L, 1);
    if (is_it) {
      name_object(L, w, i, found, module);
      snprintf(path, n, "%s", found);
      break;
    }
    look_at(L, w, i);
  }
  lua_settop(L, top);
}

void heap_walk_path(lua_State *L, const void *object, char *path, size_t n) {
  find(L, object, NULL, path, n);
}

void heap_walk_path_light(lua_State *L, const void *light, char *path, size_t n) {
  find(L, NULL, light, path, n);
}
