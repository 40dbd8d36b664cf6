/* Spans: free memory of SPAN_MIN bytes and more without a size class, to be cut again.
 * They come from neighbouring free blocks of any class where the region is used up, and
 * from whole pages that were given back to the system. */
#ifndef TEMPLATE_HEAP_SPAN_H
#define TEMPLATE_HEAP_SPAN_H

#include "template/heap/layout.h"

/* size is SPAN_MIN at least. */
void span_put(struct heap *h, char *start, size_t size);
/* n bytes, a class's. NULL: no span is large enough. */
void *span_cut(struct heap *h, size_t n);
/* The same, after gathering what is free where that may help. */
void *span_last_resort(struct heap *h, size_t n);

#endif
