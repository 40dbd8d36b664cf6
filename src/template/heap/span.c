/* See span.h. Runs in templates and clones; one thread.
 *
 * Where the region is used up, all that is free may lie in lists of other classes. Then
 * the lists are sorted by address, and neighbours that add up to SPAN_MIN become spans.
 * That needs no memory: a free block's class hides in the top of its link. */
#include "template/heap/span.h"

#include "template/heap/free_list.h"

enum {
  GATHER_WORTH = 64 * 1024, /* freed since the last time */
  TAG_SHIFT = 57            /* no user address is that long */
};
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
  struct free_block head = {.link = 0}, *last = &head;
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
  struct free_block *bins[48] = {NULL}; /* bin i: nothing, or 2^i blocks in order */
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

void span_put(struct heap *h, char *start, size_t size) {
  struct span *span = (struct span *)(void *)start;
  *span = (struct span){h->spans, size};
  h->spans = span;
  h->span_bytes += size;
}

static void span_gather(struct heap *h) {
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
      end += size_class_bytes(tagged_class(b));
      b = tagged_next(b);
    }
    if (end - (char *)first >= SPAN_MIN + 16) {
      span_put(h, (char *)first, (size_t)(end - (char *)first));
      continue;
    }
    while (first != b) {
      struct free_block *next = tagged_next(first);
      free_list_put(h, tagged_class(first), first);
      first = next;
    }
  }
}

void *span_cut(struct heap *h, size_t n) {
  struct span **where = &h->spans;
  while (*where && (*where)->size < n + size_class_pad((char *)*where, n))
    where = &(*where)->next;
  struct span *span = *where;
  if (!span)
    return NULL;
  char *block = (char *)span + size_class_pad((char *)span, n), *tail = block + n;
  size_t rest = span->size - (size_t)(tail - (char *)span);
  struct span *next = span->next;
  h->span_bytes -= span->size;
  if (block > (char *)span)
    free_list_put(h, size_class_of((size_t)(block - (char *)span)), span);
  if (rest >= SPAN_MIN) { /* what is cut next begins where this ends */
    *where = (struct span *)(void *)tail;
    **where = (struct span){next, rest};
    h->span_bytes += rest;
  } else {
    *where = next;
    free_list_put_pieces(h, tail, rest);
  }
  return block;
}

void *span_last_resort(struct heap *h, size_t n) {
  void *block = span_cut(h, n);
  if (block || h->freed < GATHER_WORTH)
    return block;
  span_gather(h);
  return span_cut(h, n);
}
