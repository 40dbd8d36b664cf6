#include "image/pointers.h"

#include "image/walk54.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct recording {
  struct pointers *r;
  const struct l54_table *streams; /* the metatable of Lua's files */
  const struct pointers_range *used;
  size_t nused;
  size_t outsides_room, tables_room;
  bool failed, looks_for_node;
};

static inline uintptr_t word_at(const void *slot) {
  uintptr_t word;
  memcpy(&word, slot, sizeof word);
  return word;
}
static inline uint64_t offset_of(const struct pointers *r, const void *at) {
  return (uint64_t)((const char *)at - r->base);
}
/* What may lead outside: right behind the region there is somebody else. */
static inline bool is_inside(const struct pointers *r, uintptr_t word) {
  return word - (uintptr_t)r->base < r->nbytes;
}

void pointers_add(struct pointers *r, const void *slot) {
  uint64_t i = offset_of(r, slot) / sizeof(void *);
  uint64_t bit = (uint64_t)1 << i % 64;
  r->npointers += !(r->bits[i / 64] & bit);
  r->bits[i / 64] |= bit;
}

/* Room for one more, twice as much each time. */
static bool grow(struct recording *c, void *array, size_t n, size_t *room, size_t size) {
  void **at = array;
  if (n < *room)
    return true;
  size_t more = *room ? *room * 2 : 256;
  void *larger = realloc(*at, more * size);
  if (!larger) {
    c->failed = true;
    return false;
  }
  *at = larger;
  *room = more;
  return true;
}

static void list(struct recording *c, const void *slot, enum image_kind kind,
                 const struct l54_userdata *u) {
  struct pointers *r = c->r;
  if (!grow(c, &r->outsides, r->noutsides, &c->outsides_room, sizeof *r->outsides))
    return;
  r->outsides[r->noutsides++] = (struct pointers_outside){
      offset_of(r, slot), word_at(slot), u ? offset_of(r, u) : 0, kind};
}

/* What leads to the end of a block may lead to the region's end. */
static inline void see(void *context, void *slot) {
  struct recording *c = context;
  if (word_at(slot) - (uintptr_t)c->r->base <= c->r->nbytes)
    pointers_add(c->r, slot);
}
/* There is one such node, the library's. */
static inline bool is_node(struct recording *c, uintptr_t word, enum image_kind kind) {
  struct pointers *r = c->r;
  if (kind != IMAGE_DUMMY_NODE || !c->looks_for_node)
    return false;
  if (!r->node)
    r->node = (const void *)word;
  return word == (uintptr_t)r->node;
}

static inline void see_outside(void *context, void *slot, enum image_kind kind) {
  struct recording *c = context;
  uintptr_t word = word_at(slot);
  if (is_inside(c->r, word) || is_node(c, word, kind))
    pointers_add(c->r, slot);
  else if (word)
    list(c, slot, kind, NULL);
}

/* Whether it leads into memory in use, or to its end. */
static bool is_used(const struct recording *c, uintptr_t word) {
  size_t low = 0, high = c->nused; /* the first range that begins behind it */
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if ((uintptr_t)c->used[middle].from <= word)
      low = middle + 1;
    else
      high = middle;
  }
  return low > 0 && word - (uintptr_t)c->used[low - 1].from <= c->used[low - 1].nbytes;
}

static void see_stream(struct recording *c, struct l54_userdata *u, char *memory) {
  luaL_Stream *s = (luaL_Stream *)(void *)memory;
  see_outside(c, &s->closef, IMAGE_STREAM_CLOSE);
  if (s->f && !is_inside(c->r, (uintptr_t)s->f))
    list(c, &s->f, IMAGE_STREAM, u);
}
static inline void see_contents(void *context, struct l54_userdata *u, char *memory,
                                size_t nbytes) {
  struct recording *c = context;
  if (u->metatable && u->metatable == c->streams && nbytes == sizeof(luaL_Stream)) {
    see_stream(c, u, memory);
    return;
  }
  for (size_t i = 0; i + sizeof(void *) <= nbytes; i += sizeof(void *)) {
    uintptr_t word = word_at(memory + i);
    if (is_inside(c->r, word)) {
      if (is_used(c, word))
        pointers_add(c->r, memory + i);
    } else if (pointers_can_be_address(word))
      list(c, memory + i, IMAGE_USERDATA, u);
  }
}

static inline void see_key(void *context, struct l54_table *t, struct l54_entry *e) {
  struct recording *c = context;
  struct pointers *r = c->r;
  uint64_t offset = offset_of(r, t);
  if (is_inside(r, word_at(&e->key)) ||
      (r->ntables && r->tables[r->ntables - 1] == offset))
    return;
  if (grow(c, &r->tables, r->ntables, &c->tables_room, sizeof *r->tables))
    r->tables[r->ntables++] = offset;
}

static inline void no_object(void *context, struct l54_object *o, size_t nbytes) {
}
static inline void no_block(void *context, const void *at, size_t nbytes) {
}
static inline void need(void *context, int holds) {
  if (!holds)
    abort(); /* the self-check has seen that the layout is this one: memory was damaged */
}
static inline uintptr_t not_moved(void *context) {
  return 0;
}

static const struct walk_visitor recording = {
    .inside = see,
    .perhaps = see,
    .outside = see_outside,
    .object = no_object,
    .block = no_block,
    .uncounted = no_block,
    .need = need,
    .contents = see_contents,
    .outside_key = see_key,
    .moved_by = not_moved,
};

/* Makes no new string: where files have no metatable yet there are none. */
static const struct l54_table *stream_metatable(lua_State *L) {
  const void *t = NULL;
  if (!lua_checkstack(L, 3))
    return NULL;
  lua_pushnil(L);
  while (!t && lua_next(L, LUA_REGISTRYINDEX)) {
    if (lua_type(L, -2) == LUA_TSTRING && !strcmp(lua_tostring(L, -2), LUA_FILEHANDLE))
      t = lua_topointer(L, -1);
    lua_pop(L, t ? 2 : 1);
  }
  return t;
}

int pointers_record(struct pointers *r, lua_State *L, const void *base, size_t nbytes,
                    const struct pointers_range *used, size_t n, int looks_for_node) {
  struct recording c = {.r = r,
                        .streams = stream_metatable(L),
                        .used = used,
                        .nused = n,
                        .looks_for_node = looks_for_node != 0};
  *r = (struct pointers){.base = base, .nbytes = nbytes};
  r->bits = calloc(nbytes / 512 + 2, sizeof *r->bits);
  if (!r->bits)
    return -ENOMEM;
  walk_state(&recording, &c, L);
  if (!c.failed)
    return 0;
  pointers_free(r);
  return -ENOMEM;
}

void pointers_free(struct pointers *r) {
  free(r->bits);
  free(r->outsides);
  free(r->tables);
  *r = (struct pointers){0};
}

const char *pointers_kind(enum image_kind kind) {
  static const char *const names[IMAGE_KINDS] = {
      [IMAGE_C_FUNCTION] = "C function",
      [IMAGE_C_CLOSURE] = "function of a C closure",
      [IMAGE_LIGHT] = "light userdata",
      [IMAGE_CONTINUATION] = "continuation of a C function",
      [IMAGE_CONTEXT] = "context of a continuation",
      [IMAGE_HOOK] = "debug hook",
      [IMAGE_JUMP] = "place on the C stack",
      [IMAGE_EXTRA] = "extra space of a thread",
      [IMAGE_DUMMY_NODE] = "node of empty tables",
      [IMAGE_ALLOCATOR] = "allocator",
      [IMAGE_ALLOCATOR_DATA] = "data of the allocator",
      [IMAGE_PANIC] = "panic function",
      [IMAGE_WARN] = "warning function",
      [IMAGE_WARN_DATA] = "data of the warning function",
      [IMAGE_STREAM] = "libc stream",
      [IMAGE_STREAM_CLOSE] = "function that closes a stream",
      [IMAGE_STRING] = "characters of a host's string",
      [IMAGE_FIXED_CODE] = "code in a host's memory",
      [IMAGE_USERDATA] = "word of a userdata",
  };
  return names[kind];
}
