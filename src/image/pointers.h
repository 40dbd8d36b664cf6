/* A record of where the pointers of a Lua state are: a bit for each word of its region
 * that holds a pointer into the region, and a list of the words that lead outside. Copies
 * (relocate.h), images in files and clones in threads are made of it. The state is only
 * read, so it must not change between the recording and the use. */
#ifndef IMAGE_POINTERS_H
#define IMAGE_POINTERS_H

#include "image/kind.h"

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of words that nobody describes: numbers are small or, as doubles, beyond the addresses
 * of a process. */
static inline bool pointers_can_be_address(uintptr_t word) {
  return word >= 65536 && (sizeof word < 8 || (uint64_t)word >> 56 == 0);
}

struct pointers_outside {
  uint64_t offset; /* of the word, from the region's start */
  uint64_t word;
  uint64_t object; /* offset of the userdata of IMAGE_USERDATA and IMAGE_STREAM; else 0 */
  enum image_kind kind;
};

struct pointers {
  const char *base;
  size_t nbytes;
  uint64_t
      *bits; /* bit i % 64 of bits[i / 64]: word i; whole lines of eight words and more */
  size_t npointers;
  struct pointers_outside *outsides;
  size_t noutsides;
  /* Offsets of the tables with keys that are hashed by an address outside: light C
   * functions and light userdata. Where such an address becomes another one, the entries
   * must be placed anew. */
  uint64_t *tables;
  size_t ntables;
  /* Lua's node, which empty tables share, where pointers_record was to look for it:
   * the words that lead there have bits, though it lies outside, and are not listed. So a
   * copy can be given a node of its own (relocate_node). NULL: none leads there. */
  const void *node;
};

struct pointers_range {
  const char *from;
  size_t nbytes;
};
/* Records the state of L, all of which lies in nbytes from base on, a multiple of 8.
 * Contents of userdata of which no more is known are taken for what they look like: words
 * that can't be an address are not listed, and one that leads to none of the n ranges in
 * use, which are in order, is no pointer. Else a region of many GiB finds such words by
 * chance, in what C modules have left unset. Returns 0, or -ENOMEM and the record is
 * empty. */
int pointers_record(struct pointers *r, lua_State *L, const void *base, size_t nbytes,
                    const struct pointers_range *used, size_t n, int looks_for_node);
/* Sets the bit of one word more: the allocator's own. */
void pointers_add(struct pointers *r, const void *slot);
void pointers_free(struct pointers *r);

/* "light C function" */
const char *pointers_kind(enum image_kind kind);

#endif
