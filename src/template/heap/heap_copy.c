/* See heap_copy.h. Runs in templates and clones; one thread for each heap. */
#include "template/heap/heap_copy.h"

#include "template/heap/big.h"
#include "template/heap/freeze.h"
#include "template/heap/kept.h"
#include "template/heap/region.h"
#include "template/heap/scratch.h"
#include "template/heap/zone.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

size_t heap_copy_record_size(void) {
  return sizeof(struct heap);
}

void *heap_copy_node(struct heap *h) {
  return h->node;
}

size_t heap_copy_extent(const struct heap *h) {
  return (size_t)(h->zone_top - h->base);
}

const char *heap_copy_prepare(struct heap *h) {
  kept_drop_all(h);
  if (!h->zone || h->zone_ended)
    return "address space is limited, so that its long strings and large tables lie "
           "anywhere";
  if (h->foreign)
    return "the interpreter was there before the template, and has its own allocator";
  if (h->scratch || h->ncovers)
    return "it is not quiet";
  for (size_t i = 0; i < h->big_places; i++)
    if (h->bigs[i].block && !zone_holds(h, h->bigs[i].block))
      return "it has a long string or a large table for which there was no room where "
             "they lie together";
  return NULL;
}

void heap_copy_shape(const struct heap *h, struct heap_shape *ret) {
  *ret = (struct heap_shape){.region = (uint64_t)(h->end - h->base),
                             .zone = (uint64_t)(h->zone_end - h->zone),
                             .open = (uint64_t)(h->hard_end - h->base)};
}

size_t heap_copy_front(const struct heap *h) { /* of the head all */
  const char *top = h->top > h->first ? h->top : h->first;
  return round_up((size_t)(top - h->base), h->page);
}

struct part {
  char *at;
  size_t size;
};

static int part_compare(const void *a, const void *b) {
  const struct part *x = a, *y = b;
  return x->at < y->at ? -1 : x->at > y->at;
}

int heap_copy_parts(const struct heap *h, int (*f)(void *data, char *at, size_t size),
                    void *data) {
  size_t n = 0, max = h->nbigs + 3;
  struct part *parts = calloc(max, sizeof *parts);
  int r = parts ? 0 : -ENOMEM;
  if (!parts)
    return r;
  parts[n++] = (struct part){h->base, heap_copy_front(h)};
  if (h->bigs_map)
    parts[n++] = (struct part){(char *)h->bigs, h->bigs_map};
  if (h->zone_list_map)
    parts[n++] = (struct part){(char *)zone_list(h), h->zone_list_map};
  for (size_t i = 0; i < h->big_places; i++)
    if (h->bigs[i].block && n < max)
      parts[n++] = (struct part){h->bigs[i].block, h->bigs[i].map_size};
  qsort(parts, n, sizeof *parts, part_compare);
  for (size_t i = 0; i < n && r == 0; i++)
    r = f(data, parts[i].at, parts[i].size);
  free(parts);
  return r;
}

/* The memory in use, as ranges in order. */
struct used {
  struct pointers_range *range;
  size_t n, room;
};

static int add_used(void *data, char *at, size_t size) {
  struct used *u = data;
  if (u->n == u->room) {
    size_t more = u->room ? u->room * 2 : 16;
    struct pointers_range *larger = realloc(u->range, more * sizeof *larger);
    if (!larger)
      return -ENOMEM;
    u->range = larger;
    u->room = more;
  }
  u->range[u->n++] = (struct pointers_range){at, size};
  return 0;
}

static int record(const struct heap *h, lua_State *L, struct pointers *ret,
                  int looks_for_node) {
  struct used used = {0};
  int r = heap_copy_parts(h, add_used, &used);
  if (r == 0)
    r = pointers_record(ret, L, h, heap_copy_extent(h), used.range, used.n,
                        looks_for_node);
  free(used.range);
  return r;
}

int heap_copy_pointers(const struct heap *h, lua_State *L, struct pointers *ret) {
  return record(h, L, ret, 0);
}

int heap_copy_pointers_node(const struct heap *h, lua_State *L, struct pointers *ret) {
  return record(h, L, ret, 1);
}

void heap_copy_words(struct heap *h, void (*f)(void *data, void *word), void *data) {
  void *words[] = {&h->first,      &h->base,     &h->end,        &h->top,
                   &h->soft_end,   &h->hard_end, &h->sealed_end, &h->run_start,
                   &h->frozen_end, &h->hot_top,  &h->hot_end,    &h->zone,
                   &h->zone_end,   &h->zone_top, &h->bigs};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    f(data, words[i]);
  for (size_t i = 0; i < h->big_places; i++)
    f(data, &h->bigs[i].block);
}

/* ---- a new one ---- */

uint64_t heap_copy_place(const struct heap *h) {
  return region_place_of_copy(h);
}

char *heap_copy_reserve(const struct heap_shape *shape, uint64_t at) {
  if (region_limit() != SIZE_MAX || shape->region > SIZE_MAX / 4 ||
      shape->zone > SIZE_MAX / 4)
    return NULL;
  return region_reserve_copy((size_t)(shape->region + shape->zone), at);
}

int heap_copy_open(char *p, size_t n) {
  return n && mprotect(p, n, PROT_READ | PROT_WRITE) < 0 ? -ENOMEM : 0;
}

char *heap_copy_retire(struct heap *h, const struct heap_shape *shape, size_t used,
                       size_t warm) {
  struct heap_shape own;
  heap_copy_shape(h, &own);
  if (own.region != shape->region || own.zone != shape->zone || !h->zone ||
      h->zone_ended || own.open < used) {
    heap_free(h);
    return NULL;
  }
  big_deinit(h);
  kept_drop_all(h);
  freeze_deinit(h);
  scratch_deinit(h);
  region_forget(h);
  struct heap gone = *h; /* the record lies in what is given back */
  char *from = gone.base + used, *top = align_up(gone.top, gone.page);
  size_t dirty = top > from ? (size_t)(top - from) : 0;
  size_t kept = size_min(dirty, round_up(warm, gone.page));
  memset(from, 0, kept);
  if (madvise(from + kept, (size_t)(gone.hard_end - from) - kept, MADV_DONTNEED) == 0 &&
      zone_clear(&gone) == 0)
    return gone.base;
  heap_copy_drop(gone.base, shape);
  return NULL;
}

void heap_copy_drop(char *base, const struct heap_shape *shape) {
  munmap(base, (size_t)(shape->region + shape->zone));
}

/* An address of a heap that was at base, as the distance from there; SIZE_MAX: none. */
static uint64_t distance(const void *p, uint64_t base, uint64_t max) {
  uint64_t at = (uint64_t)(uintptr_t)p;
  return at >= base && at - base <= max ? at - base : UINT64_MAX;
}

int heap_copy_is_sound(const struct heap *r, uint64_t base,
                       const struct heap_shape *shape) {
  uint64_t region = shape->region, zone = shape->zone, open = shape->open;
  uint64_t top = distance(r->top, base, open), hot = distance(r->hot_end, base, open);
  uint64_t run = distance(r->run_start, base, open);
  uint64_t sealed = distance(r->sealed_end, base, open);
  uint64_t frozen = distance(r->frozen_end, base, open);
  uint64_t first = distance(r->first, base, open);
  if (r->page != (size_t)sysconf(_SC_PAGESIZE) || open > region ||
      distance(r->base, base, 0) != 0 || distance(r->end, base, region) != region ||
      distance(r->hard_end, base, region) != open || top < sizeof *r || top > open ||
      distance(r->soft_end, base, open) < top || run > open || sealed > run ||
      first < sizeof *r || first > run || frozen < first ||
      frozen > (sealed > first ? sealed : first) ||
      (r->hot_end && (hot > open || distance(r->hot_top, base, open) > hot)))
    return 0;
  uint64_t used = top > first ? top : first;
  for (unsigned c = 0; c < NCLASS; c++)
    if (r->list[c] >= used || r->stash[c] >= used)
      return 0;
  if (r->spans >= used)
    return 0;
  uint64_t zone_at = distance(r->zone, base, region), all = region + zone;
  uint64_t bigs = distance(r->bigs, base, all);
  if (zone_at != region || distance(r->zone_end, base, all) != all ||
      distance(r->zone_top, base, all) == UINT64_MAX || r->zone_ended)
    return 0;
  int inside = bigs == offsetof(struct heap, big_first) && r->big_places == NBIG_FIRST &&
               r->bigs_map == 0;
  return r->big_places > 0 && (r->big_places & (r->big_places - 1)) == 0 &&
         r->nbigs * 2 <= r->big_places &&
         (inside || (bigs >= region && bigs < all && r->bigs_map <= all - bigs &&
                     r->big_places <= r->bigs_map / sizeof(struct big))) &&
         zone_is_sound(r, zone);
}

void heap_copy_tables(const struct heap *r, uint64_t base, struct heap_range ret[2]) {
  const char *list = (const char *)zone_list(r);
  ret[0] = (struct heap_range){(uint64_t)(uintptr_t)r->bigs - base, r->bigs_map};
  ret[1] = (struct heap_range){(uint64_t)(uintptr_t)list - base, r->zone_list_map};
}

static int bigs_are_sound(const struct heap *h) {
  size_t n = 0;
  for (size_t i = 0; i < h->big_places; i++) {
    const struct big *b = &h->bigs[i];
    if (!b->block)
      continue;
    n++;
    if (!zone_holds(h, b->block) || b->map_size > (size_t)(h->zone_top - b->block) ||
        (uintptr_t)b->block % h->page || b->map_size % h->page)
      return 0;
  }
  return n == h->nbigs;
}

int heap_copy_adopt(struct heap *h, int shared) {
  if (!bigs_are_sound(h))
    return -EINVAL;
  char *used = h->base + heap_copy_front(h);
  if (heap_copy_open(used, (size_t)(h->hard_end - used)) < 0)
    return -ENOMEM;
  h->foreign = NULL;
  h->foreign_ud = NULL;
  h->publish = NULL;
  h->watch = NULL;
  h->mirrors = NULL;
  h->mirrors_map = h->nmirrors = 0;
  h->ncovers = h->nkept = h->kept_bytes = 0;
  h->offer = NULL;
  h->offer_taken = 0;
  h->scratch = h->scratch_top = h->scratch_end = NULL;
  h->scratch_live = h->table_grown = 0;
  h->inherited = 0;
  freeze_adopt(h, shared);
  region_register(h);
  return 0;
}
