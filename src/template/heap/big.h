/* Big blocks, of HEAP_BIG bytes and more: mappings of their own in the zone, listed in a
 * hash table by their place. mremap makes them grow, munmap frees them. */
#ifndef TEMPLATE_HEAP_BIG_H
#define TEMPLATE_HEAP_BIG_H

#include "template/heap/layout.h"

void big_init(struct heap *h);
/* Unmaps them all. */
void big_deinit(struct heap *h);
/* NULL: not one of these. */
struct big *big_find(const struct heap *h, const void *block);
/* NULL: no memory. */
void *big_alloc(struct heap *h, size_t n);
/* The block becomes what was offered (heap_offer). NULL: no memory to list it. */
void *big_take_offer(struct heap *h, size_t nsize);
/* nsize is HEAP_BIG at least. NULL: no memory, and all is as it was; never where it
 * shrinks. */
void *big_resize(struct heap *h, struct big *b, size_t osize, size_t nsize);
void big_free(struct heap *h, struct big *b, size_t n);

#endif
