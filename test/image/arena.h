/* The allocator of the moving tests: all blocks of a Lua state in one region that can be
 * put elsewhere at any moment. What it knows of its blocks lies outside, in offsets.
 * Freed blocks are overwritten, so that who still uses one fails; with AddressSanitizer
 * they are poisoned, and so is the space between blocks. */
#ifndef IMAGE_ARENA_H
#define IMAGE_ARENA_H

#include "image/compare.h"

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

enum arena_way {
  ARENA_WALK,  /* copied, then corrected by a walk */
  ARENA_RECORD /* recorded, then corrected while it is copied */
};

struct arena;

/* Exits where there is no memory. `seed` decides where regions lie and what fresh memory
 * holds. */
struct arena *arena_new(unsigned seed);
void arena_free(struct arena *a);
/* lua_Alloc; data: the arena. */
void *arena_allocate(void *data, void *p, size_t old, size_t n);
/* lua_newstate. */
lua_State *arena_state(struct arena *a);
/* Puts everything elsewhere and unmaps the old region. The address that `p` has then. */
void *arena_move(struct arena *a, lua_State **L, void *p, enum arena_way way);
/* Compares the state with the blocks; NULL: it fits. What no object has, a string
 * buffer's memory, is not looked at. */
const char *arena_check(struct arena *a, lua_State *L);
size_t arena_nblocks(const struct arena *a);
/* The living block that holds this byte; false: none does. */
bool arena_find(struct arena *a, const void *at, struct compare_block *ret_block);
/* The region, up to the end of its last block; all of it can be read from now on. */
char *arena_base(const struct arena *a, size_t *ret_nbytes);

#endif
