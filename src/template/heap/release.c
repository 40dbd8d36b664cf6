/* heap_release: whole free pages of a clone go back to the system. Runs in clones, after
 * a collection of everything; one thread. */
#include "template/heap/free_list.h"
#include "template/heap/span.h"

#include <string.h>

enum {
  RELEASE_WORTH = 16 << 20, /* free in a clone, beside half more than it uses */
  RELEASE_PAGES = 8,        /* together at least */
  RELEASED = -1             /* in the place of a page's free bytes */
};

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

static int pages_are_released(const struct heap *h, const struct pages *p,
                              const char *at) {
  return at >= p->first && at < p->first + p->n * h->page &&
         p->free[(size_t)(at - p->first) / h->page] == RELEASED;
}

/* What of a free block is in no released page stays free. Only its ends can be: pages
 * inside are as free as it is. */
static void pages_keep_outside(struct heap *h, const struct pages *p, char *from,
                               size_t size) {
  char *end = from + size, *left = from, *right = end;
  while (left < end && !pages_are_released(h, p, left))
    left = align_up(left + 1, h->page);
  if (left >= end) {
    if (size >= SPAN_MIN)
      span_put(h, from, size);
    else
      free_list_put(h, size_class_of(size), from);
    return;
  }
  while (!pages_are_released(h, p, right - 1))
    right = align_up(right - h->page, h->page);
  free_list_put_pieces(h, from, (size_t)(left - from));
  free_list_put_pieces(h, right, (size_t)(end - right));
}

static void pages_release(struct heap *h, struct pages *p) {
  heap_at old[NCLASS], spans = h->spans;
  memcpy(old, h->list, sizeof old);
  memset(h->list, 0, sizeof h->list);
  h->spans = 0;
  h->span_bytes = 0;
  for (unsigned c = 0; c < NCLASS; c++)
    while (old[c]) {
      struct free_block *b = free_list_take(h, &old[c]);
      char *end = (char *)b + size_class_bytes(c);
      if (pages_are_released(h, p, (char *)b) || pages_are_released(h, p, end - 1) ||
          size_class_bytes(c) > h->page)
        pages_keep_outside(h, p, (char *)b, size_class_bytes(c));
      else
        free_list_put(h, c, b);
    }
  while (spans) {
    struct span *s = span_at(h, spans);
    spans = s->next;
    pages_keep_outside(h, p, (char *)s, s->size);
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
  struct pages p = {.first = align_up(h->run_start, h->page)};
  p.n = (size_t)(h->top - p.first) / h->page;
  size_t map = round_up(p.n * sizeof *p.free + 1, h->page);
  p.free = map_new(map);
  if (!p.free)
    return;
  for (unsigned c = 0; c < NCLASS; c++)
    for (struct free_block *b = free_at(h, h->list[c]); b; b = free_at(h, b->next))
      pages_count(h, &p, (char *)b, size_class_bytes(c));
  for (struct span *s = span_at(h, h->spans); s; s = span_at(h, s->next))
    pages_count(h, &p, (char *)s, s->size);
  size_t chosen = pages_choose(h, &p);
  h->stuck = run - used + h->span_bytes - size_min(chosen, run - used + h->span_bytes);
  if (chosen > 0)
    pages_release(h, &p);
  munmap(p.free, map);
}
