/* Freezing what is sealed (memfd_map.h): of the region all huge pages but the first,
 * where the state and the libraries lie, which everybody writes to; of the big blocks
 * all. What others ask for is in heap.h: heap_freeze, heap_thaw, heap_cover, heap_inherit
 * and their like. */
#ifndef TEMPLATE_HEAP_FREEZE_H
#define TEMPLATE_HEAP_FREEZE_H

#include "template/heap/layout.h"

void freeze_init(struct heap *h);
void freeze_deinit(struct heap *h);
/* The heap is a copy, whose mirrors are another's. shared: all that is sealed counts as
 * frozen. */
void freeze_adopt(struct heap *h, int shared);
/* Bytes that are frozen. */
uint64_t freeze_bytes(const struct heap *h);

#endif
