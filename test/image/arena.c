#include "arena.h"

#include "image/pointers.h"
#include "image/relocate.h"
#include "unit/sanitized.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if SANITIZED
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, n) ((void)(at), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(at, n) ((void)(at), (void)(n))
#endif

#define REGION ((size_t)256 << 20)
#define FIRST UINT64_C(0x210000000000)
enum { GRAIN = 16, GAP = 16, CLASSES = 28 };

struct block {
  size_t offset, nbytes; /* nbytes 0: free */
  size_t room;
  uint32_t next_free;
  uint32_t met; /* the check in which it was met last */
};

struct arena {
  char *base;
  size_t top;
  unsigned random;
  struct block *blocks; /* the first one is none */
  uint32_t nblocks, room_blocks, nalive, checks;
  uint32_t *owner; /* of each grain of the region */
  uint32_t free[CLASSES];
};

static unsigned next_random(struct arena *a) {
  a->random = a->random * 1664525 + 1013904223;
  return a->random >> 8;
}

static char *region_at(struct arena *a) {
  for (int i = 0; i < 1000; i++) {
    uint64_t place = FIRST + next_random(a) % 1024 * RELOCATE_STEP;
    char *at = (char *)(uintptr_t)place;
    char *got = mmap(at, REGION, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == at)
      return got;
    if (got != MAP_FAILED)
      munmap(got, REGION);
  }
  perror("no region");
  exit(2);
}

struct arena *arena_new(unsigned seed) {
  struct arena *a = calloc(1, sizeof *a);
  if (!a)
    exit(2);
  a->random = seed;
  a->owner = mmap(NULL, REGION / GRAIN * sizeof *a->owner, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (a->owner == MAP_FAILED)
    exit(2);
  a->base = region_at(a);
  a->nblocks = 1;
  return a;
}

static void region_drop(const struct arena *a, char *base) {
  ASAN_UNPOISON_MEMORY_REGION(base, a->top);
  munmap(base, REGION);
}

void arena_free(struct arena *a) {
  region_drop(a, a->base);
  munmap(a->owner, REGION / GRAIN * sizeof *a->owner);
  free(a->blocks);
  free(a);
}

/* Rooms of 16 bytes, 32, 64, ... */
static int class_of(size_t n) {
  int class = 0;
  while (((size_t)GRAIN << class) < n)
    class ++;
  return class;
}

static uint32_t new_block(struct arena *a, int class) {
  size_t room = (size_t)GRAIN << class;
  if (a->nblocks >= a->room_blocks) {
    a->room_blocks = a->room_blocks ? a->room_blocks * 2 : 4096;
    a->blocks = realloc(a->blocks, a->room_blocks * sizeof *a->blocks);
    if (!a->blocks)
      exit(2);
    a->blocks[0] = (struct block){0};
  }
  if (room + GAP > REGION - a->top)
    return 0;
  uint32_t b = a->nblocks++;
  a->blocks[b] = (struct block){.offset = a->top, .room = room};
  for (size_t i = 0; i < room / GRAIN; i++)
    a->owner[a->top / GRAIN + i] = b;
  ASAN_POISON_MEMORY_REGION(a->base + a->top, room + GAP);
  a->top += room + GAP;
  return b;
}

static char *take(struct arena *a, size_t n) {
  int class = class_of(n);
  uint32_t b = a->free[class];
  if (b)
    a->free[class] = a->blocks[b].next_free;
  else if (!(b = new_block(a, class)))
    return NULL;
  struct block *block = &a->blocks[b];
  block->nbytes = n;
  block->met = 0;
  a->nalive++;
  ASAN_UNPOISON_MEMORY_REGION(a->base + block->offset, n);
  return a->base + block->offset;
}

static void drop(struct arena *a, char *p) {
  uint32_t b = a->owner[(size_t)(p - a->base) / GRAIN];
  struct block *block = &a->blocks[b];
  int class = class_of(block->room);
  if (next_random(a) % 4) /* else it keeps what was in it */
    memset(p, 0xdd, block->nbytes);
  ASAN_POISON_MEMORY_REGION(p, block->room);
  block->nbytes = 0;
  block->next_free = a->free[class];
  a->free[class] = b;
  a->nalive--;
}

void *arena_allocate(void *data, void *p, size_t old, size_t n) {
  struct arena *a = data;
  char *q = NULL;
  if (n && !(q = take(a, n)))
    return NULL;
  if (p && q)
    memcpy(q, p, old < n ? old : n);
  if (p)
    drop(a, p);
  return q;
}

size_t arena_nblocks(const struct arena *a) {
  return a->nalive;
}

char *arena_base(const struct arena *a, size_t *ret_nbytes) {
  *ret_nbytes = a->top;
  ASAN_UNPOISON_MEMORY_REGION(a->base, a->top);
  return a->base;
}

/* ---- checking ---- */

static struct block *block_at(struct arena *a, const void *at) {
  size_t offset = (size_t)((uintptr_t)at - (uintptr_t)a->base);
  if (offset >= a->top)
    return NULL;
  struct block *block = &a->blocks[a->owner[offset / GRAIN]];
  return offset - block->offset < block->nbytes ? block : NULL;
}
bool arena_find(struct arena *a, const void *at, struct compare_block *ret_block) {
  struct block *block = block_at(a, at);
  if (!block)
    return false;
  *ret_block = (struct compare_block){a->base + block->offset, block->nbytes};
  return true;
}
static bool find(void *context, const void *at, struct compare_block *ret_block) {
  return arena_find(context, at, ret_block);
}
static bool meet(void *context, const void *start) {
  struct arena *a = context;
  struct block *block = block_at(a, start);
  if (block->met == a->checks)
    return false;
  block->met = a->checks;
  return true;
}

const char *arena_check(struct arena *a, lua_State *L) {
  static const struct compare_allocator allocator = {find, meet};
  a->checks++;
  return compare_state(L, &allocator, a).fault;
}

/* ---- moving ---- */

/* What lies between blocks is poisoned; so it is not memcpy. */
__attribute__((no_sanitize("address"))) static void
copy_words(uint64_t *to, const uint64_t *from, size_t n) {
  for (size_t i = 0; i < n; i++)
    ((volatile uint64_t *)to)[i] = from[i];
}

static void poison_again(struct arena *a) {
#if SANITIZED
  ASAN_POISON_MEMORY_REGION(a->base, a->top);
  for (uint32_t i = 1; i < a->nblocks; i++)
    if (a->blocks[i].nbytes)
      ASAN_UNPOISON_MEMORY_REGION(a->base + a->blocks[i].offset, a->blocks[i].nbytes);
#endif
}

static void copy_by_record(struct arena *a, lua_State *L, char *to, intptr_t difference) {
  struct pointers_range all = {a->base, a->top};
  struct pointers r;
  if (pointers_record(&r, L, a->base, a->top, &all, 1, 0))
    exit(2);
  ASAN_UNPOISON_MEMORY_REGION(a->base, a->top);
  ASAN_UNPOISON_MEMORY_REGION(to, a->top);
  relocate_copy(to, a->base, a->top, r.bits, difference);
  pointers_free(&r);
}

lua_State *arena_state(struct arena *a) {
#if LUA_VERSION_NUM == 504
  return lua_newstate(arena_allocate, a);
#else
  return lua_newstate(arena_allocate, a, a->random);
#endif
}

void *arena_move(struct arena *a, lua_State **L, void *p, enum arena_way way) {
  char *from = a->base, *to = region_at(a);
  intptr_t difference = (intptr_t)((uintptr_t)to - (uintptr_t)from);
  lua_State *moved = (lua_State *)((uintptr_t)*L + (uintptr_t)difference);
  if (way == ARENA_RECORD)
    copy_by_record(a, *L, to, difference);
  else
    copy_words((uint64_t *)(void *)to, (uint64_t *)(void *)from, a->top / 8);
  region_drop(a, from);
  a->base = to;
  poison_again(a);
  if (way == ARENA_WALK)
    relocate_state(moved, from, a->top, difference);
  *L = moved;
  return (char *)p + difference;
}
