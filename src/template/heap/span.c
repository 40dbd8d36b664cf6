/* See span.h. Runs in templates and clones; one thread.
 *
 * Where the region is used up, all that is free may lie in lists of other classes. Then
 * the lists are sorted by address, and neighbours that add up to SPAN_MIN become spans.
 * That needs no memory: a free block's class hides in the top of its link. */
#include "template/heap/span.h"

#include "template/heap/free_list.h"

enum {
  GATHER_WORTH = 64 * 1024, /* freed since the last time */
  TAG_SHIFT = 57            /* no region is that long */
};
#define TAG_MASK (~(uint64_t)0 << TAG_SHIFT)

static heap_at tagged_next(const struct free_block *b) {
  return b->next & ~TAG_MASK;
}

static unsigned tagged_class(const struct free_block *b) {
  return (unsigned)(b->next >> TAG_SHIFT);
}

static void tagged_link(struct free_block *b, heap_at next) {
  b->next = next | (b->next & TAG_MASK);
}

static heap_at tagged_push(struct heap *h, heap_at all, heap_at list, unsigned c) {
  while (list) {
    heap_at at = list;
    struct free_block *b = free_list_take(h, &list);
    b->next = all | (uint64_t)c << TAG_SHIFT;
    all = at;
  }
  return all;
}

static heap_at tagged_merge(struct heap *h, heap_at a, heap_at b) {
  struct free_block head = {0}, *last = &head;
  while (a && b) {
    heap_at *lower = a < b ? &a : &b, at = *lower;
    struct free_block *taken = free_at(h, at);
    *lower = tagged_next(taken);
    tagged_link(last, at);
    last = taken;
  }
  tagged_link(last, a ? a : b);
  return tagged_next(&head);
}

static heap_at tagged_sort(struct heap *h, heap_at all) {
  heap_at bins[48] = {0}; /* bin i: nothing, or 2^i blocks in order */
  while (all) {
    heap_at at = all;
    all = tagged_next(free_at(h, at));
    tagged_link(free_at(h, at), 0);
    unsigned i = 0;
    for (; bins[i]; i++) {
      at = tagged_merge(h, bins[i], at);
      bins[i] = 0;
    }
    bins[i] = at;
  }
  for (unsigned i = 0; i < 48; i++)
    if (bins[i])
      all = all ? tagged_merge(h, bins[i], all) : bins[i];
  return all;
}

void span_put(struct heap *h, char *start, size_t size) {
  struct span *span = (struct span *)(void *)start;
  *span = (struct span){h->spans, size};
  h->spans = heap_at_of(h, span);
  h->span_bytes += size;
}

static void span_gather(struct heap *h) {
  heap_at all = 0;
  for (unsigned c = 0; c < NCLASS; c++) {
    all = tagged_push(h, all, h->list[c], c);
    h->list[c] = 0;
    if (h->clone)
      continue;
    all = tagged_push(h, all, h->stash[c], c);
    h->stash[c] = 0;
    h->stash_bytes = 0;
  }
  h->freed = 0;
  for (struct free_block *b = free_at(h, tagged_sort(h, all)); b;) {
    struct free_block *first = b;
    char *end = (char *)b;
    while (b && (char *)b == end) {
      end += size_class_bytes(tagged_class(b));
      b = free_at(h, tagged_next(b));
    }
    if (end - (char *)first >= SPAN_MIN + 16) {
      span_put(h, (char *)first, (size_t)(end - (char *)first));
      continue;
    }
    while (first != b) {
      struct free_block *next = free_at(h, tagged_next(first));
      free_list_put(h, tagged_class(first), first);
      first = next;
    }
  }
}

void *span_cut(struct heap *h, size_t n) {
  heap_at *where = &h->spans;
  struct span *span;
  while ((span = span_at(h, *where)) && span->size < n + size_class_pad((char *)span, n))
    where = &span->next;
  if (!span)
    return NULL;
  char *block = (char *)span + size_class_pad((char *)span, n), *tail = block + n;
  size_t rest = span->size - (size_t)(tail - (char *)span);
  heap_at next = span->next;
  h->span_bytes -= span->size;
  if (block > (char *)span)
    free_list_put(h, size_class_of((size_t)(block - (char *)span)), span);
  if (rest >= SPAN_MIN) { /* what is cut next begins where this ends */
    *(struct span *)(void *)tail = (struct span){next, rest};
    *where = heap_at_of(h, tail);
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
