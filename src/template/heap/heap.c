/* The Lua heap of a template and its clones. Runs in templates and clones; one thread.
 *
 *   region   | struct heap, small run | built by the template     | fresh run | PROT_NONE ...
 *   pages      small                    huge, then frozen           small       not there yet
 *                                                                 ^sealed_end
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
 * Blocks of HEAP_BIG octets and more are mappings of their own, listed in a hash table by
 * address; a process that runs keeps a few that it has freed. What is neither here nor
 * there belongs to the foreign allocator.
 *
 * What is sealed and worth it is frozen (memfd_map.h): of the region all huge pages but the
 * first, where the state and the libraries lie, which everybody writes to; of the big
 * blocks all. A frozen block that grows is a file's mapping with an anonymous end. */
#include "template/heap/heap.h"

#include "template/heap/memfd_map.h"

#include <assert.h>
#include <errno.h>
#include <lua.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define HEAP_LSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HEAP_LSAN 1
#endif
#endif
#ifdef HEAP_LSAN
#include <sanitizer/lsan_interface.h>
#endif

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

enum {
  FINE_STEP = 8,             /* classes up to FINE_MAX differ by this */
  FINE_MAX = 512,
  NFINE = FINE_MAX / FINE_STEP,
  NCOARSE = 4 * 8,           /* four classes to each doubling up to HEAP_BIG */
  NCLASS = NFINE + NCOARSE,
  HUGE_PAGE = 2 << 20,
  BIG_HUGE = 4 << 20,        /* a mapping of its own worth huge pages */
  SMALL_RUN = 2 << 20,       /* what a run has in small pages before huge ones */
  RUN_WORTH = 1 << 20,       /* what a seal starts a new run for */
  PUBLISH_STEP = 64 * 1024,
  GROW_MIN = 2 << 20,        /* made accessible at a time */
  GROW_MAX = 64 << 20,
  SPAN_MIN = 1024,
  GATHER_WORTH = 64 * 1024,  /* freed since the last time */
  SMALL_COST = 4,            /* to fork: memory in small pages, against huge ones */
  NBIG_FIRST = 64,
  NKEPT = 8,
  NCOVERS = 64,
  RELEASE_WORTH = 16 << 20, /* free in a clone, beside half more than it uses */
  RELEASE_PAGES = 8,        /* together at least */
  KEPT_MAX = 8 << 20         /* octets of freed mappings in all, see heap_keep */
};
#define RESERVE_DEFAULT ((uint64_t)64 << 30) /* where pointers are long enough */
#define RESERVE_MIN ((size_t)16 << 20)

struct free_block {
  union {
    struct free_block *next;
    uint64_t link; /* in spans_gather: next and the block's class */
  };
};
_Static_assert(sizeof(struct free_block) <= FINE_STEP, "the smallest block has a link");
struct big {
  char *block; /* NULL: an empty place */
  size_t map_size;
  size_t frozen; /* octets from the front */
  uint64_t age; /* of the heap when it was made; less than the heap's: sealed */
};

struct mirror { /* see memfd_map.h */
  char *at;
  size_t size;
};

struct cover { /* frozen memory that a copy stands for, see heap_cover */
  char *place, *aside;
  size_t size;
};

struct kept { /* the mapping of a big block that was freed */
  void *map;
  size_t size;
};

struct span { /* free memory without a class, see spans_gather */
  struct span *next;
  size_t size;
};

struct heap {
  char *base, *end;     /* the reservation */
  char *top;            /* blocks are cut here */
  char *soft_end;       /* up to here without asking again */
  char *hard_end;       /* accessible up to here */
  char *sealed_end;     /* below: sealed */
  char *run_start;
  int clone;            /* forked and not sealed since: small pages only */
  int run_huge;         /* the run has come to its huge pages */
  int reuse;            /* the template may use the stash */
  uint64_t live, own, own_big, sealed, huge; /* own: in the region */
  uint64_t age; /* seals and forks so far */
  void *(*foreign)(void *, void *, size_t, size_t);
  void *foreign_ud;
  volatile uint64_t *publish;
  uint64_t published; /* is there */
  size_t page;
  struct big *bigs;     /* open addressing, a power of two places, half full at most */
  size_t nbigs, big_places, bigs_map;
  uint64_t big_bytes;
  struct kept kept[NKEPT]; /* oldest first */
  size_t nkept, kept_bytes;
  int keeps;
  void *offer;
  size_t offer_map, offer_nsize;
  int offer_taken;
  char *scratch, *scratch_top, *scratch_end; /* see heap_scratch */
  uint64_t scratch_live;
  size_t table_grown;
  struct free_block *list[NCLASS], *list_tail[NCLASS];
  struct span *spans;
  uint64_t span_bytes;
  uint64_t freed; /* since spans were gathered last */
  uint64_t stuck; /* free, and no whole pages, when memory was released last */
  size_t nmirrors; /* ours: a clone has none */
  int inherited;   /* frozen memory, without a mirror */
  /* From here on clones don't write, or seldom: the rest lies in another page. */
  uint64_t stash_bytes;
  struct free_block *stash[NCLASS]; /* holes in the sealed part; the template's only */
  char *frozen_end; /* of the region, from the first huge page on */
  struct mirror *mirrors;
  size_t mirrors_map;
  struct big big_first[NBIG_FIRST];
  struct cover covers[NCOVERS];
  size_t ncovers;
};

_Static_assert(offsetof(struct heap, stash_bytes) <= 4096, "what clones write: one page");

static size_t round_up(size_t n, size_t unit) {
  return (n + unit - 1) / unit * unit;
}
static char *align_up(char *p, size_t unit) {
  return p + (-(uintptr_t)p & (unit - 1));
}
static size_t size_min(size_t a, size_t b) {
  return a < b ? a : b;
}

/* --- size classes --------------------------------------------------------------------- */

static unsigned class_of(size_t n) { /* 0 < n < HEAP_BIG */
  if (n <= FINE_MAX)
    return (unsigned)((n - 1) / FINE_STEP);
  unsigned log2 = 63u - (unsigned)__builtin_clzll(n - 1); /* 2^log2 < n <= 2^(log2+1) */
  return NFINE + (log2 - 9) * 4 + (unsigned)(((n - 1) >> (log2 - 2)) & 3);
}
static size_t class_size(unsigned c) {
  if (c < NFINE)
    return (size_t)(c + 1) * FINE_STEP;
  unsigned log2 = 9 + (c - NFINE) / 4, quarter = (c - NFINE) % 4;
  return ((size_t)1 << log2) + ((size_t)(quarter + 1) << (log2 - 2));
}

/* --- free lists -------------------------------------------------------------------- */

static void list_put(struct heap *h, unsigned c, void *block) {
  struct free_block *b = block;
  b->next = h->list[c];
  if (!b->next)
    h->list_tail[c] = b;
  h->list[c] = b;
}

/* --- the region ----------------------------------------------------------------------- */

static int in_region(const struct heap *h, const void *p) {
  return (const char *)p >= h->base && (const char *)p < h->end;
}
static int is_sealed(const struct heap *h, const void *p) {
  return (const char *)p < h->sealed_end;
}
static void publish(struct heap *h) {
  if (!h->publish || h->live - h->published + PUBLISH_STEP / 2 < PUBLISH_STEP)
    return;
  *h->publish = h->published = h->live;
}

static void huge_advise(struct heap *h, char *from, size_t n) {
#ifdef MADV_HUGEPAGE
  if (n && madvise(from, n, MADV_HUGEPAGE) == 0) /* a wish: kernels without them say no */
    h->huge += n;
#endif
}
static void small_advise(struct heap *h, char *from, size_t n, int was_huge) {
#ifdef MADV_NOHUGEPAGE
  if (n && madvise(from, n, MADV_NOHUGEPAGE) == 0 && was_huge)
    h->huge -= n < h->huge ? n : h->huge;
#endif
}

/* Makes [hard_end, hard_end + n) accessible. -ENOMEM leaves all as it was. */
static int region_extend(struct heap *h, size_t n, int huge) {
  if (n > (size_t)(h->end - h->hard_end))
    return -ENOMEM;
  if (mprotect(h->hard_end, n, PROT_READ | PROT_WRITE) < 0)
    return -ENOMEM;
  if (huge)
    huge_advise(h, h->hard_end, n);
  h->hard_end += n;
  return 0;
}
static int region_grow(struct heap *h, size_t need) {
  size_t step = size_min((size_t)(h->top - h->run_start) / 4, GROW_MAX);
  step = round_up(step > GROW_MIN ? step : GROW_MIN, HUGE_PAGE);
  if (step < need)
    step = round_up(need, HUGE_PAGE);
  int huge = h->run_huge && !h->clone;
  if (region_extend(h, step, huge) == 0)
    return 0;
  /* The end is near, or the system counts: what is needed will do. */
  return region_extend(h, round_up(need, h->page), huge);
}
/* A template's run that outgrows its small pages goes on at the next huge page. */
static void region_turn_huge(struct heap *h) {
  char *huge = align_up(h->top, HUGE_PAGE);
  if (huge >= h->end)
    return;
  if (huge > h->hard_end && region_extend(h, (size_t)(huge - h->hard_end), 0) < 0)
    return;
  huge_advise(h, huge, (size_t)(h->hard_end - huge));
  h->top = huge;
  h->run_huge = 1;
}
/* Room for n octets at top, 16-aligned at least. */
static int region_room(struct heap *h, size_t n) {
  if (!h->clone && !h->run_huge && h->top + n > h->run_start + SMALL_RUN)
    region_turn_huge(h);
  if (n > (size_t)(h->hard_end - h->top)) {
    int r = region_grow(h, n - (size_t)(h->hard_end - h->top));
    if (r < 0)
      return r;
  }
  size_t ahead = n > PUBLISH_STEP ? n : PUBLISH_STEP;
  h->soft_end = h->top + size_min(ahead, (size_t)(h->hard_end - h->top));
  publish(h);
  return 0;
}
/* Sizes that are multiples of 16 are aligned so; the others hold nothing that cares. The
 * octets between are a block too: nothing is without an owner (spans_gather). */
static size_t pad_for(const char *p, size_t n) {
  return n % 16 == 0 ? -(uintptr_t)p & 15 : 0;
}
static void *region_cut(struct heap *h, size_t n) {
  if (n + pad_for(h->top, n) > (size_t)(h->soft_end - h->top) && region_room(h, n + 16) < 0)
    return NULL;
  char *pad = h->top, *block = pad + pad_for(pad, n);
  h->top = block + n;
  if (block > pad)
    list_put(h, class_of((size_t)(block - pad)), pad);
  return block;
}

/* --- small blocks --------------------------------------------------------------------- */


/* Where the region is used up, all that is free may lie in lists of other classes. Then
 * the lists are sorted by address, and neighbours that add up to SPAN_MIN become spans, to
 * be cut again. Needs no memory: a free block's class hides in the top of its link. */
enum { TAG_SHIFT = 57 }; /* no user address is that long */
#define TAG_MASK (~(uint64_t)0 << TAG_SHIFT)

static struct free_block *tagged_next(const struct free_block *b) {
  return (struct free_block *)(uintptr_t)(b->link & ~TAG_MASK);
}
static unsigned tagged_class(const struct free_block *b) {
  return (unsigned)(b->link >> TAG_SHIFT);
}
static void tagged_link(struct free_block *b, const struct free_block *next) {
  b->link = (uint64_t)(uintptr_t)next | (b->link & TAG_MASK);
}
static struct free_block *tagged_push(struct free_block *all, struct free_block *list,
                                      unsigned c) {
  while (list) {
    struct free_block *b = list;
    list = b->next;
    b->link = (uint64_t)(uintptr_t)all | (uint64_t)c << TAG_SHIFT;
    all = b;
  }
  return all;
}
static struct free_block *tagged_merge(struct free_block *a, struct free_block *b) {
  struct free_block head = { .link = 0 }, *last = &head;
  while (a && b) {
    struct free_block **lower = a < b ? &a : &b, *taken = *lower;
    *lower = tagged_next(taken);
    tagged_link(last, taken);
    last = taken;
  }
  tagged_link(last, a ? a : b);
  return tagged_next(&head);
}
static struct free_block *tagged_sort(struct free_block *all) {
  struct free_block *bins[48] = { NULL }; /* bin i: nothing, or 2^i blocks in order */
  while (all) {
    struct free_block *b = all;
    all = tagged_next(b);
    tagged_link(b, NULL);
    unsigned i = 0;
    for (; bins[i]; i++) {
      b = tagged_merge(bins[i], b);
      bins[i] = NULL;
    }
    bins[i] = b;
  }
  for (unsigned i = 0; i < 48; i++)
    if (bins[i])
      all = all ? tagged_merge(bins[i], all) : bins[i];
  return all;
}
static void span_put(struct heap *h, char *start, size_t size) {
  struct span *span = (struct span *)(void *)start;
  *span = (struct span){ h->spans, size };
  h->spans = span;
  h->span_bytes += size;
}
/* Back to the lists: every multiple of FINE_STEP up to FINE_MAX is the size of a class. */
static void pieces_put(struct heap *h, char *start, size_t size) {
  while (size > 0) {
    size_t piece = size_min(size, FINE_MAX);
    list_put(h, class_of(piece), start);
    start += piece;
    size -= piece;
  }
}
static void spans_gather(struct heap *h) {
  struct free_block *all = NULL;
  for (unsigned c = 0; c < NCLASS; c++) {
    all = tagged_push(all, h->list[c], c);
    h->list[c] = NULL;
    if (h->clone)
      continue;
    all = tagged_push(all, h->stash[c], c);
    h->stash[c] = NULL;
    h->stash_bytes = 0;
  }
  h->freed = 0;
  for (struct free_block *b = tagged_sort(all); b;) {
    struct free_block *first = b;
    char *end = (char *)b;
    while (b && (char *)b == end) {
      end += class_size(tagged_class(b));
      b = tagged_next(b);
    }
    if (end - (char *)first >= SPAN_MIN + 16) {
      span_put(h, (char *)first, (size_t)(end - (char *)first));
      continue;
    }
    while (first != b) {
      struct free_block *next = tagged_next(first);
      list_put(h, tagged_class(first), first);
      first = next;
    }
  }
}
static void *span_cut(struct heap *h, size_t n) {
  struct span **where = &h->spans;
  while (*where && (*where)->size < n + pad_for((char *)*where, n))
    where = &(*where)->next;
  struct span *span = *where;
  if (!span)
    return NULL;
  char *block = (char *)span + pad_for((char *)span, n), *tail = block + n;
  size_t rest = span->size - (size_t)(tail - (char *)span);
  struct span *next = span->next;
  h->span_bytes -= span->size;
  if (block > (char *)span)
    list_put(h, class_of((size_t)(block - (char *)span)), span);
  if (rest >= SPAN_MIN) { /* what is cut next begins where this ends */
    *where = (struct span *)(void *)tail;
    **where = (struct span){ next, rest };
    h->span_bytes += rest;
  } else {
    *where = next;
    pieces_put(h, tail, rest);
  }
  return block;
}
static void *last_resort(struct heap *h, size_t n) {
  void *block = span_cut(h, n);
  if (block || h->freed < GATHER_WORTH)
    return block;
  spans_gather(h);
  return span_cut(h, n);
}
static void *small_alloc(struct heap *h, size_t n) {
  unsigned c = class_of(n);
  struct free_block *b = h->list[c];
  if (b) {
    h->list[c] = b->next;
  } else if (h->reuse && h->stash[c]) {
    b = h->stash[c];
    h->stash[c] = b->next;
    h->stash_bytes -= class_size(c);
  } else {
    if (h->spans && h->clone)
      b = span_cut(h, class_size(c));
    if (!b)
      b = region_cut(h, class_size(c));
    if (!b)
      b = last_resort(h, class_size(c));
    if (!b)
      return NULL;
  }
  h->live += n;
  if (!is_sealed(h, b))
    h->own += n;
  return b;
}
static void small_free(struct heap *h, void *block, size_t n) {
  h->live -= n;
  h->freed += n;
  unsigned c = class_of(n);
  if (!is_sealed(h, block)) {
    h->own -= size_min(n, h->own);
    list_put(h, c, block);
  } else if (!h->clone) {
    /* The template's collector has just been here, so this dirties nothing new. */
    struct free_block *b = block;
    b->next = h->stash[c];
    h->stash[c] = b;
    h->stash_bytes += class_size(c);
  }
}

/* --- big blocks ----------------------------------------------------------------------- */

static size_t big_hash(const struct heap *h, const void *block) {
  return (size_t)(((uintptr_t)block >> 12) * 0x9e3779b97f4a7c15u >> 32) & (h->big_places - 1);
}
static struct big *big_place(const struct heap *h, const void *block) {
  size_t i = big_hash(h, block);
  while (h->bigs[i].block && h->bigs[i].block != block)
    i = (i + 1) & (h->big_places - 1);
  return &h->bigs[i];
}
static struct big *big_find(const struct heap *h, const void *block) {
  struct big *b = big_place(h, block);
  return b->block ? b : NULL;
}
static void *map_new(size_t n) {
  void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}
static int big_reserve(struct heap *h) { /* a place for one more */
  if ((h->nbigs + 1) * 2 <= h->big_places)
    return 0;
  size_t places = h->big_places * 2, size = round_up(places * sizeof *h->bigs, h->page);
  struct big *bigger = map_new(size), *old = h->bigs;
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
  *b = (struct big){ .block = block, .map_size = map_size, .age = age };
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
static size_t big_map_size(const struct heap *h, size_t n) { /* 0: more than there can be */
  if (n > SIZE_MAX / 4)
    return 0;
  size_t map_size = round_up(n, h->page);
  return big_is_huge(h, map_size) ? round_up(n, HUGE_PAGE) : map_size;
}
static char *map_aligned(size_t n) {
  char *p = frozen_reserve(n, 0);
  if (p && mprotect(p, n, PROT_READ | PROT_WRITE) < 0) {
    munmap(p, n);
    return NULL;
  }
  return p;
}
static void big_advise(void *block, size_t map_size) {
#ifdef MADV_HUGEPAGE
  (void)madvise(block, map_size, MADV_HUGEPAGE); /* a wish */
#endif
}
/* Where long strings come and go, each page of a fresh mapping would cost a fault. So some
 * mappings that were made here and freed serve further blocks of about their size. */
static void kept_remove(struct heap *h, size_t i) {
  h->kept_bytes -= h->kept[i].size;
  h->nkept--;
  memmove(&h->kept[i], &h->kept[i + 1], (h->nkept - i) * sizeof h->kept[i]);
}
static void kept_drop(struct heap *h, size_t most) { /* until at most so much is kept */
  while (h->nkept > 0 && (h->kept_bytes > most || h->nkept == NKEPT)) {
    munmap(h->kept[0].map, h->kept[0].size);
    kept_remove(h, 0);
  }
}
static void kept_drop_all(struct heap *h) {
  kept_drop(h, 0);
}
static int kept_put(struct heap *h, const struct big *b) {
  if (!h->keeps || b->age != h->age || b->map_size >= BIG_HUGE)
    return 0;
  kept_drop(h, KEPT_MAX - b->map_size);
  h->kept[h->nkept++] = (struct kept){ b->block, b->map_size };
  h->kept_bytes += b->map_size;
  return 1;
}
static void *kept_take(struct heap *h, size_t *map_size) { /* the smallest that fits well */
  size_t best = h->nkept, most = *map_size + *map_size / 4;
  for (size_t i = 0; i < h->nkept; i++)
    if (h->kept[i].size >= *map_size && h->kept[i].size <= most) {
      best = i;
      most = h->kept[i].size - 1;
    }
  if (best == h->nkept)
    return NULL;
  void *map = h->kept[best].map;
  *map_size = h->kept[best].size;
  kept_remove(h, best);
  return map;
}
static void *big_map(struct heap *h, size_t *map_size) {
  void *map = kept_take(h, map_size);
  if (map)
    return map;
  if (big_is_huge(h, *map_size))
    return map_aligned(*map_size);
  map = map_new(*map_size);
  if (map || h->nkept == 0)
    return map;
  kept_drop_all(h);
  return map_new(*map_size);
}
static void *big_alloc(struct heap *h, size_t n) {
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
  publish(h);
  return block;
}
static void big_free(struct heap *h, struct big *b, size_t n) {
  struct big gone = *b;
  big_remove(h, b);
  if (!kept_put(h, &gone))
    munmap(gone.block, gone.map_size);
  h->live -= n;
  if (gone.age == h->age)
    h->own_big -= size_min(n, h->own_big);
  publish(h);
}
#ifdef MREMAP_MAYMOVE
static int remap_to(char *from, size_t n, size_t size, char *place) {
  return mremap(from, n, size, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place ? 0 : -1;
}
/* The file's part keeps its place in a huge page. What follows is moved, or new. */
static char *frozen_grow(const struct big *b, size_t map_size) {
  size_t head = b->frozen, tail = b->map_size - head, more = map_size - head;
  char *place = frozen_reserve(map_size, (uintptr_t)b->block & (HUGE_PAGE - 1));
  if (!place)
    return NULL;
  int r = tail ? remap_to(b->block + head, tail, more, place + head)
               : mprotect(place + head, more, PROT_READ | PROT_WRITE);
  if (r == 0 && remap_to(b->block, head, head, place) == 0)
    return place;
  if (r == 0 && tail)
    (void)remap_to(place + head, more, tail, b->block + head);
  munmap(place, map_size);
  return NULL;
}
static char *frozen_resize(const struct big *b, size_t map_size) {
  if (map_size > b->map_size)
    return frozen_grow(b, map_size);
  munmap(b->block + map_size, b->map_size - map_size);
  return b->block;
}
/* Moves page tables, never octets: what is shared stays shared. NULL: no room. */
static char *big_remap(const struct heap *h, const struct big *b, size_t map_size) {
  if (b->frozen)
    return frozen_resize(b, map_size);
  if (!big_is_huge(h, map_size)) {
    void *moved = mremap(b->block, b->map_size, map_size, MREMAP_MAYMOVE);
    return moved == MAP_FAILED ? NULL : moved;
  }
  if (((uintptr_t)b->block & (HUGE_PAGE - 1)) == 0 &&
      mremap(b->block, b->map_size, map_size, 0) != MAP_FAILED)
    return b->block;
  char *place = frozen_reserve(map_size, 0);
  if (!place)
    return NULL;
  if (remap_to(b->block, b->map_size, map_size, place) == 0)
    return place;
  munmap(place, map_size);
  return NULL;
}
#else
static char *big_remap(const struct heap *h, const struct big *b, size_t map_size) {
  (void)h;
  if (map_size < b->map_size) {
    munmap(b->block + map_size, b->map_size - map_size);
    return b->block;
  }
  char *moved = map_new(map_size);
  if (!moved)
    return NULL;
  memcpy(moved, b->block, b->map_size);
  munmap(b->block, b->map_size);
  return moved;
}
#endif
static void *big_resize(struct heap *h, struct big *b, size_t osize, size_t nsize) {
  size_t map_size = big_map_size(h, nsize);
  if (map_size == 0)
    return NULL;
  struct big moved = *b;
  if (map_size != b->map_size) {
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
  publish(h);
  return moved.block;
}

/* --- the allocator -------------------------------------------------------------------- */

static void *offer_take(struct heap *h, size_t nsize) {
  if (big_reserve(h) < 0)
    return NULL;
  void *block = h->offer;
  big_insert(h, block, h->offer_map, h->age);
  h->offer = NULL;
  h->offer_taken = 1;
  h->live += nsize;
  h->own_big += nsize;
  publish(h);
  return block;
}
static int in_scratch(const struct heap *h, const void *p) {
  return h->scratch && (const char *)p >= h->scratch && (const char *)p < h->scratch_end;
}
static void *scratch_alloc(struct heap *h, size_t n) {
  n = round_up(n, 16);
  if (n > (size_t)(h->scratch_end - h->scratch_top))
    return NULL;
  char *block = h->scratch_top;
  h->scratch_top += n;
  h->scratch_live++;
  return block;
}
static void *block_new(struct heap *h, size_t tag, size_t n) {
  if (tag == LUA_TSTRING && (h->offer || h->scratch_top)) {
    void *block = NULL;
    if (h->offer && n == h->offer_nsize)
      block = offer_take(h, n);
    else if (h->scratch_top)
      block = scratch_alloc(h, n);
    if (block)
      return block;
  }
  return n < HEAP_BIG ? small_alloc(h, n) : big_alloc(h, n);
}
static void block_free(struct heap *h, void *block, size_t n) {
  if (in_region(h, block)) {
    small_free(h, block, n);
    return;
  }
  struct big *b = big_find(h, block);
  if (b) {
    big_free(h, b, n);
  } else if (in_scratch(h, block)) {
    h->scratch_live--;
  } else {
    assert(h->foreign && "a block of nobody's");
    h->foreign(h->foreign_ud, block, n, 0);
  }
}
/* Less must always be had: the block stays, and counts as a smaller one. */
static void *block_keep(struct heap *h, void *block, size_t less) {
  struct big *b = in_region(h, block) ? NULL : big_find(h, block);
  if (!b && !in_region(h, block))
    return block; /* foreign, or scratch: not counted */
  h->live -= less;
  if (b && b->age == h->age)
    h->own_big -= size_min(less, h->own_big);
  else if (!b && !is_sealed(h, block))
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
static void *small_resize(struct heap *h, void *block, size_t osize, size_t nsize) {
  if (osize == 0)
    return NULL; /* cannot be: Lua has no empty blocks */
  size_t have = class_size(class_of(osize));
  int stays = nsize < HEAP_BIG && (class_of(nsize) == class_of(osize) ||
                                   (nsize < have && is_sealed(h, block) && h->clone));
  if (!stays)
    return block_move(h, block, osize, nsize);
  h->live += (uint64_t)nsize - osize;
  if (!is_sealed(h, block))
    h->own += (uint64_t)nsize - osize;
  return block;
}
static void *block_resize(struct heap *h, void *block, size_t osize, size_t nsize) {
  if (h->table_grown == 1 && nsize == osize * 2 && osize >= 1024)
    h->table_grown = nsize;
  if (in_region(h, block))
    return small_resize(h, block, osize, nsize);
  struct big *b = big_find(h, block);
  if (b)
    return nsize < HEAP_BIG ? block_move(h, block, osize, nsize)
                            : big_resize(h, b, osize, nsize);
  if (!in_scratch(h, block) && nsize <= osize)
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

/* --- life ----------------------------------------------------------------------------- */

/* Of a limited address space half is left to everything else. */
static size_t reserve_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
    return SIZE_MAX;
  return (size_t)(limit.rlim_cur / 2);
}
static char *reserve_map(size_t *size) {
  for (; *size >= RESERVE_MIN; *size = round_up(*size / 2, HUGE_PAGE)) {
    void *p = mmap(NULL, *size + HUGE_PAGE, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
      continue;
    char *start = p, *base = align_up(start, HUGE_PAGE);
    if (base > start)
      munmap(start, (size_t)(base - start));
    size_t tail = HUGE_PAGE - (size_t)(base - start);
    if (tail)
      munmap(base + *size, tail);
    return base;
  }
  return NULL;
}

struct heap *heap_new(size_t reserve) {
  uint64_t wanted = reserve ? reserve : RESERVE_DEFAULT;
  size_t size = wanted < SIZE_MAX / 4 ? (size_t)wanted : SIZE_MAX / 4;
  size = size < RESERVE_MIN ? RESERVE_MIN : round_up(size, HUGE_PAGE);
  for (size_t limit = reserve_limit(); size > limit && size >= RESERVE_MIN;)
    size = round_up(size / 2, HUGE_PAGE);
  char *base = reserve_map(&size);
  if (!base)
    return NULL;
  if (mprotect(base, SMALL_RUN, PROT_READ | PROT_WRITE) < 0) {
    munmap(base, size);
    return NULL;
  }
  struct heap *h = (struct heap *)(void *)base; /* zero, as fresh pages are */
  small_advise(h, base, size, 0); /* where huge pages are the default */
  h->page = (size_t)sysconf(_SC_PAGESIZE);
  h->base = h->sealed_end = h->run_start = base;
  h->end = base + size;
  h->hard_end = base + SMALL_RUN;
  h->top = h->soft_end = align_up(base + sizeof *h, 64);
  h->frozen_end = base + HUGE_PAGE;
  h->bigs = h->big_first;
  h->big_places = NBIG_FIRST;
#ifdef HEAP_LSAN
  __lsan_register_root_region(base, size);
#endif
  return h;
}
void heap_free(struct heap *h) {
  if (!h)
    return;
  for (size_t i = 0; i < h->big_places; i++)
    if (h->bigs[i].block)
      munmap(h->bigs[i].block, h->bigs[i].map_size);
  kept_drop_all(h);
  if (h->bigs_map)
    munmap(h->bigs, h->bigs_map);
  heap_drop_mirrors(h);
  if (h->mirrors_map)
    munmap(h->mirrors, h->mirrors_map);
  if (h->scratch)
    munmap(h->scratch, (size_t)(h->scratch_end - h->scratch));
#ifdef HEAP_LSAN
  __lsan_unregister_root_region(h->base, (size_t)(h->end - h->base));
#endif
  munmap(h->base, (size_t)(h->end - h->base));
}
void heap_set_foreign(struct heap *h, void *(*alloc)(void *, void *, size_t, size_t), void *ud) {
  h->foreign = alloc;
  h->foreign_ud = ud;
}

/* The lists of the run that is sealed become holes that only the template may use. */
static void stash_lists(struct heap *h) {
  for (unsigned c = 0; c < NCLASS; c++) {
    if (!h->list[c])
      continue;
    for (struct free_block *b = h->list[c]; b; b = b->next)
      h->stash_bytes += class_size(c);
    h->list_tail[c]->next = h->stash[c];
    h->stash[c] = h->list[c];
    h->list[c] = NULL;
  }
}
/* A run of small pages at the end. After huge pages it starts at the next huge boundary:
 * a clone that wrote into the last huge page would split it. */
static void run_start(struct heap *h) {
  char *fresh = align_up(h->top, h->run_huge ? HUGE_PAGE : h->page);
  if (fresh > h->hard_end)
    fresh = h->hard_end; /* the end of the region is near */
  if (h->run_huge)
    small_advise(h, fresh, (size_t)(h->hard_end - fresh), 1);
  h->run_huge = 0;
  h->top = h->soft_end = h->run_start = fresh;
  /* Accessible now, so that clones need not ask. */
  if ((size_t)(h->hard_end - fresh) < SMALL_RUN / 2)
    (void)region_extend(h, size_min(SMALL_RUN, (size_t)(h->end - h->hard_end)), 0);
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
  h->clone = 0;
  publish(h);
  if (seal_can_wait(h))
    return;
  stash_lists(h);
  h->age++;
  h->reuse = h->stash_bytes > (uint64_t)(h->top - h->base) / 4;
  run_start(h);
  h->sealed_end = h->run_start;
  h->sealed = h->live;
  h->own = h->own_big = 0;
}
void heap_forked(struct heap *h) {
  h->keeps = 0;
  kept_drop_all(h);
  memset(h->list, 0, sizeof h->list);
  h->spans = NULL;
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
    run_start(h);
  h->sealed_end = h->run_start;
}

/* --- giving back ------------------------------------------------------------------------ */

enum { RELEASED = -1 }; /* in the place of a page's free bytes */

struct pages { /* whole ones of a clone's run */
  char *first;
  size_t n;
  int32_t *free; /* bytes */
};

static void pages_count(const struct heap *h, struct pages *p, char *from, size_t size) {
  for (char *end = from + size, *next; from < end; from = next) {
    ptrdiff_t i = (from - p->first) / (ptrdiff_t)h->page;
    next = from < p->first ? p->first : p->first + (i + 1) * (ptrdiff_t)h->page;
    next = next < end ? next : end;
    if (from >= p->first && (size_t)i < p->n)
      p->free[i] += (int32_t)(next - from);
  }
}
/* Marks runs of free pages that are worth it. Returns their bytes. */
static size_t pages_choose(const struct heap *h, struct pages *p) {
  size_t chosen = 0;
  for (size_t i = 0, end; i < p->n; i = end + 1) {
    for (end = i; end < p->n && p->free[end] == (int32_t)h->page; end++)
      ;
    if (end - i < RELEASE_PAGES)
      continue;
    chosen += (end - i) * h->page;
    for (size_t k = i; k < end; k++)
      p->free[k] = RELEASED;
  }
  return chosen;
}
static int is_released(const struct heap *h, const struct pages *p, const char *at) {
  return at >= p->first && at < p->first + p->n * h->page &&
         p->free[(size_t)(at - p->first) / h->page] == RELEASED;
}
/* What of a free block is in no released page stays free. Only its ends can be: pages inside
 * are as free as it is. */
static void keep_outside(struct heap *h, const struct pages *p, char *from, size_t size) {
  char *end = from + size, *left = from, *right = end;
  while (left < end && !is_released(h, p, left))
    left = align_up(left + 1, h->page);
  if (left >= end) {
    if (size >= SPAN_MIN)
      span_put(h, from, size);
    else
      list_put(h, class_of(size), from);
    return;
  }
  while (!is_released(h, p, right - 1))
    right = align_up(right - h->page, h->page);
  pieces_put(h, from, (size_t)(left - from));
  pieces_put(h, right, (size_t)(end - right));
}
static void release_pages(struct heap *h, struct pages *p) {
  struct free_block *old[NCLASS];
  struct span *spans = h->spans;
  memcpy(old, h->list, sizeof old);
  memset(h->list, 0, sizeof h->list);
  h->spans = NULL;
  h->span_bytes = 0;
  for (unsigned c = 0; c < NCLASS; c++)
    while (old[c]) {
      struct free_block *b = old[c];
      old[c] = b->next;
      char *end = (char *)b + class_size(c);
      if (is_released(h, p, (char *)b) || is_released(h, p, end - 1) || class_size(c) > h->page)
        keep_outside(h, p, (char *)b, class_size(c));
      else
        list_put(h, c, b);
    }
  while (spans) {
    struct span *s = spans;
    spans = s->next;
    keep_outside(h, p, (char *)s, s->size);
  }
  for (size_t end = p->n, i; end > 0; end = i) { /* the first will be used first */
    for (i = end; i > 0 && p->free[i - 1] == RELEASED; i--)
      ;
    if (i == end) {
      i--;
      continue;
    }
    char *from = p->first + i * h->page;
    (void)madvise(from, (end - i) * h->page, MADV_DONTNEED);
    span_put(h, from, (end - i) * h->page);
  }
}
void heap_release(struct heap *h) {
  uint64_t run = (uint64_t)(h->top - h->run_start), used = h->own + h->span_bytes;
  uint64_t loose = run > used ? run - used : 0;
  if (!h->clone || loose < RELEASE_WORTH + h->own + h->own / 2 || loose < h->stuck * 2)
    return;
  struct pages p = { .first = align_up(h->run_start, h->page) };
  p.n = (size_t)(h->top - p.first) / h->page;
  size_t map = round_up(p.n * sizeof *p.free + 1, h->page);
  p.free = map_new(map);
  if (!p.free)
    return;
  for (unsigned c = 0; c < NCLASS; c++)
    for (struct free_block *b = h->list[c]; b; b = b->next)
      pages_count(h, &p, (char *)b, class_size(c));
  for (struct span *s = h->spans; s; s = s->next)
    pages_count(h, &p, (char *)s, s->size);
  size_t chosen = pages_choose(h, &p);
  h->stuck = run - used + h->span_bytes - size_min(chosen, run - used + h->span_bytes);
  if (chosen > 0)
    release_pages(h, &p);
  munmap(p.free, map);
}

/* --- freezing ------------------------------------------------------------------------- */

struct range {
  char *from;
  size_t n;
};
static int range_compare(const void *a, const void *b) {
  const struct range *x = a, *y = b;
  return x->from < y->from ? -1 : x->from > y->from;
}
static char *sealed_huge_end(const struct heap *h) {
  return h->sealed_end - ((uintptr_t)h->sealed_end & (HUGE_PAGE - 1));
}
static size_t region_unfrozen(const struct heap *h) {
  char *end = sealed_huge_end(h);
  return end > h->frozen_end ? (size_t)(end - h->frozen_end) : 0;
}
static size_t big_unfrozen(const struct heap *h, const struct big *b) {
  return b->block && b->age < h->age ? b->map_size - b->frozen : 0;
}
uint64_t heap_freeze_gain(const struct heap *h) {
  uint64_t gain = region_unfrozen(h);
  for (size_t i = 0; i < h->big_places; i++)
    gain += (uint64_t)big_unfrozen(h, &h->bigs[i]) *
            (h->bigs[i].map_size < BIG_HUGE ? SMALL_COST : 1);
  return gain;
}
static int mirror_room(struct heap *h) {
  if ((h->nmirrors + 1) * sizeof *h->mirrors <= h->mirrors_map)
    return 0;
  size_t size = h->mirrors_map ? h->mirrors_map * 2 : h->page;
  struct mirror *more = map_new(size);
  if (!more)
    return -ENOMEM;
  if (h->nmirrors)
    memcpy(more, h->mirrors, h->nmirrors * sizeof *more);
  if (h->mirrors_map)
    munmap(h->mirrors, h->mirrors_map);
  h->mirrors = more;
  h->mirrors_map = size;
  return 0;
}
/* Returns how much of it is frozen now. */
static size_t freeze_range(struct heap *h, char *from, size_t n) {
  size_t done = 0, step;
  do {
    size_t piece = size_min(n - done, FROZEN_PIECE);
    char *mirror;
    int keep = reserve_limit() == SIZE_MAX && mirror_room(h) == 0;
    step = frozen_make(from + done, piece, keep, &mirror);
    if (mirror)
      h->mirrors[h->nmirrors++] = (struct mirror){ mirror, step };
    done += step;
  } while (step && done < n);
  return done;
}
/* Neighbours in one file: fewer mappings, and huge pages that they share. */
static void freeze_bigs(struct heap *h) {
  size_t n = 0, map = round_up(h->nbigs * sizeof(struct range) + 1, h->page);
  struct range *r = map_new(map);
  if (!r)
    return;
  for (size_t i = 0; i < h->big_places; i++) {
    struct big *b = &h->bigs[i];
    if (big_unfrozen(h, b))
      r[n++] = (struct range){ b->block + b->frozen, big_unfrozen(h, b) };
  }
  qsort(r, n, sizeof *r, range_compare);
  size_t joined = 0;
  for (size_t i = 0; i < n; i++) {
    if (joined && r[joined - 1].from + r[joined - 1].n == r[i].from)
      r[joined - 1].n += r[i].n;
    else
      r[joined++] = r[i];
  }
  for (size_t i = 0; i < joined; i++)
    r[i].n = freeze_range(h, r[i].from, r[i].n);
  for (size_t i = 0; i < h->big_places; i++) {
    struct big *b = &h->bigs[i];
    if (!big_unfrozen(h, b))
      continue;
    struct range key = { b->block + b->frozen, 0 };
    size_t k = 0, end = joined; /* the last range that begins at or before it */
    while (end - k > 1) {
      size_t middle = k + (end - k) / 2;
      if (r[middle].from <= key.from)
        k = middle;
      else
        end = middle;
    }
    char *frozen_end = r[k].from + r[k].n;
    if (frozen_end > key.from)
      b->frozen += size_min((size_t)(frozen_end - key.from), b->map_size - b->frozen);
  }
  munmap(r, map);
}
void heap_inherit(struct heap *h) {
  char *start = h->base + HUGE_PAGE;
  if (!h->inherited)
    return;
  h->inherited = 0;
  if (h->frozen_end > start)
    frozen_map(start, (size_t)(h->frozen_end - start));
  for (size_t i = 0; i < h->big_places; i++)
    if (h->bigs[i].block && h->bigs[i].frozen)
      frozen_map(h->bigs[i].block, h->bigs[i].frozen);
}
static sigset_t block_signals(void) {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  return old;
}
void heap_freeze(struct heap *h) {
  if (h->clone)
    return;
  sigset_t old = block_signals();
  size_t n = region_unfrozen(h);
  if (n)
    h->frozen_end += freeze_range(h, h->frozen_end, n);
  freeze_bigs(h);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}
/* One mapping at a time; where one ends is found by trying. */
void heap_cover(struct heap *h) {
  char *at = h->base + HUGE_PAGE;
  size_t step = (size_t)(h->frozen_end - at);
  if (!h->clone || h->ncovers > 0)
    return;
  sigset_t old = block_signals();
  while (at < h->frozen_end && step >= FROZEN_UNIT && h->ncovers < NCOVERS) {
    step = size_min(step, (size_t)(h->frozen_end - at));
    char *aside = frozen_cover(at, step);
    if (!aside) {
      step = step / 2 / FROZEN_UNIT * FROZEN_UNIT;
      continue;
    }
    h->covers[h->ncovers++] = (struct cover){ at, aside, step };
    at += step;
    step = (size_t)(h->frozen_end - at);
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}
void heap_uncover(struct heap *h, int may_move) {
  sigset_t old = block_signals();
  while (h->ncovers > 0) {
    struct cover *c = &h->covers[--h->ncovers];
    if (!may_move || frozen_uncover(c->place, c->size, c->aside, h->page) < 0)
      munmap(c->aside, c->size);
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}
int heap_is_frozen(const struct heap *h) {
  if (h->frozen_end > h->base + HUGE_PAGE)
    return 1;
  for (size_t i = 0; i < h->big_places; i++)
    if (h->bigs[i].block && h->bigs[i].frozen)
      return 1;
  return 0;
}
void heap_thaw(struct heap *h) {
  char *start = h->base + HUGE_PAGE;
  if (!heap_is_frozen(h))
    return;
  sigset_t old = block_signals();
  if (h->frozen_end > start)
    (void)frozen_undo(start, (size_t)(h->frozen_end - start));
  h->frozen_end = start; /* of what could not be undone, the next freezing makes another file */
  for (size_t i = 0; i < h->big_places; i++) {
    struct big *b = &h->bigs[i];
    if (b->block && b->frozen && frozen_undo(b->block, b->frozen) == b->frozen)
      b->frozen = 0;
  }
  heap_drop_mirrors(h);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}
void heap_drop_mirrors(struct heap *h) {
  while (h->nmirrors) {
    struct mirror *m = &h->mirrors[--h->nmirrors];
    munmap(m->at, m->size);
  }
}
void heap_keep(struct heap *h) {
  h->keeps = 1;
}
void *heap_lend(struct heap *h, size_t n, size_t *ret_size) {
  *ret_size = round_up(n, h->page);
  void *map = kept_take(h, ret_size);
  *ret_size = map ? *ret_size : 0;
  return map;
}
void heap_release_reserve(struct heap *h, size_t keep) {
  char *from = align_up(h->hard_end, h->page);
  size_t rest = (size_t)(h->end - from);
  keep = round_up(keep, h->page);
  if (keep >= rest)
    return;
#ifdef HEAP_LSAN
  __lsan_unregister_root_region(h->base, (size_t)(h->end - h->base));
#endif
  if (munmap(from + keep, rest - keep) == 0)
    h->end = from + keep;
#ifdef HEAP_LSAN
  __lsan_register_root_region(h->base, (size_t)(h->end - h->base));
#endif
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

void heap_scratch_begin(struct heap *h, size_t size) {
  h->table_grown = 1;
  if (h->scratch)
    return; /* strings of the last time still live there */
  size = round_up(size, h->page);
  char *map = map_new(size);
  if (!map)
    return;
  h->scratch = h->scratch_top = map;
  h->scratch_end = map + size;
  h->scratch_live = 0;
}
int heap_scratch_grown(const struct heap *h) {
  return h->table_grown > 1;
}
void heap_scratch_stop(struct heap *h) {
  h->table_grown = 0;
  h->scratch_top = NULL;
}
void heap_scratch_end(struct heap *h) {
  if (!h->scratch || h->scratch_live)
    return;
  munmap(h->scratch, (size_t)(h->scratch_end - h->scratch));
  h->scratch = h->scratch_end = NULL;
}

static uint64_t frozen_octets(const struct heap *h) {
  uint64_t n = (uint64_t)(h->frozen_end - (h->base + HUGE_PAGE));
  for (size_t i = 0; i < h->big_places; i++)
    n += h->bigs[i].block ? h->bigs[i].frozen : 0;
  return n;
}
void heap_stats(const struct heap *h, struct heap_stats *ret) {
  *ret = (struct heap_stats){
    .live = h->live,
    .own = h->own + h->own_big,
    .sealed = h->sealed,
    .reserved = (uint64_t)(h->end - h->base),
    .touched = (uint64_t)(h->top - h->base),
    .huge = h->huge,
    .frozen = frozen_octets(h),
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
