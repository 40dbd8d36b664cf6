#include "image/compare.h"

#include "image/walk54.h"

#include <setjmp.h>
#include <string.h>

struct checking {
  const struct compare_allocator *allocator;
  void *context;
  const struct l54_global *global;
  struct compare_result result;
  bool dead; /* the object at hand: what it refers to may be free */
  jmp_buf out;
};

static _Noreturn void find_fault(struct checking *c, const char *fault) {
  c->result.fault = fault;
  longjmp(c->out, 1);
}

/* At `at`, or up to it. */
static bool leads_to_block(struct checking *c, const char *at) {
  struct compare_block b;
  return c->allocator->find(c->context, at, &b) ||
         c->allocator->find(c->context, at - 1, &b);
}

static inline void check_inside(void *context, void *slot) {
  struct checking *c = context;
  const char *at;
  memcpy(&at, slot, sizeof at);
  if (at && !c->dead && !leads_to_block(c, at))
    find_fault(c, "a pointer leads to no block");
}
static inline void check_perhaps(void *context, void *slot) {
}
static inline void check_outside(void *context, void *slot, enum image_kind kind) {
}

/* A thread is not at the start of its block. */
static inline void check_object(void *context, struct l54_object *o, size_t nbytes) {
  struct checking *c = context;
  struct compare_block b;
  if (!c->allocator->find(c->context, o, &b) || (uintptr_t)o % sizeof(void *))
    find_fault(c, "an object is in no block");
  if (nbytes > b.nbytes - (size_t)((const char *)o - b.start))
    find_fault(c, "an object is larger than its block");
  if (nbytes > sizeof *o)
    return;
  c->dead = l54_is_dead(o, c->global);
  c->result.nobjects++;
}

static inline void check_block(void *context, const void *at, size_t nbytes) {
  struct checking *c = context;
  struct compare_block b;
  if (!c->allocator->find(c->context, at, &b) || b.start != at)
    find_fault(c, "no block begins where the walk expects one");
  if (b.nbytes != nbytes)
    find_fault(c, "a block has another size than the walk expects");
  if (!c->allocator->meet(c->context, b.start))
    find_fault(c, "a block was met twice");
  c->result.nblocks++;
  c->result.nbytes += nbytes;
}

static inline void check_uncounted(void *context, const void *at, size_t nbytes) {
  struct checking *c = context;
  check_block(context, at, nbytes);
  c->result.nbytes -= nbytes;
}

static inline void check_need(void *context, int holds) {
  if (!holds)
    find_fault(context, "a number is out of its range");
}
static inline void check_contents(void *context, struct l54_userdata *u, char *memory,
                                  size_t nbytes) {
}
static inline void check_key(void *context, struct l54_table *t, struct l54_entry *e) {
}
static inline uintptr_t not_moved(void *context) {
  return 0;
}

static const struct walk_visitor checking = {
    .inside = check_inside,
    .perhaps = check_perhaps,
    .outside = check_outside,
    .object = check_object,
    .block = check_block,
    .uncounted = check_uncounted,
    .need = check_need,
    .contents = check_contents,
    .outside_key = check_key,
    .moved_by = not_moved,
};

/* All of the record that the rest is judged by. */
static void check_main_block(struct checking *c, lua_State *L) {
  const char *start = l54_start_of_main(L);
  struct compare_block b;
  if (!c->allocator->find(c->context, L, &b) || b.start != start)
    find_fault(c, "the main thread does not begin where it should");
  if (b.nbytes != sizeof(struct l54_main_block))
    find_fault(c, "the main thread's block has another size");
  c->global = l54_thread(L)->global;
  if (c->global != &((const struct l54_main_block *)(const void *)start)->global)
    find_fault(c, "the global record is not where it should be");
}

struct compare_result
compare_state(lua_State *L, const struct compare_allocator *allocator, void *context) {
  struct checking c = {.allocator = allocator, .context = context};
  if (setjmp(c.out))
    return c.result;
  check_main_block(&c, L);
  if (l54_main(l54_thread(L)->global) != l54_thread(L))
    find_fault(&c, "the main thread is another one");
  walk_state(&checking, &c, L);
  return c.result;
}
