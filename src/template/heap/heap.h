/* The Lua heap of a template and its clones: where blocks live. One region of reserved
 * address space; what the template builds lies in huge pages; after heap_seal, new blocks
 * go to a fresh part of small pages, and frees of sealed blocks touch nothing, so that
 * clones keep sharing. Blocks of HEAP_BIG bytes and more are mappings of their own behind
 * the region (mremap to grow, munmap to free). Runs in templates and clones; one thread.
 */
#ifndef TEMPLATE_HEAP_H
#define TEMPLATE_HEAP_H

#include <stddef.h>
#include <stdint.h>

struct heap;

enum { HEAP_BIG = 128 * 1024 };

/* reserve: bytes of address space (0: a default, 64 GiB where that can be had; halved
 * until the system agrees). NULL where not even a small one can be had (use luaL_newstate
 * then). */
struct heap *heap_new(size_t reserve);
void heap_free(struct heap *h); /* unmaps everything */
/* A lua_Alloc; ud is the heap. */
void *heap_alloc(void *ud, void *block, size_t osize, size_t nsize);
/* For a state that was created with another allocator (template() of a running
 * interpreter): blocks outside the region go to it. Call before the heap is used. */
void heap_set_foreign(struct heap *h, void *(*alloc)(void *, void *, size_t, size_t),
                      void *ud);
/* What each clone will write to: from a call with HEAP_HOT_USERDATA or HEAP_HOT_ALL to
 * one with HEAP_HOT_NONE, userdata, or all small blocks, lie in the hot part, behind the
 * state, until it is full. Clones take the room for their first blocks from its rest: so a
 * birth copies one page where these things would lie in four. */
enum heap_hot { HEAP_HOT_NONE, HEAP_HOT_USERDATA, HEAP_HOT_ALL };
void heap_set_hot(struct heap *h, enum heap_hot what);
/* Quiet now: clones begin with fresh small pages and no free lists, and leave sealed
 * blocks alone. May be called again after more was built; the template goes on using its
 * holes, so seals without end do not make it grow. */
void heap_seal(struct heap *h);
/* First thing in a forked process. sealed parts stay shared. */
void heap_forked(struct heap *h);
/* After heap_seal: moves what is sealed to where forks need not copy its page tables
 * (memfd_map.h). Where the system can't, all stays. heap_freeze_gain says beforehand what
 * that spares each fork, as bytes of huge pages. The process must have one thread only,
 * here and for heap_thaw: for a moment what is moved can't be touched. */
uint64_t heap_freeze_gain(const struct heap *h);
void heap_freeze(struct heap *h);
/* Before something writes to all of the heap (a collection of everything): takes it back
 * into memory of its own, in huge pages. In a template or a clone. */
void heap_thaw(struct heap *h);
int heap_is_frozen(const struct heap *h);
/* In a clone that is about to fork: maps what it inherited frozen, as a template's
 * mirrors do. */
void heap_inherit(struct heap *h);
/* Gives back the addresses (no memory) that freezing holds beside the heap's. */
void heap_drop_mirrors(struct heap *h);
/* The process will seal and fork no more: from now on mappings of less than 4 MiB that
 * were made here and freed are kept for the next big blocks, 8 MiB at most. */
void heap_keep(struct heap *h);
/* A mapping that was offered and freed, of *ret_size bytes: n or a little more. It is the
 * caller's, who may offer it back. NULL: none fits. */
void *heap_lend(struct heap *h, size_t n, size_t *ret_size);
/* Between these two a clone may write to all of its frozen memory: what is the same
 * afterwards is shared as before. may_move 0 at the end: it stays a copy. Nothing happens
 * where there is nothing frozen or no memory for the copy. */
void heap_cover(struct heap *h);
void heap_uncover(struct heap *h, int may_move);
/* In a clone, after a collection of everything: where far more is free than used, whole
 * free pages go back to the system. Their addresses are what is used next. */
void heap_release(struct heap *h);
/* Big blocks lie anywhere from now on: the addresses reserved for them go back. */
void heap_release_zone(struct heap *h);
/* Does that, and unmaps the untouched rest of the region but for `keep` bytes
 * (RLIMIT_AS).
 */
void heap_release_reserve(struct heap *h, size_t keep);
/* Moves a mapping that will be offered to where the heap's big blocks lie, without which
 * the heap could not be copied; page tables are moved, no bytes. Returns where it is from
 * now on: as before where there is no room. Such a one is never lent again. */
void *heap_bring_in(struct heap *h, void *map, size_t map_size);
/* The next allocation of a Lua string (osize LUA_TSTRING, nsize) gives this block: a
 * private anonymous mapping of map_size bytes (a multiple of the page), which the heap
 * then owns. NULL withdraws an offer; returns 1 if it had been taken, else 0 (the caller
 * keeps it). */
void heap_offer(struct heap *h, void *map, size_t map_size, size_t nsize);
int heap_withdraw(struct heap *h);

/* For the seal, which fills the string table to see whether it is about to grow: between
 * begin and stop, new strings lie in a mapping of size bytes of its own, and
 * heap_scratch_grown says whether a table was doubled. end gives the mapping back when
 * the strings have been collected. */
void heap_scratch_begin(struct heap *h, size_t size);
int heap_scratch_grown(const struct heap *h);
void heap_scratch_stop(struct heap *h);
void heap_scratch_end(struct heap *h);

/* Who has made the heap in parts, and puts each in place when it is touched, is told of
 * what touching does not tell: before the memory moves to other addresses, or (from NULL)
 * before all of it is touched; and before it is given back. */
enum heap_watched { HEAP_MOVES, HEAP_GOES };
typedef void (*heap_watch)(void *data, enum heap_watched what, char *from, size_t n);
void heap_set_watch(struct heap *h, heap_watch watch, void *data);
/* Tells it that all will be touched. */
void heap_touch_all(struct heap *h);

struct heap_stats {
  uint64_t live;   /* bytes in live blocks */
  uint64_t own;    /* bytes in live blocks made since the fork (in a template: since a
                      seal that had enough to start a new run) */
  uint64_t sealed; /* bytes that were live at that time */
  uint64_t reserved, touched, huge; /* of the region */
  uint64_t frozen;
  uint64_t big, nbig;
};
void heap_stats(const struct heap *h,
                struct heap_stats *ret);  /* looks at all big blocks */
uint64_t heap_live(const struct heap *h); /* bytes in live blocks */
/* Keeps *where up to date with live bytes, to 64 KiB; where may be in shared memory. A
 * clone whose template has written its live bytes there says is_there: then nothing is
 * written (a page less to map) before there is news. NULL stops. */
void heap_publish(struct heap *h, volatile uint64_t *where, int is_there);

#endif
