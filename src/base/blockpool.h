/* Blocks of one size, each of which is wanted again soon after it was given back: some
 * are kept, and need no malloc. malloc itself has none of more than 1 KiB at hand: it
 * looks for the best one each time, and joins what small ones were freed meanwhile.
 * Memory only; one thread at a time. Nothing is kept under AddressSanitizer, which could
 * not tell that a freed block is used. */
#ifndef BASE_BLOCKPOOL_H
#define BASE_BLOCKPOOL_H

#include <stddef.h>

enum { BLOCKPOOL_MAX = 256 };

struct blockpool { /* begins with zeros */
  void *last;      /* given back; each begins with a pointer to the one before, or NULL */
  unsigned nkept;
};

/* A block of `size` bytes, those of all blocks of the pool, which free() may free as
 * well. Its content is anything. NULL: no memory. */
void *blockpool_take(struct blockpool *p, size_t size);
/* Keeps or frees it. NULL is harmless. */
void blockpool_give(struct blockpool *p, void *block);
void blockpool_empty(struct blockpool *p);

#endif
