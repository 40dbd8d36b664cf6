/* See static_data.h. What is compared with is a process that has just loaded the same
 * modules (fresh.h). Its libraries lie elsewhere, and so does what their constructors
 * have allocated; so two words are the same
 *
 *   if they are equal,
 *   if they lead to the same place of the same library,
 *   if both lead to memory that is no library's and not Lua's: of a constructor.
 *
 * The program's own variables and those of libraries that the program itself has at its
 * start (libc, libm) are not compared. */
#include "template/image/static_data.h"

#include "image/pointers.h"
#include "template/image/fresh.h"
#include "template/image/module_clone.h"
#include "template/image/symbol.h"

#include <dlfcn.h>
#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WORD = sizeof(uint64_t) };

struct change { /* of a library that differs */
  const struct library *library;
  int owner;       /* of the modules */
  uint64_t offset; /* of the first byte, in what fresh_data_copy gives */
  uint64_t nwords;
};

struct comparing {
  lua_State *L;
  const struct libraries *here;
  const char *base; /* of the state */
  size_t nbytes;
  const struct library **modules;
  size_t nmodules, room;
  struct fresh fresh;
  struct change *changes;
  size_t nchanges;
  char *vouched; /* of the modules: whether somebody vouches for it */
};

/* ---- which modules ---- */

static int add_module(struct comparing *c, const struct library *module) {
  for (size_t i = 0; i < c->nmodules; i++)
    if (c->modules[i] == module)
      return 0;
  if (c->nmodules == c->room) {
    size_t room = c->room ? c->room * 2 : 16;
    const struct library **more = realloc(c->modules, room * sizeof *more);
    if (!more)
      return -ENOMEM;
    c->modules = more;
    c->room = room;
  }
  c->modules[c->nmodules++] = module;
  return 0;
}

/* Protected. Lua's list of the handles that dlopen gave it. */
static int l_list_modules(lua_State *L) {
  struct comparing *c = lua_touserdata(L, 1);
  if (lua_getfield(L, LUA_REGISTRYINDEX, "_CLIBS") != LUA_TTABLE)
    return 0;
  lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, -1, i);
    const struct library *module =
        lua_islightuserdata(L, -1)
            ? libraries_of_handle(c->here, (uint64_t)(uintptr_t)lua_touserdata(L, -1))
            : NULL;
    if (module && *module->path && add_module(c, module) < 0)
      return luaL_error(L, "not enough memory");
    lua_pop(L, 1);
  }
  return 0;
}

static int protect(struct comparing *c, lua_CFunction f) {
  lua_pushcfunction(c->L, f);
  lua_pushlightuserdata(c->L, c);
  if (lua_pcall(c->L, 1, 0, 0) == LUA_OK)
    return 0;
  lua_pop(c->L, 1);
  return -ENOMEM;
}

/* ---- comparing ---- */

static int is_mapped(uint64_t word) {
  unsigned char resident;
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  return mincore((void *)((uintptr_t)word & ~(page - 1)), page, (void *)&resident) == 0 ||
         errno != ENOMEM;
}

static const struct fresh_object *fresh_of_address(const struct fresh *f, uint64_t word) {
  for (size_t i = 0; i < f->nobjects; i++)
    if (word >= f->objects[i].low && word < f->objects[i].high)
      return &f->objects[i];
  return NULL;
}

static int is_same(const struct comparing *c, uint64_t here, uint64_t there) {
  if (here == there)
    return 1;
  const struct library *o = libraries_find(c->here, here);
  const struct fresh_object *p = fresh_of_address(&c->fresh, there);
  if (o || p)
    return o && p && strcmp(o->path, p->path) == 0 && here - o->base == there - p->base;
  return pointers_can_be_address((uintptr_t)here) &&
         pointers_can_be_address((uintptr_t)there) &&
         here - (uint64_t)(uintptr_t)c->base >= c->nbytes && is_mapped(here);
}

/* Small variables share a word. */
static uint64_t first_difference(const char *a, const char *b) {
  uint64_t i = 0;
  while (i < WORD - 1 && a[i] == b[i])
    i++;
  return i;
}

static int compare(struct comparing *c, const struct library *o,
                   const struct fresh_object *p) {
  uint64_t n = fresh_data_size(o);
  if (n == 0 || n != p->ndata)
    return 0; /* of another size: another build, which loading compares */
  char *now = malloc((size_t)n);
  if (!now)
    return -ENOMEM;
  fresh_data_copy(o, now);
  struct change change = {.library = o, .owner = p->owner};
  for (uint64_t at = 0; at < n; at += WORD) {
    uint64_t here, there;
    memcpy(&here, now + at, WORD);
    memcpy(&there, p->data + at, WORD);
    if (!is_same(c, here, there) && change.nwords++ == 0)
      change.offset = at + first_difference(now + at, p->data + at);
  }
  free(now);
  if (change.nwords)
    c->changes[c->nchanges++] = change;
  return 0;
}

static int compare_all(struct comparing *c) {
  int r = 0;
  c->changes = calloc(c->fresh.nobjects + 1, sizeof *c->changes);
  if (!c->changes)
    return -ENOMEM;
  for (size_t i = 0; i < c->fresh.nobjects && r == 0; i++) {
    const struct fresh_object *p = &c->fresh.objects[i];
    for (size_t k = 0; p->owner >= 0 && k < c->here->n && r == 0; k++)
      if (strcmp(c->here->all[k].path, p->path) == 0)
        r = compare(c, &c->here->all[k], p);
  }
  return r;
}

static int look_at_fresh(struct comparing *c, char *why, size_t nwhy) {
  char reason[512];
  const char **files = calloc(c->nmodules + 1, sizeof *files);
  if (!files)
    return -ENOMEM;
  for (size_t i = 0; i < c->nmodules; i++)
    files[i] = c->modules[i]->path;
  int r = fresh_look(files, c->nmodules, &c->fresh, reason, sizeof reason);
  free(files);
  if (r == 0)
    return compare_all(c);
  snprintf(
      why, nwhy,
      "the static data of its C modules can't be compared with that of a process that "
      "has just loaded them: %s",
      reason);
  return r == -ENOMEM ? r : -EINVAL;
}

/* ---- what is known ---- */

/* Libraries whose variables may begin anew, by a function that they have. */
static const char *const harmless[] = {
    "luaopen_lfs",        /* text is made in a static buffer, and read before the next */
    "sqlite3_initialize", /* at the first use: all there is without a connection */
    "OPENSSL_init_crypto", "OPENSSL_init_ssl", /* the same, without an object */
};

static int has_function(const struct library *o, void *handle, const char *name) {
  uint64_t f = (uint64_t)(uintptr_t)dlsym(handle, name);
  return f >= o->low && f < o->high;
}

static int is_harmless(const struct library *o) {
  int is = 0;
  void *handle = dlopen(o->path, RTLD_NOW | RTLD_NOLOAD);
  if (!handle)
    return 0;
  for (size_t i = 0; i < sizeof harmless / sizeof *harmless && !is; i++)
    is = has_function(o, handle, harmless[i]);
  dlclose(handle); /* the reference of this call */
  return is;
}

/* ---- who vouches, and what is told ---- */

static void vouch(void *data, lua_CFunction f) {
  struct comparing *c = data;
  const struct library *o = libraries_find(c->here, (uint64_t)(uintptr_t)f);
  for (size_t i = 0; i < c->nmodules; i++)
    if (o && c->modules[i] == o)
      c->vouched[i] = 1;
}

static int l_make_clones(lua_State *L) {
  struct comparing *c = lua_touserdata(L, 1);
  module_clone_make(L, vouch, c);
  return 0;
}

static void name_place(const struct change *change, char *text, size_t n) {
  const struct library *o = change->library;
  if (fresh_data_is_thread(o, change->offset))
    snprintf(text, n, "a thread-local variable");
  else
    symbol_name(o->path, fresh_data_address(o, change->offset) - o->base, text, n);
}

static int refuse(const struct comparing *c, const struct change *change, char *why,
                  size_t nwhy) {
  char place[160], needed[512] = "", more[64] = "";
  const struct library *module = c->modules[change->owner];
  name_place(change, place, sizeof place);
  if (module != change->library)
    snprintf(needed, sizeof needed, " (which the C module %.400s needs)", module->path);
  if (change->nwords > 1)
    snprintf(more, sizeof more, ", and %llu more words",
             (unsigned long long)change->nwords - 1);
  snprintf(
      why, nwhy,
      "static data of %.300s%s has changed since it was loaded (%s%s): it is not in "
      "an image, and begins anew in a process that loads one; load the module after "
      "loading the image, or say that it works without, by a function __clone in the "
      "metatable of its table, which is called with the table there",
      change->library->path, needed, *place ? place : "in a place without a name", more);
  return -EINVAL;
}

static int judge(struct comparing *c, char *why, size_t nwhy) {
  for (size_t i = 0; i < c->nchanges; i++)
    if (!c->vouched[c->changes[i].owner] && !is_harmless(c->changes[i].library))
      return refuse(c, &c->changes[i], why, nwhy);
  return 0;
}

int static_data_check(lua_State *L, const struct libraries *here, const void *base,
                      size_t nbytes, char *why, size_t nwhy) {
  struct comparing c = {.L = L, .here = here, .base = base, .nbytes = nbytes};
  int r = protect(&c, l_list_modules);
  if (r == 0 && c.nmodules > 0)
    r = look_at_fresh(&c, why, nwhy);
  c.vouched = calloc(c.nmodules + 1, 1);
  if (r == 0)
    r = c.vouched ? protect(&c, l_make_clones) : -ENOMEM;
  if (r == 0)
    r = judge(&c, why, nwhy);
  fresh_free(&c.fresh);
  free(c.modules);
  free(c.changes);
  free(c.vouched);
  return r;
}

static int l_drop(lua_State *L) {
  module_clone_drop(L);
  return 0;
}

void static_data_end(lua_State *L) {
  lua_pushcfunction(L, l_drop);
  if (lua_pcall(L, 0, 0, 0) != LUA_OK)
    lua_pop(L, 1);
}
