/* Comparing the walk with the allocator: each block that the walk names is one of the
 * allocator's, with exactly its size, is met once, and each pointer leads into one.
 * Nothing is read before it is known to lie in a block: a Lua whose memory is laid out
 * otherwise is found out, and does no harm. Who compares also counts, so that no block
 * remains. */
#ifndef IMAGE_COMPARE_H
#define IMAGE_COMPARE_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

struct compare_block {
  const char *start;
  size_t nbytes;
};

struct compare_allocator {
  /* The living block that holds the byte at `at`. */
  bool (*find)(void *context, const void *at, struct compare_block *ret_block);
  /* Notes that it was met; false: it was before. */
  bool (*meet)(void *context, const void *start);
};

struct compare_result {
  const char *fault; /* NULL: everything fits so far */
  size_t nobjects, nblocks, nbytes;
};

/* Walks through the state of L, the main thread. */
struct compare_result
compare_state(lua_State *L, const struct compare_allocator *allocator, void *context);

#endif
