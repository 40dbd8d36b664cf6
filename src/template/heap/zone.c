/* See zone.h. Runs in templates and clones; one thread.
 *
 *   zone -> | tables | free list | places ... | not used yet |
 *                                             ^zone_top      ^zone_end
 *
 * Places are cut from the front, or from the first free range that is long enough. What
 * is free is mapped without access, so that nothing else of the process comes to lie
 * there. Where that can't be had, a range is given up for good: addresses only. */
#include "template/heap/zone.h"

#include <errno.h>
#include <string.h>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

enum { LIST_MAX = 32 << 20 };
#define TABLE_MAX ((size_t)128 << 20)
#define ZONE_MIN ((size_t)1 << 30)

void zone_init(struct heap *h, char *from, size_t size) {
  if (size < ZONE_MIN)
    return;
  h->zone = from;
  h->zone_end = from + size;
  h->zone_top = from + TABLE_MAX + LIST_MAX;
}

static struct zone_range *list_in_zone(const struct heap *h) {
  return (struct zone_range *)(void *)(h->zone + TABLE_MAX);
}

struct zone_range *zone_list(const struct heap *h) {
  return h->zone_list_map ? list_in_zone(h)
                          : (struct zone_range *)(uintptr_t)h->zone_first;
}

static void *map_here(char *place, size_t n) {
  return mmap(place, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
              -1, 0) == MAP_FAILED
             ? NULL
             : place;
}

/* Each size has its own place, so that a table can be copied into the next larger one. */
void *zone_table(const struct heap *h, size_t size) {
  if (!h->zone || h->zone_ended)
    return map_new(size);
  return size * 2 <= TABLE_MAX ? map_here(h->zone + size, size) : NULL;
}

static int list_room(struct heap *h) {
  size_t size = h->zone_list_map;
  if (h->nzone_free < (size ? size / sizeof(struct zone_range) : NZONE_FIRST))
    return 1;
  size_t more = size ? size : h->page;
  if (size + more > LIST_MAX || !map_here((char *)list_in_zone(h) + size, more))
    return 0;
  if (!size)
    memcpy(list_in_zone(h), h->zone_first, sizeof h->zone_first);
  h->zone_list_map += more;
  return 1;
}

static void list_remove(struct heap *h, size_t i) {
  struct zone_range *r = zone_list(h);
  h->nzone_free--;
  memmove(&r[i], &r[i + 1], (h->nzone_free - i) * sizeof *r);
}

static int list_insert(struct heap *h, size_t i, heap_at at, uint64_t size) {
  if (!list_room(h))
    return 0;
  struct zone_range *r = zone_list(h);
  memmove(&r[i + 1], &r[i], (h->nzone_free - i) * sizeof *r);
  r[i] = (struct zone_range){at, size};
  h->nzone_free++;
  return 1;
}

static size_t list_after(const struct heap *h, heap_at at) { /* the first behind it */
  const struct zone_range *r = zone_list(h);
  size_t low = 0, high = h->nzone_free;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (r[middle].at <= at)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/* Joined with its neighbours. */
static void range_put(struct heap *h, heap_at at, uint64_t size) {
  struct zone_range *r = zone_list(h);
  size_t i = list_after(h, at);
  if (i < h->nzone_free && r[i].at == at + size) {
    size += r[i].size;
    list_remove(h, i);
  }
  if (i > 0 && r[i - 1].at + r[i - 1].size == at) {
    i--;
    at = r[i].at;
    size += r[i].size;
    list_remove(h, i);
  }
  if (at + size == heap_at_of(h, h->zone_top))
    h->zone_top = (char *)h + at;
  else if (list_insert(h, i, at, size) && size > h->zone_largest)
    h->zone_largest = size;
}

static heap_at range_start(const struct heap *h, heap_at at, size_t align, size_t off) {
  uintptr_t p = (uintptr_t)h + at;
  return align ? at + ((off - p) & (align - 1)) : at;
}

/* [at, at + size) of the range i is used from now on. */
static void range_cut(struct heap *h, size_t i, heap_at at, uint64_t size) {
  struct zone_range *r = zone_list(h), whole = r[i];
  heap_at end = whole.at + whole.size, used = at + size;
  if (at > whole.at)
    r[i].size = at - whole.at;
  else if (used < end)
    r[i] = (struct zone_range){used, end - used};
  else
    list_remove(h, i);
  if (at > whole.at && used < end)
    (void)list_insert(h, i + 1, used, end - used);
}

static char *take_free(struct heap *h, size_t n, size_t align, size_t off) {
  uint64_t largest = 0;
  if (n > h->zone_largest)
    return NULL;
  for (size_t i = 0; i < h->nzone_free; i++) {
    struct zone_range r = zone_list(h)[i];
    heap_at at = range_start(h, r.at, align, off);
    if (at + n <= r.at + r.size) {
      range_cut(h, i, at, n);
      return (char *)h + at;
    }
    largest = r.size > largest ? r.size : largest;
  }
  h->zone_largest = largest; /* at most; more than n where it is only aligned badly */
  return NULL;
}

char *zone_take(struct heap *h, size_t n, size_t align, size_t off) {
  if (!h->zone || h->zone_ended)
    return NULL;
  char *place = take_free(h, n, align, off);
  if (place)
    return place;
  heap_at top = heap_at_of(h, h->zone_top), at = range_start(h, top, align, off);
  heap_at end = heap_at_of(h, h->zone_end);
  if (at > end || n > end - at)
    return NULL;
  h->zone_top = (char *)h + at + n;
  if (at > top)
    range_put(h, top, at - top);
  return (char *)h + at;
}

static void *map_without_access(char *place, size_t n, int flags) {
  return mmap(place, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags,
              -1, 0);
}

/* Not by MAP_FIXED: by now something else may be mapped there. */
void zone_put_hole(struct heap *h, char *place, size_t n) {
  if (!zone_holds(h, place) || h->zone_ended)
    return;
  void *p = map_without_access(place, n, 0);
  if (p == place)
    range_put(h, heap_at_of(h, place), n);
  else if (p != MAP_FAILED)
    munmap(p, n);
}

void zone_unmap(struct heap *h, char *p, size_t n) {
  if (!zone_holds(h, p) || h->zone_ended || map_without_access(p, n, MAP_FIXED) != p)
    munmap(p, n);
  else
    range_put(h, heap_at_of(h, p), n);
}

int zone_take_behind(struct heap *h, char *end, size_t n) {
  if (!zone_holds(h, end - 1) || h->zone_ended)
    return 0;
  heap_at at = heap_at_of(h, end);
  if (end == h->zone_top) {
    if (n > (size_t)(h->zone_end - end))
      return 0;
    h->zone_top += n;
  } else {
    size_t i = list_after(h, at);
    if (i == 0 || zone_list(h)[i - 1].at != at || zone_list(h)[i - 1].size < n)
      return 0;
    range_cut(h, i - 1, at, n);
  }
  munmap(end, n);
  return 1;
}

static size_t table_size(const struct heap *h) { /* 0: none that lies here */
  return zone_holds(h, h->bigs) ? h->bigs_map : 0;
}

void zone_end_use(struct heap *h) {
  if (!h->zone || h->zone_ended)
    return;
  for (size_t i = 0; i < h->nzone_free; i++)
    munmap((char *)h + zone_list(h)[i].at, zone_list(h)[i].size);
  h->nzone_free = h->zone_largest = 0;
  h->zone_ended = 1;
  size_t table = table_size(h);
  char *places = h->zone + TABLE_MAX + LIST_MAX;
  if (table)
    munmap(h->zone, table);
  munmap(h->zone + table * 2, (size_t)(places - h->zone) - table * 2);
  munmap(h->zone_top, (size_t)(h->zone_end - h->zone_top));
}

/* What has been given back may be somebody else's by now. */
void zone_deinit(struct heap *h) {
  if (h->zone && !h->zone_ended)
    munmap(h->zone, (size_t)(h->zone_end - h->zone));
}

static int is_untouched(const struct heap *h) {
  return h->zone_top == h->zone + TABLE_MAX + LIST_MAX && table_size(h) == 0 &&
         h->zone_list_map == 0;
}

int zone_clear(const struct heap *h) {
  size_t size = (size_t)(h->zone_end - h->zone);
  return is_untouched(h) || map_without_access(h->zone, size, MAP_FIXED) == h->zone
             ? 0
             : -ENOMEM;
}

int zone_is_sound(const struct heap *record, uint64_t size) {
  uint64_t used = (uint64_t)(record->zone_top - record->zone);
  return size >= ZONE_MIN && used >= TABLE_MAX + LIST_MAX && used <= size &&
         record->zone_list_map <= LIST_MAX &&
         record->nzone_free <= (record->zone_list_map
                                    ? record->zone_list_map / sizeof(struct zone_range)
                                    : NZONE_FIRST);
}
