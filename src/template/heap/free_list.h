/* The lists of free small blocks, one for each size class. A block's first word is its
 * link. */
#ifndef TEMPLATE_HEAP_FREE_LIST_H
#define TEMPLATE_HEAP_FREE_LIST_H

#include "template/heap/layout.h"

static inline void free_list_put(struct heap *h, unsigned c, void *block) {
  struct free_block *b = block;
  b->next = h->list[c];
  h->list[c] = heap_at_of(h, b);
}

/* The first of a list, which has one, leaves it. */
static inline struct free_block *free_list_take(struct heap *h, heap_at *list) {
  struct free_block *b = free_at(h, *list);
  *list = b->next;
  return b;
}

/* Back to the lists: every multiple of FINE_STEP up to FINE_MAX is the size of a class.
 */
static inline void free_list_put_pieces(struct heap *h, char *start, size_t size) {
  while (size > 0) {
    size_t piece = size_min(size, FINE_MAX);
    free_list_put(h, size_class_of(piece), start);
    start += piece;
    size -= piece;
  }
}

#endif
