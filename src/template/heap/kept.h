/* Mappings that were made here and freed, kept for the next big blocks of about their
 * size: where long strings come and go, each page of a fresh mapping would cost a fault.
 * Only after heap_keep. */
#ifndef TEMPLATE_HEAP_KEPT_H
#define TEMPLATE_HEAP_KEPT_H

#include "template/heap/layout.h"

/* Takes the mapping and returns 1, or leaves it to the caller and returns 0. */
int kept_put(struct heap *h, void *map, size_t size);
/* Gives the smallest one, in the zone or outside of it, that has *size bytes and at most
 * a quarter more; *size is what it has. NULL: there is none. */
void *kept_take(struct heap *h, size_t *size, int in_zone);
void kept_drop_all(struct heap *h);

#endif
