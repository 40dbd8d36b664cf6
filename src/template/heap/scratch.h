/* Short-lived strings outside the region, for the collector's look at the string table:
 * see heap_scratch_begin in heap.h. */
#ifndef TEMPLATE_HEAP_SCRATCH_H
#define TEMPLATE_HEAP_SCRATCH_H

#include "template/heap/layout.h"

static inline int scratch_holds(const struct heap *h, const void *p) {
  return h->scratch && (const char *)p >= h->scratch && (const char *)p < h->scratch_end;
}

/* Between begin and stop. NULL: it is full. */
void *scratch_alloc(struct heap *h, size_t n);
void scratch_deinit(struct heap *h);

#endif
