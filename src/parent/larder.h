/* A few big blocks that long messages have used, kept for the next ones: fresh memory costs
 * a page fault for every 4 KiB, which is more than copying them. One to a home, shared by
 * its rpcs and pools. Runs in the parent. */
#ifndef PARENT_LARDER_H
#define PARENT_LARDER_H

#include <stddef.h>

enum {
  LARDER_BLOCKS = 4,
  LARDER_BLOCK_MIN = 32 * 1024, /* octets: smaller ones are not worth it */
  LARDER_BLOCK_MAX = 4 << 20,
  LARDER_OCTETS_MAX = 8 << 20 /* kept in all */
};

struct larder {
  struct {
    void *block; /* malloc's; NULL: none */
    size_t size;
  } kept[LARDER_BLOCKS];
  size_t octets;
};

/* A block of least octets or more, kept or fresh; *ret_size are its octets. NULL: no memory. */
void *larder_take(struct larder *l, size_t least, size_t *ret_size);
/* The largest that is kept; NULL: none. */
void *larder_take_largest(struct larder *l, size_t *ret_size);
/* Takes a block of malloc's (NULL: nothing), to keep it or to free it. */
void larder_give(struct larder *l, void *block, size_t size);
void larder_empty(struct larder *l);

#endif
