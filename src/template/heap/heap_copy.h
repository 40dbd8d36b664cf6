/* Copies of a heap: an image in a file, a clone in a thread. A copy has the same parts at
 * the same distances from its record; all that must be changed in it, besides what Lua's
 * objects hold, is a few words of the record and of the table of big blocks. */
#ifndef TEMPLATE_HEAP_COPY_H
#define TEMPLATE_HEAP_COPY_H

#include "image/pointers.h"
#include "template/heap/heap.h"

/* What a copy's addresses are reserved by. Bytes, multiples of the page. */
struct heap_shape {
  uint64_t region, zone;
  uint64_t open; /* of the region: accessible from the front */
};

/* Bytes of a heap's record, at its address. */
size_t heap_copy_record_size(void);
/* Room in the record for a node that empty tables share (image/relocate.h). */
void *heap_copy_node(struct heap *h);
/* From the heap's address to the end of all that it has used. */
size_t heap_copy_extent(const struct heap *h);
/* Gives back what is kept for later, and says whether all of the heap lies in its own
 * addresses: NULL, or why a copy would not be whole. */
const char *heap_copy_prepare(struct heap *h);
void heap_copy_shape(const struct heap *h, struct heap_shape *ret);
/* Bytes from the front of the region that hold anything, whole pages. */
size_t heap_copy_front(const struct heap *h);
/* f for each range of memory in use, whole pages, by address. What is not in one of them
 * is zero, or has no meaning. Returns the first of f's results that is not 0, or -ENOMEM.
 */
int heap_copy_parts(const struct heap *h, int (*f)(void *data, char *at, size_t size),
                    void *data);
/* Where the pointers of the state are whose main thread is L, and whose memory is h: 0,
 * or -ENOMEM. Words of userdata count as pointers only where they lead to memory in use.
 */
int heap_copy_pointers(const struct heap *h, lua_State *L, struct pointers *ret);
/* The same, with Lua's node of empty tables (pointers.h). */
int heap_copy_pointers_node(const struct heap *h, lua_State *L, struct pointers *ret);
/* f for each word of the heap's own that holds one of its addresses, or NULL. f may
 * change it by the distance that the heap itself has been moved. */
void heap_copy_words(struct heap *h, void (*f)(void *data, void *word), void *data);

/* An address for a copy of h, another one each time, where most probably nothing lies in
 * any process. */
uint64_t heap_copy_place(const struct heap *h);
/* Reserves the addresses for a copy, without access: at `at`, or where something is
 * there, at a place that differs by a multiple of 4 GiB. NULL: neither can be had. */
char *heap_copy_reserve(const struct heap_shape *shape, uint64_t at);
/* Ends a copy and keeps its addresses for another of that shape: gives back all memory
 * but the first `used` bytes, which the next one overwrites, and at most `warm` zeroed
 * ones behind them. NULL: all is given back, the addresses too. */
char *heap_copy_retire(struct heap *h, const struct heap_shape *shape, size_t used,
                       size_t warm);
/* Makes n bytes at p, of a reserved range, zeroed memory. 0 or -ENOMEM. */
int heap_copy_open(char *p, size_t n);
/* Gives such addresses back, whatever has been mapped there. */
void heap_copy_drop(char *base, const struct heap_shape *shape);
/* Is this record sound, of a heap of that shape that was at base? Only what its functions
 * rely on is looked at; for files that somebody may have changed. record: its bytes. */
int heap_copy_is_sound(const struct heap *record, uint64_t base,
                       const struct heap_shape *shape);
struct heap_range {
  uint64_t at, size; /* from the heap's address */
};
/* Where a sound record, of a heap that was at base, has its tables: size 0: in the record
 * itself. */
void heap_copy_tables(const struct heap *record, uint64_t base, struct heap_range ret[2]);
/* All parts are in place in the reserved addresses, and the words are moved: from now on
 * it is a heap of this process. shared: its memory is a file's, mapped privately; so it
 * counts as frozen. 0, -ENOMEM, or -EINVAL: its table of big blocks is not sound. */
int heap_copy_adopt(struct heap *h, int shared);

#endif
