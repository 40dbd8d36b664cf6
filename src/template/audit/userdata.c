#include "template/audit/userdata.h"

#include "image/objects.h"
#include "socket/socket.h"
#include "template/audit/heap_walk.h"
#include <dlfcn.h>
#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct looking {
  lua_State *L;
  const char *base;
  size_t nbytes;
  struct userdata *found;
  size_t sockets_room, hooks_room;
  const void *culprit;
  char *why;
};

/* ---- words ---- */

/* Of an object file: a function or a variable of a module. */
static int is_of_a_file(const void *p) {
  Dl_info info;
  return dladdr(p, &info) != 0;
}

static int is_mapped(uintptr_t word) {
  unsigned char resident;
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  return mincore((void *)(word & ~(page - 1)), page, &resident) == 0 || errno != ENOMEM;
}

/* Numbers are small or, as doubles, beyond the addresses of a process. */
static int can_be_address(uintptr_t word) {
  return word >= 65536 && (sizeof word < 8 || (uint64_t)word >> 56 == 0);
}

static int is_inside(const struct looking *l, uintptr_t word) {
  return word - (uintptr_t)l->base < l->nbytes;
}

/* Whether the userdata on top has a word that leads to memory of a C library's. */
static int leads_outside(const struct looking *l) {
  const char *contents = lua_touserdata(l->L, -1);
  size_t n = lua_rawlen(l->L, -1);
  for (size_t i = 0; i + sizeof(uintptr_t) <= n; i += sizeof(uintptr_t)) {
    uintptr_t word;
    memcpy(&word, contents + i, sizeof word);
    if (can_be_address(word) && !is_inside(l, word) && !is_of_a_file((void *)word) &&
        is_mapped(word))
      return 1;
  }
  return 0;
}

/* ---- types ---- */

static int is_known(const char *name) {
  static const char *const names[] = {
      "lpeg-pattern",   "tcp{master}",      "tcp{client}", "tcp{server}",
      "udp{connected}", "udp{unconnected}", "select{able}"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(name, names[i]) == 0)
      return 1;
  return 0;
}

/* Its finaliser is a function of this very program or module. */
static int is_own(lua_CFunction finaliser) {
  Dl_info own, its;
  return dladdr((void *)(uintptr_t)&userdata_look, &own) &&
         dladdr((void *)(uintptr_t)finaliser, &its) && own.dli_fbase == its.dli_fbase;
}

static int refuse(struct looking *l, const void *object, const char *what) {
  l->culprit = object;
  snprintf(l->why, USERDATA_WHY_MAX, "%s", what);
  return -EPERM;
}

static int add(uint64_t **list, size_t *n, size_t *room, uint64_t offset) {
  if (*n == *room) {
    size_t more = *room ? *room * 2 : 16;
    uint64_t *larger = realloc(*list, more * sizeof *larger);
    if (!larger)
      return -ENOMEM;
    *list = larger;
    *room = more;
  }
  (*list)[(*n)++] = offset;
  return 0;
}

static int look_at_stream(struct looking *l, const void *object) {
  const luaL_Stream *s = lua_touserdata(l->L, -1);
  if (!s->closef || s->f == stdin || s->f == stdout || s->f == stderr)
    return 0;
  return refuse(l, object,
                "an open file: its buffer is the C library's; close it, or open "
                "it in the clone");
}

/* On top: the userdata. Its metatable's field, pushed or not. */
static int has_field(lua_State *L, const char *name) {
  lua_getmetatable(L, -1);
  lua_pushstring(L, name);
  int type = lua_rawget(L, -2);
  lua_remove(L, -2);
  if (type == LUA_TNIL)
    lua_pop(L, 1);
  return type != LUA_TNIL;
}

static int look_at_type(struct looking *l, void *object) { /* userdata | */
  lua_State *L = l->L;
  struct userdata *found = l->found;
  uint64_t offset = (uint64_t)((const char *)object - l->base);
  const char *name = "";
  if (has_field(L, "__clone")) {
    lua_pop(L, 1);
    return add(&found->hooks, &found->nhooks, &l->hooks_room, offset);
  }
  if (luaL_testudata(L, -1, LUA_FILEHANDLE))
    return look_at_stream(l, object);
  if (socket_test(L, lua_gettop(L)))
    return add(&found->sockets, &found->nsockets, &l->sockets_room, offset);
  if (has_field(L, "__gc")) {
    lua_CFunction finaliser = lua_tocfunction(L, -1);
    lua_pop(L, 1);
    if (has_field(L, "__name")) {
      name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
      lua_pop(L, 1); /* the metatable keeps it */
    }
    if (is_known(name))
      return 0; /* words that it has left unset may look like addresses */
    if (finaliser && !is_own(finaliser))
      return refuse(
          l, object,
          "it has a finaliser in C, and nobody says that a copy may run it, too; "
          "give its metatable a field __clone, or make it in the clone");
  }
  if (!leads_outside(l))
    return 0;
  return refuse(l, object,
                "it refers to memory outside of the interpreter; give its "
                "metatable a field __clone, or make it in the clone");
}

static int look_at(void *data, void *object) {
  struct looking *l = data;
  objects_push(l->L, object);
  int r = look_at_type(l, object);
  lua_pop(l->L, 1);
  return r;
}

/* Before the reason: "userdata of type 'x' (path): ". */
static void name_culprit(struct looking *l) {
  lua_State *L = l->L;
  char path[160], reason[USERDATA_WHY_MAX];
  const char *name = "";
  heap_walk_path(L, (const void *)l->culprit, path, sizeof path);
  snprintf(reason, sizeof reason, "%s", l->why);
  if (has_field(L, "__name") && lua_type(L, -1) == LUA_TSTRING)
    name = lua_tostring(L, -1);
  snprintf(l->why, USERDATA_WHY_MAX, "userdata%s%.60s%s (%s): %.240s",
           *name ? " of type '" : "", name, *name ? "'" : "", path, reason);
}

int userdata_look(lua_State *L, const void *base, size_t nbytes, struct userdata *ret,
                  char why[USERDATA_WHY_MAX]) {
  struct looking l = {.L = L, .base = base, .nbytes = nbytes, .found = ret, .why = why};
  int top = lua_gettop(L);
  *ret = (struct userdata){0};
  luaL_checkstack(L, 16, NULL);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  int r = objects_each_userdata(lua_tothread(L, -1), look_at, &l);
  if (r < 0)
    userdata_free(ret);
  if (r == -EPERM) {
    objects_push(L, (void *)(uintptr_t)l.culprit);
    l.culprit = lua_touserdata(L, -1);
    name_culprit(&l);
  }
  lua_settop(L, top);
  return r;
}

void userdata_free(struct userdata *u) {
  free(u->sockets);
  free(u->hooks);
  *u = (struct userdata){0};
}

/* ---- in the copy ---- */

int userdata_settle(const struct userdata *u, char *base) {
  for (size_t i = 0; i < u->nsockets; i++)
    if (socket_copied(objects_contents(base + u->sockets[i])) < 0)
      return -ENOMEM;
  return 0;
}

void userdata_call_hooks(const struct userdata *u, char *base, lua_State *L) {
  luaL_checkstack(L, 8, NULL);
  for (size_t i = 0; i < u->nhooks; i++) {
    objects_push(L, base + u->hooks[i]);
    if (has_field(L, "__clone")) {
      lua_insert(L, -2);
      lua_call(L, 1, 0);
    } else {
      lua_pop(L, 1);
    }
  }
}
