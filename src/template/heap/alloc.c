/* The Lua heap of a template and its clones: the allocator, and the life of a heap. Runs
 * in templates and clones; one thread.
 *
 *   region   | head    | small run | built by the template | fresh run   | PROT_NONE
 *   pages    | small   | frozen, if they are worth it      | small       | not there yet
 *            ^ base    ^ first                             ^ sealed_end
 *
 * Blocks are cut from the front of the region in the order they are asked for, so that
 * what belongs together lies together. A freed block goes to the list of its size class;
 * Lua tells the size of what it frees, so blocks have no header. Everything below
 * sealed_end is sealed: one comparison tells. A clone never writes there on its own
 * account: it starts with empty lists at the end of the region, and what it frees below
 * that line stays as it is. The template itself may use such holes again (stash), else
 * a template that is changed and sealed for ever would grow for ever.
 *
 * A run starts in small pages, because most templates and clones are small and a huge
 * page costs its zeroing; when a template's run outgrows SMALL_RUN, huge pages follow.
 * Blocks of HEAP_BIG bytes and more are mappings of their own in a zone behind the
 * region, listed in a hash table; a process that runs keeps a few that it has freed. What
 * is neither here nor there belongs to the foreign allocator.
 *
 *   alloc --> small --> region, span, free_list, size_class
 *        `--> big   --> kept, memfd_map, zone
 *        `--> scratch, freeze (--> memfd_map), release (--> span) */
#include "template/heap/big.h"
#include "template/heap/freeze.h"
#include "template/heap/kept.h"
#include "template/heap/region.h"
#include "template/heap/scratch.h"
#include "template/heap/small.h"

#include <assert.h>
#include <lua.h>
#include <string.h>

enum {
  RUN_WORTH = 1 << 20,   /* what a seal starts a new run for */
  UNIT_WORTH = 512 << 10 /* what a huge page is frozen for, whose rest is lost */
};

static void *block_new(struct heap *h, size_t tag, size_t n) {
  if (tag == LUA_TSTRING && (h->offer || h->scratch_top)) {
    void *block = NULL;
    if (h->offer && n == h->offer_nsize)
      block = big_take_offer(h, n);
    else if (h->scratch_top)
      block = scratch_alloc(h, n);
    if (block)
      return block;
  }
  return n < HEAP_BIG ? small_alloc(h, tag, n) : big_alloc(h, n);
}

static void block_free(struct heap *h, void *block, size_t n) {
  if (region_holds(h, block)) {
    small_free(h, block, n);
    return;
  }
  struct big *b = big_find(h, block);
  if (b) {
    big_free(h, b, n);
  } else if (scratch_holds(h, block)) {
    h->scratch_live--;
  } else {
    assert(h->foreign && "a block that no allocator here made");
    h->foreign(h->foreign_ud, block, n, 0);
  }
}

/* Less must always be had: the block stays, and counts as a smaller one. */
static void *block_keep(struct heap *h, void *block, size_t less) {
  struct big *b = region_holds(h, block) ? NULL : big_find(h, block);
  if (!b && !region_holds(h, block))
    return block; /* foreign, or scratch: not counted */
  h->live -= less;
  if (b && b->age == h->age)
    h->own_big -= size_min(less, h->own_big);
  else if (!b && !region_is_sealed(h, block))
    h->own -= size_min(less, h->own);
  return block;
}

static void *block_move(struct heap *h, void *block, size_t osize, size_t nsize) {
  void *moved = block_new(h, 0, nsize);
  if (!moved)
    return nsize <= osize ? block_keep(h, block, osize - nsize) : NULL;
  memcpy(moved, block, size_min(osize, nsize));
  block_free(h, block, osize);
  return moved;
}

static void *block_resize_small(struct heap *h, void *block, size_t osize, size_t nsize) {
  if (osize == 0)
    return NULL; /* cannot be: Lua has no empty blocks */
  size_t have = size_class_bytes(size_class_of(osize));
  int stays =
      nsize < HEAP_BIG && (size_class_of(nsize) == size_class_of(osize) ||
                           (nsize < have && region_is_sealed(h, block) && h->clone));
  if (!stays)
    return block_move(h, block, osize, nsize);
  h->live += (uint64_t)nsize - osize;
  if (!region_is_sealed(h, block))
    h->own += (uint64_t)nsize - osize;
  return block;
}

static void *block_resize(struct heap *h, void *block, size_t osize, size_t nsize) {
  if (h->table_grown == 1 && nsize == osize * 2 && osize >= 1024)
    h->table_grown = nsize;
  if (region_holds(h, block))
    return block_resize_small(h, block, osize, nsize);
  struct big *b = big_find(h, block);
  if (b)
    return nsize < HEAP_BIG ? block_move(h, block, osize, nsize)
                            : big_resize(h, b, osize, nsize);
  if (!scratch_holds(h, block) && nsize <= osize)
    return h->foreign(h->foreign_ud, block, osize, nsize);
  return block_move(h, block, osize, nsize);
}

void *heap_alloc(void *ud, void *block, size_t osize, size_t nsize) {
  struct heap *h = ud;
  if (!block)
    return nsize ? block_new(h, osize, nsize) : NULL;
  if (nsize == 0) {
    block_free(h, block, osize);
    return NULL;
  }
  return block_resize(h, block, osize, nsize);
}

struct heap *heap_new(size_t reserve) {
  struct heap *h = region_open(reserve);
  if (!h)
    return NULL;
  freeze_init(h);
  big_init(h);
  return h;
}

void heap_free(struct heap *h) {
  if (!h)
    return;
  big_deinit(h);
  kept_drop_all(h);
  freeze_deinit(h);
  scratch_deinit(h);
  region_close(h);
}

void heap_set_foreign(struct heap *h, void *(*alloc)(void *, void *, size_t, size_t),
                      void *ud) {
  h->foreign = alloc;
  h->foreign_ud = ud;
}

/* A little more in the run since the last seal stays as it is: clones leave it alone by
 * themselves, and the template would lose the rest of a page each time. */
static int seal_can_wait(const struct heap *h) {
  return h->sealed_end != h->base && h->top < h->run_start + RUN_WORTH;
}

void heap_seal(struct heap *h) {
  h->keeps = 0;
  kept_drop_all(h);
  if (h->clone) { /* becomes a template: the holes it inherited stay shared */
    memset(h->stash, 0, sizeof h->stash);
    h->stash_bytes = 0;
  }
  int all_small = h->clone;
  h->clone = 0;
  live_publish(h);
  if (seal_can_wait(h))
    return;
  small_stash_all(h);
  h->age++;
  h->reuse = h->stash_bytes > (uint64_t)(h->top - h->base) / 4;
  size_t run = h->top > h->run_start ? (size_t)(h->top - h->run_start) : 0;
  h->small += all_small ? run : size_min(run, SMALL_RUN);
  size_t unit = h->page;
  if (h->top > h->first && ((uintptr_t)h->top & (HUGE_PAGE - 1)) >= UNIT_WORTH)
    unit = HUGE_PAGE;
  region_start_run(h, unit);
  h->sealed_end = h->run_start;
  h->sealed = h->live;
  h->own = h->own_big = 0;
}

void heap_forked(struct heap *h) {
  h->keeps = 0;
  kept_drop_all(h);
  for (unsigned c = 0; c < NCLASS; c++)
    if (h->list[c]) /* they lie in a page that clones write to seldom */
      h->list[c] = 0;
  h->spans = 0;
  h->span_bytes = h->freed = h->stuck = 0;
  h->reuse = 0; /* the stash is left as it is: not to be looked at */
  h->clone = 1;
  h->age++;
  h->own = h->own_big = 0;
  h->sealed = h->live;
  h->publish = NULL;
  h->nmirrors = 0;
  h->inherited = 1;
  if (h->top > h->run_start)
    region_start_run(h, h->page);
  h->sealed_end = h->run_start;
}

void heap_set_watch(struct heap *h, heap_watch watch, void *data) {
  h->watch = watch;
  h->watch_data = data;
}

void heap_touch_all(struct heap *h) {
  if (h->watch)
    h->watch(h->watch_data, HEAP_MOVES, NULL, 0);
}

uint64_t heap_live(const struct heap *h) {
  return h->live;
}

void heap_stats(const struct heap *h, struct heap_stats *ret) {
  *ret = (struct heap_stats){
      .live = h->live,
      .own = h->own + h->own_big,
      .sealed = h->sealed,
      .reserved = (uint64_t)(h->end - h->base),
      .touched = (uint64_t)(h->top - h->base),
      .huge = h->huge,
      .frozen = freeze_bytes(h),
      .big = h->big_bytes,
      .nbig = h->nbigs,
  };
}

void heap_publish(struct heap *h, volatile uint64_t *where, int is_there) {
  h->publish = where;
  h->published = h->live;
  if (where && !is_there)
    *where = h->live;
}
