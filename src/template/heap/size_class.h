/* The size classes of small blocks: steps of FINE_STEP bytes up to FINE_MAX, then four to
 * each doubling up to HEAP_BIG. Pure numbers. */
#ifndef TEMPLATE_HEAP_SIZE_CLASS_H
#define TEMPLATE_HEAP_SIZE_CLASS_H

#include "template/heap/heap.h"

#include <stddef.h>
#include <stdint.h>

enum {
  FINE_STEP = 8, /* classes up to FINE_MAX differ by this */
  FINE_MAX = 512,
  NFINE = FINE_MAX / FINE_STEP,
  NCOARSE = 4 * 8, /* four classes to each doubling up to HEAP_BIG */
  NCLASS = NFINE + NCOARSE
};

static inline unsigned size_class_of(size_t n) { /* 0 < n < HEAP_BIG */
  if (n <= FINE_MAX)
    return (unsigned)((n - 1) / FINE_STEP);
  unsigned log2 = 63u - (unsigned)__builtin_clzll(n - 1); /* 2^log2 < n <= 2^(log2+1) */
  return NFINE + (log2 - 9) * 4 + (unsigned)(((n - 1) >> (log2 - 2)) & 3);
}

static inline size_t size_class_bytes(unsigned c) {
  if (c < NFINE)
    return (size_t)(c + 1) * FINE_STEP;
  unsigned log2 = 9 + (c - NFINE) / 4, quarter = (c - NFINE) % 4;
  return ((size_t)1 << log2) + ((size_t)(quarter + 1) << (log2 - 2));
}

/* Sizes that are multiples of 16 are aligned so; the others hold nothing that cares. The
 * bytes between are a block too: nothing is without an owner (span_gather). */
static inline size_t size_class_pad(const char *p, size_t n) {
  return n % 16 == 0 ? -(uintptr_t)p & 15 : 0;
}

#endif
