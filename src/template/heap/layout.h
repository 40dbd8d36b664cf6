/* What the files of this folder share: the record of a heap, which lies at the start of
 * its own region, and the smallest helpers. Each group of fields belongs to the file
 * named beside it; the others read it. */
#ifndef TEMPLATE_HEAP_LAYOUT_H
#define TEMPLATE_HEAP_LAYOUT_H

#include "os/memfile.h"
#include "template/heap/size_class.h"

#include <sys/mman.h>

enum {
  BIG_HUGE = 4 << 20,  /* a mapping of its own worth huge pages */
  SMALL_RUN = 2 << 20, /* what a run has in small pages before huge ones */
  PUBLISH_STEP = 64 * 1024,
  SPAN_MIN = 1024,
  NBIG_FIRST = 32,
  NKEPT = 8,
  NCOVERS = 16,
  NZONE_FIRST = 32,
  HEAP_SELDOM = 4096, /* a page on most machines */
  HEAP_STATE = 2560   /* a new interpreter's state and stack, Lua 5.4 */
};

/* Where free memory is, as bytes from the heap's record: a copy of the region at another
 * address has working lists. 0: none. */
typedef uint64_t heap_at;

struct free_block {
  heap_at next; /* in span_gather: with the block's class in its top */
};
_Static_assert(sizeof(struct free_block) <= FINE_STEP, "the smallest block has a link");

struct big {
  char *block; /* NULL: an empty place */
  size_t map_size;
  size_t frozen; /* bytes from the front */
  uint64_t age;  /* of the heap when it was made; less than the heap's: sealed */
};

struct mirror { /* see memfd_map.h */
  char *at;
  size_t size;
};

struct cover { /* frozen memory that a copy stands for, see heap_cover */
  char *place, *aside;
  size_t size;
};

struct zone_range { /* free addresses, see zone.h */
  heap_at at;
  uint64_t size;
};

struct kept { /* the mapping of a big block that was freed */
  void *map;
  size_t size;
};

struct span { /* free memory without a class, see span.h */
  heap_at next;
  uint64_t size;
};

/* What clones write lies at the end, the interpreter's state and stack follow it as the
 * first blocks of the region, and the hot blocks these: in one page, so that a birth
 * copies one and not three. A clone writes to the lists when it frees something. */
struct heap {
  union {
    struct {
      heap_at stash[NCLASS]; /* holes in the sealed part; the template's only */
      uint64_t stash_bytes;
      char *frozen_end; /* of the region, from the first run on */
      size_t small;     /* bytes in small pages between there and sealed_end */
      struct mirror *mirrors;
      size_t mirrors_map;
      struct big big_first[NBIG_FIRST];
      struct cover covers[NCOVERS];
      size_t ncovers;
      struct zone_range zone_first[NZONE_FIRST];
      uint64_t node[3]; /* heap_copy.h */
      /* kept.c */
      struct kept kept[NKEPT]; /* oldest first */
      size_t nkept, kept_bytes;
      /* small.c */
      heap_at list[NCLASS];
    };
    char seldom_written[HEAP_SELDOM];
  };
  /* region.c */
  char *base, *end; /* the reservation */
  char *first;      /* the first run, at a huge boundary; before it: the head */
  char *top;        /* blocks are cut here */
  char *soft_end;   /* up to here without asking again */
  char *hard_end;   /* accessible up to here */
  char *sealed_end; /* below: sealed */
  char *run_start;
  int clone;    /* forked and not sealed since: small pages only */
  int run_huge; /* the run has come to its huge pages */
  int reuse;    /* the template may use the stash */
  /* alloc.c: what it counts. own: in the region */
  uint64_t live, own, own_big, sealed, huge;
  uint64_t age; /* seals and forks so far */
  void *(*foreign)(void *, void *, size_t, size_t);
  void *foreign_ud;
  volatile uint64_t *publish;
  uint64_t published; /* is there */
  size_t page;
  heap_watch watch;
  void *watch_data;
  /* big.c */
  struct big *bigs; /* open addressing, a power of two places, half full at most */
  size_t nbigs, big_places, bigs_map;
  uint64_t big_bytes;
  void *offer;
  size_t offer_map, offer_nsize;
  int offer_taken;
  /* zone.c; zone NULL: there is none */
  char *zone, *zone_end, *zone_top;
  size_t nzone_free, zone_list_map;
  uint64_t zone_largest; /* no free range is longer */
  int zone_ended;
  int keeps; /* kept.c */
  /* scratch.c */
  char *scratch, *scratch_top, *scratch_end;
  uint64_t scratch_live;
  size_t table_grown;
  /* small.c, span.c, release.c */
  heap_at spans;
  uint64_t span_bytes;
  uint64_t freed;          /* since spans were gathered last */
  uint64_t stuck;          /* free, and no whole pages, when memory was released last */
  char *hot_top, *hot_end; /* what is left of the hot part */
  enum heap_hot hot;       /* what goes there now */
  /* freeze.c */
  size_t nmirrors; /* ours: a clone has none */
  int inherited;   /* frozen memory, without a mirror */
  int shared;      /* with the file of an image */
};

_Static_assert(offsetof(struct heap, base) == HEAP_SELDOM,
               "what clones write has its own page");

static inline size_t round_up(size_t n, size_t unit) {
  return (n + unit - 1) / unit * unit;
}

static inline char *align_up(char *p, size_t unit) {
  return p + (-(uintptr_t)p & (unit - 1));
}

static inline size_t size_min(size_t a, size_t b) {
  return a < b ? a : b;
}

/* The record lies at the start of the region. */
static inline heap_at heap_at_of(const struct heap *h, const void *p) {
  return p ? (heap_at)((const char *)p - (const char *)h) : 0;
}

static inline struct free_block *free_at(struct heap *h, heap_at at) {
  return at ? (struct free_block *)(void *)((char *)h + at) : NULL;
}

static inline struct span *span_at(struct heap *h, heap_at at) {
  return at ? (struct span *)(void *)((char *)h + at) : NULL;
}

/* Zeroed memory of the system's. NULL: none. */
static inline void *map_new(size_t n) {
  void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

/* Tells who watches (heap_publish) when enough has changed. */
static inline void live_publish(struct heap *h) {
  if (!h->publish || h->live - h->published + PUBLISH_STEP / 2 < PUBLISH_STEP)
    return;
  *h->publish = h->published = h->live;
}

#endif
