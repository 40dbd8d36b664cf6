/* When the heap of a state is quiet, and how its clones collect. Runs in templates and
 * clones. heap may be NULL (a host's allocator): everything works, sharing less. */
#ifndef TEMPLATE_SEAL_H
#define TEMPLATE_SEAL_H

#include "template/heap.h"
#include <lua.h>

enum seal_gc { SEAL_GENERATIONAL = 0, SEAL_INCREMENTAL = 1, SEAL_STOP = 2 }; /* = enum mf_gc */

struct seal {
  struct heap *heap;
  int gc;          /* mode to settle in */
  int dirty;       /* Lua has run since the last seal */
  int sealed;
  /* ... the collector's own bookkeeping follows; belongs to seal.c */
  uint64_t base, young_base;
  int in_clone, major_due;
};

/* Replaces collectgarbage by one that knows about seals (and otherwise is Lua's). */
void seal_init(struct seal *s, lua_State *L, struct heap *heap, int gc);
/* Says that Lua code has run: the next seal_now works, else it returns at once. */
void seal_touch(struct seal *s);
/* Finalisers, a full collection, the mode, room in the string table, heap_seal. Protected:
 * 0, or -ENOMEM. */
int seal_now(struct seal *s, lua_State *L);
/* In a clone, after heap_forked. */
void seal_forked(struct seal *s, lua_State *L);
/* clone.collect(): a major collection, at the price of a private copy. */
void seal_collect(struct seal *s, lua_State *L);

#endif
