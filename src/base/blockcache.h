/* A few big blocks that long messages have used, kept for the next ones: fresh memory
 * costs a page fault for every 4 KiB, which is more than copying them. The parent has one
 * for each loop, shared by its rpcs and pools. Memory only. */
#ifndef BASE_BLOCKCACHE_H
#define BASE_BLOCKCACHE_H

#include <stddef.h>

enum {
  BLOCKCACHE_BLOCKS = 4,
  BLOCKCACHE_BLOCK_MIN = 32 * 1024, /* bytes: smaller ones are not worth it */
  BLOCKCACHE_BLOCK_MAX = 4 << 20,
  BLOCKCACHE_BYTES_MAX = 8 << 20 /* kept in all */
};

struct blockcache {
  struct {
    void *block; /* malloc's; NULL: none */
    size_t size;
  } kept[BLOCKCACHE_BLOCKS];
  size_t bytes;
};

/* A block of least bytes or more, kept or fresh; *ret_size are its bytes. NULL: no
 * memory. */
void *blockcache_take(struct blockcache *c, size_t least, size_t *ret_size);
/* The largest that is kept; NULL: none. */
void *blockcache_take_largest(struct blockcache *c, size_t *ret_size);
/* Takes a block of malloc's (NULL: nothing), to keep it or to free it. */
void blockcache_give(struct blockcache *c, void *block, size_t size);
void blockcache_empty(struct blockcache *c);

#endif
