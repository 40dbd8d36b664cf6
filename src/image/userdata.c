#include "image/userdata.h"

#include "base/copied.h"
#include "image/layout54.h"
#include "image/objects.h"
#include "image/pointers.h"

#include <dlfcn.h>
#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- what is known ---- */

enum must {           /* what must be so, that the bytes are enough */
            BE_BYTES, /* they are: of unset words some may look like addresses */
            BE_A_CLOSED_STREAM,
            BE_CLOSED_INT,   /* the first int, a descriptor, is negative */
            BE_CLOSED_SHORT, /* the first short, "is closed", is not 0 */
};

#define EVERYWHERE(what) what, what, what
#define CLOSED_IN_IMAGES BE_CLOSED_INT, BE_BYTES, BE_BYTES

/* A thread has descriptors of its own, with the numbers of the original's; a process that
 * loads an image has none of them. */
static const struct rule {
  const char *name; /* of the metatable in the registry */
  unsigned char must[USERDATA_USES];
} rules[] = {
    /*                 in an image,        a thread,           a pseudo-process */
    {LUA_FILEHANDLE, {BE_A_CLOSED_STREAM, BE_A_CLOSED_STREAM, BE_BYTES /* renewed */}},
    {"_UBOX*", {EVERYWHERE(BE_BYTES)}},       /* the memory of luaL_Buffer: Lua's */
    {"lpeg-pattern", {EVERYWHERE(BE_BYTES)}}, /* all it has is Lua's */
    {"tcp{master}", {CLOSED_IN_IMAGES}},      /* LuaSocket */
    {"tcp{client}", {CLOSED_IN_IMAGES}},
    {"tcp{server}", {CLOSED_IN_IMAGES}},
    {"udp{connected}", {CLOSED_IN_IMAGES}},
    {"udp{unconnected}", {CLOSED_IN_IMAGES}},
    {"unix{master}", {CLOSED_IN_IMAGES}},
    {"unix{client}", {CLOSED_IN_IMAGES}},
    {"unix{server}", {CLOSED_IN_IMAGES}},
    {"unixstream{master}", {CLOSED_IN_IMAGES}},
    {"unixstream{client}", {CLOSED_IN_IMAGES}},
    {"unixstream{server}", {CLOSED_IN_IMAGES}},
    {"unixdgram{connected}", {CLOSED_IN_IMAGES}},
    {"unixdgram{unconnected}", {CLOSED_IN_IMAGES}},
    {"serial{client}", {CLOSED_IN_IMAGES}},
    {"select{able}", {EVERYWHERE(BE_BYTES)}},
    {"directory metatable", {EVERYWHERE(BE_CLOSED_SHORT)}}, /* LuaFileSystem */
    {"SQLite3 connection", {EVERYWHERE(BE_CLOSED_SHORT)}},  /* LuaSQL */
    {"SQLite3 cursor", {EVERYWHERE(BE_CLOSED_SHORT)}},
    {"SQLite3 environment", {EVERYWHERE(BE_BYTES)}},
};
enum { NRULES = sizeof rules / sizeof *rules };

struct looking {
  lua_State *L;
  const struct userdata_question *q;
  struct userdata_list *found;
  size_t sockets_room, hooks_room;
  struct userdata_refusal *refusal;
  const void *metatable[NRULES]; /* NULL: the module is not loaded */
};

static int refuse(struct looking *l, void *object, const char *why) {
  l->refusal->object = object;
  l->refusal->why = why;
  return -EPERM;
}

static int look_at_stream(struct looking *l, void *object) {
  const luaL_Stream *s = objects_contents(object);
  if (!s->closef || s->f == stdin || s->f == stdout || s->f == stderr)
    return 0;
  return refuse(l, object,
                l->q->use == USERDATA_IMAGE
                    ? "it is an open file; close it, and open it again after loading"
                    : "an open file: its buffer is the C library's; close it, or open it "
                      "in the clone");
}

static int look_at_flag(struct looking *l, void *object, int is_closed) {
  if (is_closed)
    return 0;
  return refuse(
      l, object,
      l->q->use == USERDATA_IMAGE
          ? "it is open; close it, and open it again after loading"
          : "it is open, and two copies would close it; close it, or open it in "
            "the copy");
}

static int look_at_known(struct looking *l, void *object, enum must must) {
  const void *contents = objects_contents(object);
  size_t n = lua_rawlen(l->L, -1);
  int number;
  short closed;
  if (must == BE_A_CLOSED_STREAM && n >= sizeof(luaL_Stream))
    return look_at_stream(l, object);
  if (must == BE_CLOSED_INT && n >= sizeof number) {
    memcpy(&number, contents, sizeof number);
    return look_at_flag(l, object, number < 0);
  }
  if (must == BE_CLOSED_SHORT && n >= sizeof closed) {
    memcpy(&closed, contents, sizeof closed);
    return look_at_flag(l, object, closed != 0);
  }
  return 0;
}

static const struct rule *rule_of(const struct looking *l, const void *metatable) {
  for (size_t i = 0; i < NRULES; i++)
    if (l->metatable[i] && l->metatable[i] == metatable)
      return &rules[i];
  return NULL;
}

static void find_metatables(struct looking *l) {
  for (size_t i = 0; i < NRULES; i++) {
    luaL_getmetatable(l->L, rules[i].name);
    l->metatable[i] = lua_istable(l->L, -1) ? lua_topointer(l->L, -1) : NULL;
    lua_pop(l->L, 1);
  }
}

/* ---- words ---- */

/* Of an object file: a function or a variable of a module. */
static int is_of_a_file(const void *p) {
  Dl_info info;
  return dladdr(p, &info) != 0;
}

static int is_mapped(uintptr_t word) {
  unsigned char resident;
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  return mincore((void *)(word & ~(page - 1)), page, (void *)&resident) == 0 ||
         errno != ENOMEM;
}

/* Whether a word leads to memory of a C library's, from malloc or the system. */
static int leads_outside(const struct looking *l, const char *contents, size_t n) {
  for (size_t i = 0; i + sizeof(uintptr_t) <= n; i += sizeof(uintptr_t)) {
    uintptr_t word;
    memcpy(&word, contents + i, sizeof word);
    if (pointers_can_be_address(word) &&
        word - (uintptr_t)l->q->base >= (uintptr_t)l->q->nbytes &&
        !is_of_a_file((void *)word) && is_mapped(word))
      return 1;
  }
  return 0;
}

/* ---- one object ---- */

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

static uint64_t offset_of(const struct looking *l, const void *object) {
  return (uint64_t)((const char *)object - (const char *)l->q->base);
}

/* The field of the metatable of the userdata on top, pushed or not. */
static int has_field(lua_State *L, const char *name) {
  int type = luaL_getmetafield(L, -1, name);
  return type != LUA_TNIL;
}

/* The finaliser on top is a function of this very program or module. */
static int is_own(lua_State *L) {
  lua_CFunction finaliser = lua_tocfunction(L, -1);
  Dl_info own, its;
  return finaliser && dladdr((void *)(uintptr_t)&userdata_look, &own) &&
         dladdr((void *)(uintptr_t)finaliser, &its) && own.dli_fbase == its.dli_fbase;
}

static int look_at_words(struct looking *l, void *object) {
  if (!leads_outside(l, objects_contents(object), lua_rawlen(l->L, -1)))
    return 0;
  return refuse(
      l, object,
      l->q->use == USERDATA_IMAGE
          ? "it refers to memory outside of the interpreter, which its C module "
            "has from malloc or the system; give its metatable a function "
            "__clone, which is called with the copy, or make it after loading"
          : "it refers to memory outside of the interpreter, which both copies "
            "would use; give its metatable a function __clone, or make it in "
            "the copy");
}

/* Of a type that nobody has vouched for. */
static int look_at_unknown(struct looking *l, void *object, int is_finalised) {
  if (is_finalised && has_field(l->L, "__gc")) {
    int own = is_own(l->L);
    lua_pop(l->L, 1);
    if (!own)
      return refuse(l, object,
                    "it has a finaliser, and nobody says that a copy may run it, too; a "
                    "function __clone in its metatable, which is called with the copy, "
                    "says so");
  }
  return look_at_words(l, object);
}

static int look_at_socket(struct looking *l, void *object, enum userdata_socket is) {
  struct userdata_list *found = l->found;
  if (l->q->use == USERDATA_THREAD || l->q->closes_sockets)
    return add(&found->sockets, &found->nsockets, &l->sockets_room, offset_of(l, object));
  return look_at_flag(l, object, is == USERDATA_SOCKET_CLOSED);
}

/* The function on top, which is popped; the userdata is below. */
static int ask_object(struct looking *l, void *object) {
  lua_pushvalue(l->L, -2);
  lua_call(l->L, 1, 1);
  const char *why = lua_tostring(l->L, -1);
  lua_pop(l->L, 1);
  if (!why)
    return 0;
  snprintf(l->refusal->text, sizeof l->refusal->text, "%s", why);
  return refuse(l, object, l->refusal->text);
}

static int look_at_type(struct looking *l, void *object, const void *metatable,
                        int is_finalised) {
  lua_State *L = l->L;
  enum userdata_socket socket =
      l->q->socket ? l->q->socket(L, lua_gettop(L)) : USERDATA_NO_SOCKET;
  const struct rule *rule = rule_of(l, metatable);
  int hook = has_field(L, COPIED_FIELD), r = 0;
  if (hook)
    lua_pop(L, 1);
  if (socket != USERDATA_NO_SOCKET)
    r = look_at_socket(l, object, socket);
  else if (l->q->use == USERDATA_IMAGE && !l->q->closes_sockets &&
           has_field(L, COPIED_SAVE_FIELD))
    r = ask_object(l, object);
  else if (rule)
    r = look_at_known(l, object, rule->must[l->q->use]);
  else if (!hook)
    r = look_at_unknown(l, object, is_finalised);
  return r == 0 && hook ? add(&l->found->hooks, &l->found->nhooks, &l->hooks_room,
                              offset_of(l, object))
                        : r;
}

static int look_at(void *data, void *object, int is_finalised) {
  struct looking *l = data;
  const struct l54_userdata *u = object;
  objects_push(l->L, object);
  int r = u->metatable ? look_at_type(l, object, u->metatable, is_finalised)
                       : look_at_words(l, object);
  lua_pop(l->L, 1);
  return r;
}

/* The collector rests: the lists stay. */
int userdata_look(lua_State *main, const struct userdata_question *q,
                  struct userdata_list *ret, struct userdata_refusal *ret_refusal) {
  struct looking l = {.L = main, .q = q, .found = ret, .refusal = ret_refusal};
  int collects = lua_gc(main, LUA_GCISRUNNING);
  *ret = (struct userdata_list){0};
  luaL_checkstack(main, 16, NULL);
  find_metatables(&l);
  if (collects)
    lua_gc(main, LUA_GCSTOP);
  int r = objects_each_userdata(main, look_at, &l);
  if (collects)
    lua_gc(main, LUA_GCRESTART);
  if (r < 0)
    userdata_free(ret);
  return r;
}

void userdata_free(struct userdata_list *u) {
  free(u->sockets);
  free(u->hooks);
  *u = (struct userdata_list){0};
}

/* ---- in the copy ---- */

void userdata_push_hooks(lua_State *L, char *base, const uint64_t *hooks, size_t n) {
  luaL_checkstack(L, 8, NULL);
  lua_createtable(L, n < INT32_MAX ? (int)n : 0, 0);
  for (size_t i = 0; i < n; i++) {
    objects_push(L, base + hooks[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

void userdata_call_hook(lua_State *L, int index, size_t i) {
  index = lua_absindex(L, index);
  luaL_checkstack(L, 8, NULL);
  lua_rawgeti(L, index, (lua_Integer)i + 1);
  if (!has_field(L, COPIED_FIELD)) { /* another hook has taken it away */
    lua_pop(L, 1);
    return;
  }
  lua_insert(L, -2);
  lua_call(L, 1, 0);
}
