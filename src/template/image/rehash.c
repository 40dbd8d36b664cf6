/* See rehash.h. Lua finds an entry by its key's hash, so a table whose keys have changed
 * can't be asked for anything. So its hash part is taken away as a whole, and Lua puts
 * the entries into the table that is left, one by one. */
#include "template/image/rehash.h"

#include "image/layout54.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

struct job {
  char *base;
  const uint64_t *tables;
  uint64_t n;
  struct l54_entry *old;
};

static void push(lua_State *L, union l54_word word, unsigned char tag) {
  lua_pushnil(L);
  struct l54_cell *cell = l54_thread(L)->top - 1;
  cell->word = word;
  cell->tag = tag;
}

static int is_live(const struct l54_entry *e) {
  return (e->tag & 15) != LUA_TNIL && (e->key_tag & 15) != LUA_TNIL &&
         e->key_tag != L54_DEAD_KEY;
}

/* t becomes a table without a hash part, as a new one is. */
static void empty(lua_State *L, struct l54_table *t, size_t n) {
  struct l54_global *g = l54_thread(L)->global;
  lua_newtable(L);
  const struct l54_table *fresh = lua_topointer(L, -1);
  void *data;
  lua_Alloc allocate = lua_getallocf(L, &data);
  allocate(data, t->entries, n * sizeof *t->entries, 0);
  g->debt -= (ptrdiff_t)(n * sizeof *t->entries);
  t->entries = fresh->entries;
  t->last_free = NULL;
  t->log2_entries = 0;
  lua_pop(L, 1);
}

static void place_anew(lua_State *L, struct job *job, struct l54_table *t) {
  size_t n = (size_t)1 << t->log2_entries;
  if (!t->last_free)
    return;
  job->old = malloc(n * sizeof *job->old);
  if (!job->old) {
    luaL_error(L, "not enough memory");
    return;
  }
  memcpy(job->old, t->entries, n * sizeof *job->old);
  empty(L, t, n);
  push(L, (union l54_word){.pointer = t}, L54_TABLE | L54_IS_OBJECT);
  for (size_t i = 0; i < n; i++) {
    const struct l54_entry *e = &job->old[i];
    if (!is_live(e))
      continue;
    push(L, e->key, e->key_tag);
    push(L, e->word, e->tag);
    lua_rawset(L, -3);
  }
  lua_pop(L, 1);
  free(job->old);
  job->old = NULL;
}

static int l_rehash(lua_State *L) {
  struct job *job = lua_touserdata(L, 1);
  luaL_checkstack(L, 8, NULL);
  for (uint64_t i = 0; i < job->n; i++)
    place_anew(L, job, (struct l54_table *)(void *)(job->base + job->tables[i]));
  return 0;
}

int rehash_tables(lua_State *L, char *base, const uint64_t *tables, uint64_t n) {
  struct job job = {.base = base, .tables = tables, .n = n};
  int running = lua_gc(L, LUA_GCISRUNNING);
  if (n == 0)
    return 0;
  if (!lua_checkstack(L, 4))
    return -ENOMEM;
  lua_gc(L, LUA_GCSTOP); /* what is in `old` alone is alive */
  lua_pushcfunction(L, l_rehash);
  lua_pushlightuserdata(L, &job);
  int r = lua_pcall(L, 1, 0, 0) == LUA_OK ? 0 : -ENOMEM;
  if (r < 0)
    lua_pop(L, 1);
  free(job.old);
  if (running)
    lua_gc(L, LUA_GCRESTART);
  return r;
}
