/* See big.h. Runs in templates and clones; one thread. */
#include "template/heap/big.h"

#include "template/heap/kept.h"
#include "template/heap/memfd_map.h"
#include "template/heap/zone.h"

#include <errno.h>
#include <string.h>

void big_init(struct heap *h) {
  h->bigs = h->big_first;
  h->big_places = NBIG_FIRST;
}

void big_deinit(struct heap *h) {
  for (size_t i = 0; i < h->big_places; i++)
    if (h->bigs[i].block && (h->zone_ended || !zone_holds(h, h->bigs[i].block)))
      munmap(h->bigs[i].block, h->bigs[i].map_size);
  if (h->bigs_map && (h->zone_ended || !zone_holds(h, h->bigs)))
    munmap(h->bigs, h->bigs_map);
}

static size_t big_hash(const struct heap *h, const void *block) {
  return (size_t)((heap_at_of(h, block) >> 12) * 0x9e3779b97f4a7c15u >> 32) &
         (h->big_places - 1);
}

static struct big *big_place(const struct heap *h, const void *block) {
  size_t i = big_hash(h, block);
  while (h->bigs[i].block && h->bigs[i].block != block)
    i = (i + 1) & (h->big_places - 1);
  return &h->bigs[i];
}

struct big *big_find(const struct heap *h, const void *block) {
  struct big *b = big_place(h, block);
  return b->block ? b : NULL;
}

static int big_reserve(struct heap *h) { /* a place for one more */
  if ((h->nbigs + 1) * 2 <= h->big_places)
    return 0;
  size_t places = h->big_places * 2;
  while (places * 2 * sizeof *h->bigs <=
         h->page) /* zone_table tells them by their size */
    places *= 2;
  size_t size = round_up(places * sizeof *h->bigs, h->page);
  struct big *bigger = zone_table(h, size), *old = h->bigs;
  if (!bigger)
    return -ENOMEM;
  size_t old_places = h->big_places, old_map = h->bigs_map;
  h->bigs = bigger;
  h->big_places = places;
  h->bigs_map = size;
  for (size_t i = 0; i < old_places; i++)
    if (old[i].block)
      *big_place(h, old[i].block) = old[i];
  if (old_map)
    munmap(old, old_map);
  return 0;
}

static void big_insert(struct heap *h, void *block, size_t map_size, uint64_t age) {
  struct big *b = big_place(h, block);
  *b = (struct big){.block = block, .map_size = map_size, .age = age};
  h->nbigs++;
  h->big_bytes += map_size;
}

static void big_remove(struct heap *h, struct big *b) {
  h->nbigs--;
  h->big_bytes -= b->map_size;
  size_t mask = h->big_places - 1, hole = (size_t)(b - h->bigs);
  h->bigs[hole].block = NULL;
  /* Move back what had to step over the hole. */
  for (size_t i = (hole + 1) & mask; h->bigs[i].block; i = (i + 1) & mask) {
    size_t home = big_hash(h, h->bigs[i].block);
    if (((i - home) & mask) < ((i - hole) & mask))
      continue;
    h->bigs[hole] = h->bigs[i];
    h->bigs[i].block = NULL;
    hole = i;
  }
}

/* What a template keeps in a mapping of BIG_HUGE and more begins at a huge boundary, also
 * where it moves to: else moving would split its huge pages. */
static int big_is_huge(const struct heap *h, size_t map_size) {
  return !h->clone && map_size >= BIG_HUGE;
}

static size_t big_map_size(const struct heap *h,
                           size_t n) { /* 0: more than there can be */
  if (n > SIZE_MAX / 4)
    return 0;
  size_t map_size = round_up(n, h->page);
  return big_is_huge(h, map_size) ? round_up(n, HUGE_PAGE) : map_size;
}

/* n bytes of addresses, without access; huge: at a multiple of HUGE_PAGE plus off. */
static char *place_take(struct heap *h, size_t n, int huge, size_t off) {
  char *place = zone_take(h, n, huge ? HUGE_PAGE : 0, off);
  return place ? place : memfd_map_reserve(n, off);
}

static int place_open(char *place, size_t n) {
  return mmap(place, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
              -1, 0) == MAP_FAILED
             ? -ENOMEM
             : 0;
}

static void *map_place(struct heap *h, size_t n, int huge) {
  char *place = place_take(h, n, huge, 0);
  if (!place || place_open(place, n) == 0)
    return place;
  zone_unmap(h, place, n);
  return NULL;
}

static int has_zone(const struct heap *h) {
  return h->zone && !h->zone_ended;
}

static void big_advise(void *block, size_t map_size) {
#ifdef MADV_HUGEPAGE
  (void)madvise(block, map_size, MADV_HUGEPAGE); /* best effort */
#endif
}

static void *map_fresh(struct heap *h, size_t n) {
  int huge = big_is_huge(h, n);
  return huge || has_zone(h) ? map_place(h, n, huge) : map_new(n);
}

static void *big_map(struct heap *h, size_t *map_size) {
  void *map = kept_take(h, map_size, has_zone(h));
  if (map)
    return map;
  map = map_fresh(h, *map_size);
  if (map || h->nkept == 0)
    return map;
  kept_drop_all(h);
  return map_fresh(h, *map_size);
}

void *big_alloc(struct heap *h, size_t n) {
  size_t map_size = big_map_size(h, n);
  if (map_size == 0 || big_reserve(h) < 0)
    return NULL;
  int huge = big_is_huge(h, map_size);
  void *block = big_map(h, &map_size);
  if (!block)
    return NULL;
  if (huge)
    big_advise(block, map_size);
  big_insert(h, block, map_size, h->age);
  h->live += n;
  h->own_big += n;
  live_publish(h);
  return block;
}

static void tell(const struct heap *h, const struct big *b, enum heap_watched what,
                 size_t from) {
  if (h->watch && b->age != h->age)
    h->watch(h->watch_data, what, b->block + from, b->map_size - from);
}

void big_free(struct heap *h, struct big *b, size_t n) {
  struct big gone = *b;
  tell(h, b, HEAP_GOES, 0);
  big_remove(h, b);
  if (gone.age != h->age || !kept_put(h, gone.block, gone.map_size))
    zone_unmap(h, gone.block, gone.map_size);
  h->live -= n;
  if (gone.age == h->age)
    h->own_big -= size_min(n, h->own_big);
  live_publish(h);
}

#ifdef MREMAP_MAYMOVE
static int remap_to(char *from, size_t n, size_t size, char *place) {
  return mremap(from, n, size, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place ? 0 : -1;
}

/* The file's part keeps its place in a huge page. What follows is moved, or new. */
static char *big_grow_frozen(struct heap *h, const struct big *b, size_t map_size) {
  size_t head = b->frozen, tail = b->map_size - head, more = map_size - head;
  char *place = place_take(h, map_size, 1, (uintptr_t)b->block & (HUGE_PAGE - 1));
  if (!place)
    return NULL;
  int r = tail ? remap_to(b->block + head, tail, more, place + head)
               : place_open(place + head, more);
  if (r == 0 && remap_to(b->block, head, head, place) == 0) {
    zone_put_hole(h, b->block, b->map_size);
    return place;
  }
  if (r == 0 && tail)
    (void)remap_to(place + head, more, tail, b->block + head);
  zone_unmap(h, place, map_size);
  return NULL;
}

static int big_grow_in_place(struct heap *h, const struct big *b, size_t map_size) {
  char *end = b->block + b->map_size;
  size_t more = map_size - b->map_size;
  if (zone_holds(h, b->block) && !zone_take_behind(h, end, more))
    return 0;
  if (mremap(b->block, b->map_size, map_size, 0) != MAP_FAILED)
    return 1;
  zone_put_hole(h, end, more);
  return 0;
}

/* Moves page tables, never bytes: what is shared stays shared. NULL: no room. */
static char *big_grow(struct heap *h, const struct big *b, size_t map_size) {
  int huge = big_is_huge(h, map_size);
  if (b->frozen)
    return big_grow_frozen(h, b, map_size);
  if ((!huge || ((uintptr_t)b->block & (HUGE_PAGE - 1)) == 0) &&
      big_grow_in_place(h, b, map_size))
    return b->block;
  char *place = place_take(h, map_size, huge, 0);
  if (!place)
    return NULL;
  if (remap_to(b->block, b->map_size, map_size, place) == 0) {
    zone_put_hole(h, b->block, b->map_size);
    return place;
  }
  zone_unmap(h, place, map_size);
  return NULL;
}
#else
static char *big_grow(struct heap *h, const struct big *b, size_t map_size) {
  char *moved = map_fresh(h, map_size);
  if (!moved)
    return NULL;
  memcpy(moved, b->block, b->map_size);
  zone_unmap(h, b->block, b->map_size);
  return moved;
}
#endif

static char *big_remap(struct heap *h, const struct big *b, size_t map_size) {
  if (map_size > b->map_size)
    return big_grow(h, b, map_size);
  zone_unmap(h, b->block + map_size, b->map_size - map_size);
  return b->block;
}

void *big_resize(struct heap *h, struct big *b, size_t osize, size_t nsize) {
  size_t map_size = big_map_size(h, nsize);
  if (map_size == 0)
    return NULL;
  struct big moved = *b;
  if (map_size != b->map_size) {
    if (map_size > b->map_size)
      tell(h, b, HEAP_MOVES, 0);
    else
      tell(h, b, HEAP_GOES, map_size);
    moved.block = big_remap(h, b, map_size);
    if (!moved.block && h->nkept > 0) {
      kept_drop_all(h);
      moved.block = big_remap(h, b, map_size);
    }
    if (!moved.block)
      return nsize < osize ? b->block : NULL;
    size_t frozen = size_min(moved.frozen, map_size);
    if (big_is_huge(h, map_size))
      big_advise(moved.block + frozen, map_size - frozen);
    big_remove(h, b);
    big_insert(h, moved.block, map_size, moved.age); /* a place has just become free */
    big_place(h, moved.block)->frozen = frozen;
  }
  h->live += (uint64_t)nsize - osize;
  if (moved.age == h->age)
    h->own_big += (uint64_t)nsize - osize;
  live_publish(h);
  return moved.block;
}

void *big_take_offer(struct heap *h, size_t nsize) {
  if (big_reserve(h) < 0)
    return NULL;
  void *block = h->offer;
  big_insert(h, block, h->offer_map, h->age);
  h->offer = NULL;
  h->offer_taken = 1;
  h->live += nsize;
  h->own_big += nsize;
  live_publish(h);
  return block;
}

void *heap_bring_in(struct heap *h, void *map, size_t map_size) {
#ifdef MREMAP_MAYMOVE
  char *place = has_zone(h) ? zone_take(h, map_size, 0, 0) : NULL;
  if (place && remap_to(map, map_size, map_size, place) == 0)
    return place;
  if (place)
    zone_unmap(h, place, map_size);
#else
  (void)h, (void)map_size;
#endif
  return map;
}

void heap_offer(struct heap *h, void *map, size_t map_size, size_t nsize) {
  h->offer = map;
  h->offer_map = map_size;
  h->offer_nsize = nsize;
  h->offer_taken = 0;
}

int heap_withdraw(struct heap *h) {
  h->offer = NULL;
  return h->offer_taken;
}
