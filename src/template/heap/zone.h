/* The zone: the part of the reserved address space behind the region where big blocks
 * lie, so that all of a heap is in one range of addresses. Its record is a list of what
 * is free below zone_top, in order; list and table (big.c) lie in it, too. Where address
 * space is limited there is none, and big blocks lie wherever the system puts them. */
#ifndef TEMPLATE_HEAP_ZONE_H
#define TEMPLATE_HEAP_ZONE_H

#include "template/heap/layout.h"

/* [from, from + size) is reserved, without access. */
void zone_init(struct heap *h, char *from, size_t size);
/* No more is given; its unused addresses go back to the system. */
void zone_end_use(struct heap *h);
/* Memory for a table of big blocks, zeroed: a power of two of pages; where there is no
 * zone, the system's. NULL: none. */
void *zone_table(const struct heap *h, size_t size);
/* Its list of free ranges: in the record, or, once it has outgrown that, zone_list_map
 * bytes in the zone. Few have that many, and a mapping less is less for fork to copy. */
struct zone_range *zone_list(const struct heap *h);
/* Are the figures of a record what a zone of so many bytes can have? */
int zone_is_sound(const struct heap *record, uint64_t size);
/* Nothing is in the zone any more: gives its memory back, and keeps its addresses. 0 or
 * -ENOMEM. */
int zone_clear(const struct heap *h);
/* For region_close: what zone_unmap does not know. */
void zone_deinit(struct heap *h);
/* n bytes without access, whole pages; align: 0, or a power of two that the address, less
 * off, is a multiple of. NULL: no room. */
char *zone_take(struct heap *h, size_t n, size_t align, size_t off);
/* Unmaps n bytes at p. A place of the zone is free again; so is a hole, where nothing is
 * mapped any more. */
void zone_unmap(struct heap *h, char *p, size_t n);
void zone_put_hole(struct heap *h, char *place, size_t n);
/* The n bytes behind `end` (of a place) are taken, and nothing is mapped there. 0: they
 * are not free. */
int zone_take_behind(struct heap *h, char *end, size_t n);

static inline int zone_holds(const struct heap *h, const void *p) {
  return (const char *)p >= h->zone && (const char *)p < h->zone_end;
}

#endif
