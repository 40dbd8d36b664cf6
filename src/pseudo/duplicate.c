#include "pseudo/duplicate.h"

#include "image/layout54.h"
#include "image/pointers.h"
#include "image/relocate.h"
#include "template/heap/heap_copy.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct copying {
  char *from, *to;
  const struct pointers *pointers;
};

static intptr_t distance(const struct copying *c) {
  return (intptr_t)((uintptr_t)c->to - (uintptr_t)c->from);
}

/* Whole pages, whose bits are whole words. */
static int copy_part(void *data, char *at, size_t size) {
  const struct copying *c = data;
  char *to = c->to + (at - c->from);
  if (heap_copy_open(to, size) < 0)
    return -ENOMEM;
  relocate_copy(to, at, size, c->pointers->bits + (size_t)(at - c->from) / 512,
                distance(c));
  return 0;
}

static void move_word(void *data, void *word) {
  const struct copying *c = data;
  char *p;
  memcpy(&p, word, sizeof p);
  if (!p)
    return;
  p = c->to + (p - c->from);
  memcpy(word, &p, sizeof p);
}

static int copy_all(struct copying *c, struct family_member *from) {
  struct heap *heap = (struct heap *)(void *)c->to;
  int r = heap_copy_parts(from->heap, copy_part, c);
  if (r < 0)
    return r;
  heap_copy_words(heap, move_word, c);
  return heap_copy_adopt(heap, 0);
}

int duplicate_make(struct family_member *to, struct family_member *from, char *why,
                   size_t size) {
  struct pointers pointers;
  struct heap_shape shape;
  const char *reason = heap_copy_prepare(from->heap);
  if (reason || (reason = relocate_obstacle(from->L))) {
    snprintf(why, size, "the interpreter can't be copied: %s", reason);
    return -EBUSY;
  }
  heap_copy_shape(from->heap, &shape);
  struct copying c = {(char *)from->heap,
                      heap_copy_reserve(&shape, heap_copy_place(from->heap)), &pointers};
  int r = -ENOMEM;
  if (c.to) {
    r = heap_copy_pointers(from->heap, from->L, &pointers);
    if (r == 0) {
      r = copy_all(&c, from);
      pointers_free(&pointers);
    }
    if (r < 0)
      heap_copy_drop(c.to, &shape);
  }
  if (r < 0) {
    snprintf(why, size, "there is no memory for a copy: %s", strerror(-r));
    return r;
  }
  to->heap = (struct heap *)(void *)c.to;
  to->L = (lua_State *)(void *)(c.to + ((char *)from->L - c.from));
  to->program = (lua_State *)(void *)(c.to + ((char *)from->program - c.from));
  return 0;
}

/* ---- what can't be copied ---- */

/* Metatables whose objects may be copied as they are, by their names in the registry:
 * files are opened anew (streams.h), a string buffer's memory and a pattern's code are
 * Lua's. */
static const char *const VOUCHED[] = {LUA_FILEHANDLE, "_UBOX*", "lpeg-pattern", NULL};

static int is_vouched(lua_State *L, const struct l54_table *metatable) {
  int vouched = 0;
  for (int i = 0; VOUCHED[i] && !vouched; i++) {
    luaL_getmetatable(L, VOUCHED[i]);
    vouched = lua_topointer(L, -1) == metatable;
    lua_pop(L, 1);
  }
  return vouched;
}

static void push_object(lua_State *L, struct l54_object *o) {
  lua_pushnil(L);
  struct l54_cell *cell = l54_thread(L)->top - 1;
  cell->word.pointer = o;
  cell->tag = o->type | L54_IS_OBJECT;
}

/* Whether the object on top has that field in its metatable. */
static int has_field(lua_State *L, const char *name) {
  int has = luaL_getmetafield(L, -1, name) != LUA_TNIL;
  lua_pop(L, has);
  return has;
}

/* Whether this is the address of memory that libraries have not got from their files: the
 * C library's heap, a mapping, a stack. maps: the lines of /proc/self/maps. */
static int is_foreign(FILE *maps, const struct heap_shape *shape, const char *base,
                      uintptr_t word) {
  char line[400];
  if (word < 65536 || word - (uintptr_t)base < shape->region + shape->zone)
    return 0;
  rewind(maps);
  while (fgets(line, sizeof line, maps)) {
    unsigned long from, to, inode;
    char access[5];
    if (sscanf(line, "%lx-%lx %4s %*s %*s %lu", &from, &to, access, &inode) == 4 &&
        word >= from && word < to)
      return inode == 0 && access[0] == 'r';
  }
  return 0;
}

static int has_foreign_word(FILE **maps, struct family_member *m,
                            const struct l54_userdata *u) {
  const char *at = (const char *)u + l54_userdata_head(u);
  const char *end = at + u->nbytes / sizeof(void *) * sizeof(void *);
  struct heap_shape shape;
  heap_copy_shape(m->heap, &shape);
  for (; at < end; at += sizeof(void *)) {
    uintptr_t word;
    memcpy(&word, at, sizeof word);
    if (word < 65536 || (uint64_t)word >> 47)
      continue;
    if (!*maps && !(*maps = fopen("/proc/self/maps", "re")))
      return 0;
    if (is_foreign(*maps, &shape, (const char *)m->heap, word))
      return 1;
  }
  return 0;
}

static const char *why_not(FILE **maps, struct family_member *m, struct l54_object *o,
                           int finalises) {
  struct l54_userdata *u = (struct l54_userdata *)o;
  if (!u->metatable || is_vouched(m->L, u->metatable))
    return NULL;
  push_object(m->L, o);
  const char *reason = NULL;
  if (!has_field(m->L, "__clone"))
    reason = finalises && has_field(m->L, "__gc")
                 ? "it has a finaliser, which both copies would run"
             : has_foreign_word(maps, m, u)
                 ? "it has the address of memory that both copies would use"
                 : NULL;
  lua_pop(m->L, 1);
  return reason;
}

int duplicate_obstacle(struct family_member *m) {
  struct l54_global *g = l54_thread(m->L)->global;
  FILE *maps = NULL;
  const char *reason = NULL;
  struct l54_object *o = NULL;
  int collects = lua_gc(m->L, LUA_GCISRUNNING);
  lua_checkstack(m->L, 6);
  lua_gc(m->L, LUA_GCSTOP); /* the lists stay */
  struct l54_object *lists[] = {g->with_finaliser, g->all, g->to_finalise};
  for (size_t i = 0; i < sizeof lists / sizeof *lists && !reason; i++)
    for (o = lists[i]; o; o = o->next)
      if (o->type == L54_USERDATA && !l54_is_dead(o, g) &&
          (reason = why_not(&maps, m, o, lists[i] != g->all)))
        break;
  if (maps)
    fclose(maps);
  if (reason)
    push_object(m->L, o);
  if (collects)
    lua_gc(m->L, LUA_GCRESTART);
  if (!reason)
    return 0;
  lua_pushstring(m->L, reason);
  return 1;
}

int duplicate_adopt(lua_State *L) {
  struct l54_global *g = l54_thread(L)->global;
  lua_Integer n = 0;
  int collects = lua_gc(L, LUA_GCISRUNNING), list;
  luaL_checkstack(L, 8, NULL);
  lua_newtable(L);
  list = lua_gettop(L);
  lua_gc(L, LUA_GCSTOP); /* the lists stay, but for what is put before them */
  struct l54_object *lists[] = {g->with_finaliser, g->all};
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
    for (struct l54_object *o = lists[i]; o; o = o->next) {
      if (o->type != L54_USERDATA || l54_is_dead(o, g) ||
          !((struct l54_userdata *)o)->metatable)
        continue;
      push_object(L, o);
      if (has_field(L, "__clone"))
        lua_rawseti(L, list, ++n);
      else
        lua_pop(L, 1);
    }
  if (collects)
    lua_gc(L, LUA_GCRESTART);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, list, i);
    luaL_getmetafield(L, -1, "__clone");
    lua_insert(L, -2);
    lua_call(L, 1, 0);
  }
  lua_settop(L, list - 1);
  return 0;
}
