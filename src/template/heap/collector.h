/* When the heap of a state is quiet, and how its clones collect. Runs in templates and
 * clones. heap may be NULL (a host's allocator): everything works, sharing less. */
#ifndef TEMPLATE_COLLECTOR_H
#define TEMPLATE_COLLECTOR_H

#include "template/heap/heap.h"
#include <lua.h>

enum collector_mode {
  COLLECTOR_GENERATIONAL = 0,
  COLLECTOR_INCREMENTAL = 1,
  COLLECTOR_STOP = 2
}; /* = enum mf_gc */

struct collector {
  struct heap *heap;
  int gc;    /* mode to settle in; follows what scripts ask of collectgarbage */
  int dirty; /* Lua has run since the last seal */
  int sealed;
  uint64_t seals; /* so many times it was sealed anew */
  uint64_t
      freeze_worth; /* gain from which on the heap is frozen; collector_init sets it */
  void (*after_hook)(lua_State *L); /* ours took one off; NULL: nobody minds */
  /* A clone's canary is finalised, the template's objects are next: they are older. */
  void (*before_finalisers)(void);
  int (*is_alone)(void); /* has the process one thread only? NULL: yes */
  /* The collector's own bookkeeping follows; belongs to collector.c. All in bytes of
   * Lua's. */
  uint64_t shared;    /* in use when sealed or forked: what a clone has not made itself */
  uint64_t base;      /* in use after the last collection of everything, or at the fork */
  uint64_t young;     /* aim: a young collection each time so much was made */
  uint64_t young_min; /* raised where what had grown old was garbage */
  uint64_t made;      /* in young collections since then, as aimed at */
  uint64_t search_interval; /* so many heaps may be made before garbage is looked for */
  uint64_t outside;         /* in use outside the heap; modulo 2^64 */
  int percent;              /* Lua's parameter for that, as last set */
  uint64_t canary;          /* the newest */
  int in_clone;             /* forked: what is sealed is somebody else's too */
  int collected;            /* a collection of everything has run in this clone */
  int incremental;          /* the mode that Lua is in; gc says what it is to be */
  int stopped;              /* by us, for COLLECTOR_STOP */
  int tuned;                /* scripts chose the generational parameters: theirs stay */
};

/* Replaces collectgarbage by one that knows about seals (and otherwise is Lua's). Borrows
 * s for the life of the state. May raise (memory). Call after the libraries are open. */
void collector_init(struct collector *c, lua_State *L, struct heap *heap, int gc);
/* Says that Lua code has run: the next collector_seal works, else it returns at once. */
void collector_touch(struct collector *c);
/* Finalisers, a full collection, the mode, room in the string table, heap_seal.
 * Protected: 0, or -ENOMEM. */
int collector_seal(struct collector *c, lua_State *L);
/* In a clone, after heap_forked. Never raises. */
void collector_forked(struct collector *c, lua_State *L);
/* clone.collect(): a major collection, at the price of a private copy. */
void collector_collect_all(struct collector *c, lua_State *L);

#endif
