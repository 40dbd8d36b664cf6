/* Small blocks, of less than HEAP_BIG bytes: a list of free ones for each size class, the
 * front of the region, and spans. Lua tells the size of what it frees, so blocks have no
 * header. */
#ifndef TEMPLATE_HEAP_SMALL_H
#define TEMPLATE_HEAP_SMALL_H

#include "template/heap/layout.h"

/* 0 < n < HEAP_BIG; tag: a type of Lua's, or 0. NULL: no memory. */
void *small_alloc(struct heap *h, size_t tag, size_t n);
/* block is in the region. What a clone frees of the sealed part stays as it is. */
void small_free(struct heap *h, void *block, size_t n);
/* The lists of the run that is sealed become holes that only the template may use. */
void small_stash_all(struct heap *h);

#endif
