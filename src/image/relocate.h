/* Moving a Lua state to another address. All of its memory lies in one region, which is
 * copied; then every pointer into the old region is corrected.
 *
 * Two ways: copy as you like and let relocate_state walk through the copy; or record once
 * where the pointers are (pointers.h), and let relocate_copy add the difference while it
 * copies.
 *
 * The difference must be a multiple of 4 GiB: Lua hashes objects that are keys by the low
 * 32 bits of their addresses. The regions must not overlap. The original is only read. */
#ifndef IMAGE_RELOCATE_H
#define IMAGE_RELOCATE_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

/* What differences are multiples of. */
#define RELOCATE_STEP ((uint64_t)1 << 32)

/* L: the main thread in the copy, which lies where `nbytes` of the region at `old` +
 * difference do. Words of userdata, light userdata, the allocator's data and C functions'
 * contexts are corrected where they look like pointers into the region. */
void relocate_state(lua_State *L, const void *old, size_t nbytes, intptr_t difference);
/* Copies n bytes (a multiple of 8), and adds the difference to each word whose bit is
 * set. */
void relocate_copy(void *to, const void *from, size_t n, const uint64_t *bits,
                   intptr_t difference);
/* NULL when no C function runs in the state, whose main thread may have yielded: all it
 * is lies in its memory, and the copy can go on by itself. Else why not. L: any thread of
 * it. */
const char *relocate_obstacle(lua_State *L);
/* In a copy whose original was in the middle of C functions: forgets the place on the C
 * stack to which errors of the main thread would go, which is not the copy's. They are a
 * panic then, unless they are caught, as everywhere in C. */
void relocate_settle(lua_State *L);
/* What belongs to the main thread of L's state and is written by every use of it: its
 * record, with the state's, and its stack. */
struct relocate_range {
  const void *from;
  size_t nbytes;
};
void relocate_used(lua_State *L, struct relocate_range ret[2]);
/* lua_close of a copy that leaves it in a finaliser, before anything is freed: without the
 * walk through all objects by which Lua's generational collector becomes an incremental
 * one. L: any thread of it. */
void relocate_close(lua_State *L);
/* After relocate_copy with the same bits, of a record with a node of Lua's
 * (pointers->node): the words in the n bytes at `to` that have led there lead to `node`,
 * which is a copy of it in the region. So a copy has not the library's address in each
 * empty table. New tables get Lua's again. A node is RELOCATE_NODE bytes. */
#define RELOCATE_NODE 24
void relocate_node(void *to, size_t n, const uint64_t *bits, const void *old,
                   intptr_t difference, uint64_t node);

#endif
