/* The region: reserved address space that is made accessible from the front as blocks
 * need it. What a template builds lies in huge pages once it has outgrown SMALL_RUN, what
 * a clone builds in small ones. A run is what was cut since the last seal or fork. The
 * head, before the first run, has the pages that clones write to: it ends at a huge
 * boundary, so that everything behind it can be frozen in huge pages. */
#ifndef TEMPLATE_HEAP_REGION_H
#define TEMPLATE_HEAP_REGION_H

#include "template/heap/layout.h"

/* Reserves as heap_new says, with a zone (zone.h) behind it where there is space enough,
 * and puts the heap's record at its start. Gives it zeroed but for the region's fields;
 * NULL: there is no address space. */
struct heap *region_open(size_t reserve);
/* Where a copy of the heap at base may lie; another address each time. */
uint64_t region_place_of_copy(const void *base);
/* n bytes of addresses without access, for a copy: at `at`, else at an address that
 * differs by a multiple of 4 GiB. NULL: none. */
char *region_reserve_copy(size_t n, uint64_t at);
/* Tells the leak checker of a region. */
void region_register(const struct heap *h);
/* Tells it that there is none any more. */
void region_forget(const struct heap *h);
/* Unmaps all of it, the record too. */
void region_close(struct heap *h);
/* Makes room for n bytes at top, up to soft_end. Returns 0 or -ENOMEM. */
int region_room(struct heap *h, size_t n);
/* Begins a run of small pages at the end, at the next multiple of unit (a page or
 * HUGE_PAGE). After huge pages it starts at the next huge boundary anyway: a clone that
 * wrote into the last huge page would split it. */
void region_start_run(struct heap *h, size_t unit);
/* Bytes of address space that the heap may take: half of a limit (RLIMIT_AS), the other
 * half is left to everything else. SIZE_MAX: no limit. */
size_t region_limit(void);

static inline int region_holds(const struct heap *h, const void *p) {
  return (const char *)p >= h->base && (const char *)p < h->end;
}

static inline int region_is_sealed(const struct heap *h, const void *p) {
  return (const char *)p < h->sealed_end;
}

#endif
