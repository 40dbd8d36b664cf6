/* The walk through a Lua state: every pointer of it, once, named to a visitor. What is
 * done with the pointers is the visitor's: moving (relocate.c), recording (pointers.c),
 * checking (compare.c). All of it is inlined into each of the three, with the visitor's
 * functions: 28 million pointers in 512 MiB leave no time for calls. So a visitor is a
 * constant.
 *
 * The walk follows a pointer after the visitor has seen it, and only those to an object's
 * own blocks and to the next object: a state of which each pointer still has an old value
 * can be walked by a visitor that corrects them one after the other. It allocates
 * nothing, and calls no function of Lua. What a collector that is under way has found
 * dead is walked, too. */
#ifndef IMAGE_WALK54_H
#define IMAGE_WALK54_H

#include "image/kind.h"
#include "image/layout54.h"

struct walk_visitor {
  /* NULL or a pointer into the state's memory; it may be one past the end of a block. */
  void (*inside)(void *context, void *slot);
  /* The same, or what an earlier use of this memory has left there: Lua writes the link
   * of a gray object before it reads it, and the key of a removed entry is only compared.
   */
  void (*perhaps)(void *context, void *slot);
  /* A word that leads anywhere, or is a number. */
  void (*outside)(void *context, void *slot, enum image_kind kind);
  /* An object comes: o is readable for nbytes at least, or the visitor does not return.
   */
  void (*object)(void *context, struct l54_object *o, size_t nbytes);
  /* Exactly this is a block of the allocator's, or the visitor does not return. */
  void (*block)(void *context, const void *at, size_t nbytes);
  /* The same, of one that is not part of what lua_gc counts. */
  void (*uncounted)(void *context, const void *at, size_t nbytes);
  /* What the walk needs to go on; the visitor does not return where it is false. */
  void (*need)(void *context, int holds);
  /* The contents of a userdata. */
  void (*contents)(void *context, struct l54_userdata *u, char *memory, size_t nbytes);
  /* An entry of the table has a key that is hashed by an address outside. */
  void (*outside_key)(void *context, struct l54_table *t, struct l54_entry *e);
  /* What has been added to the address of each object, but not yet to the pointers. */
  uintptr_t (*moved_by)(void *context);
};

#define WALK static inline __attribute__((always_inline)) void
#define WALKER const struct walk_visitor *v, void *c

WALK walk_word(WALKER, union l54_word *word, unsigned char tag) {
  if (tag & L54_IS_OBJECT)
    v->inside(c, word);
  else if (tag == L54_LIGHT_C_FUNCTION)
    v->outside(c, word, IMAGE_C_FUNCTION);
  else if (tag == L54_LIGHT)
    v->outside(c, word, IMAGE_LIGHT);
}

WALK walk_cells(WALKER, struct l54_cell *cells, size_t n) {
  for (size_t i = 0; i < n; i++)
    walk_word(v, c, &cells[i].word, cells[i].tag);
}

/* n pointers in a row. */
WALK walk_array(WALKER, void *array, size_t n) {
  for (size_t i = 0; i < n; i++)
    v->inside(c, (void **)array + i);
}

/* A block that a field names, when it has elements. */
WALK walk_part(WALKER, void *slot, int n, size_t element) {
  v->need(c, n >= 0);
  v->inside(c, slot);
  if (n > 0)
    v->block(c, *(void **)slot, (size_t)n * element);
}

#if LUA_VERSION_NUM == 504
WALK walk_string(WALKER, struct l54_global *g, struct l54_string *s) {
  (void)g;
  if (s->type == L54_LONG_STRING) {
    v->block(c, s, offsetof(struct l54_string, bytes) + s->as.length + 1);
    return;
  }
  v->block(c, s, offsetof(struct l54_string, bytes) + s->short_length + 1);
  v->inside(c, &s->as.chain);
}

WALK walk_elements(WALKER, struct l54_table *t) {
  size_t n = l54_array_size(t);
  v->inside(c, &t->array);
  if (n)
    v->block(c, t->array, n * sizeof *t->array);
  walk_cells(v, c, t->array, n);
  v->inside(c, &t->last_free);
}

WALK walk_entries_block(WALKER, struct l54_table *t, size_t n) {
  v->block(c, t->entries, n * sizeof *t->entries);
}

WALK walk_code(WALKER, struct l54_function *f) {
  walk_part(v, c, &f->code, f->ncode, sizeof *f->code);
  walk_part(v, c, &f->lineinfo, f->nlineinfo, sizeof *f->lineinfo);
  walk_part(v, c, &f->lines, f->nlines, sizeof *f->lines);
}

WALK walk_place(WALKER, struct l54_frame *f) {
  v->inside(c, &f->as.lua.next_instruction);
}

WALK walk_thread_block(WALKER, struct l54_global *g, struct l54_thread *t) {
  v->block(c, (char *)t - LUA_EXTRASPACE,
           t == g->main ? sizeof(struct l54_main_block)
                        : LUA_EXTRASPACE + sizeof(struct l54_thread));
}

WALK walk_main(WALKER, struct l54_global *g) {
  v->inside(c, &g->main);
}
#else
#include "image/walk55.h"
#endif

WALK walk_entry(WALKER, struct l54_table *t, struct l54_entry *e) {
  walk_word(v, c, &e->word, e->tag);
  if (e->key_tag == L54_DEAD_KEY)
    v->perhaps(c, &e->key); /* lua_next compares it */
  else
    walk_word(v, c, &e->key, e->key_tag);
  if (e->key_tag == L54_LIGHT_C_FUNCTION || e->key_tag == L54_LIGHT)
    v->outside_key(c, t, e);
}

WALK walk_table(WALKER, struct l54_table *t) {
  v->block(c, t, sizeof *t);
  v->inside(c, &t->metatable);
  v->perhaps(c, &t->gray);
  walk_elements(v, c, t);
  if (!l54_has_entries(t)) { /* none of its own */
    v->outside(c, &t->entries, IMAGE_DUMMY_NODE);
    return;
  }
  v->need(c, t->log2_entries < 31);
  v->inside(c, &t->entries);
  size_t n = (size_t)1 << t->log2_entries;
  walk_entries_block(v, c, t, n);
  for (size_t i = 0; i < n; i++)
    walk_entry(v, c, t, &t->entries[i]);
}

WALK walk_lua_closure(WALKER, struct l54_lua_closure *f) {
  v->block(c, f, sizeof *f + f->nupvalues * sizeof *f->upvalues);
  v->perhaps(c, &f->gray);
  v->inside(c, &f->function);
  walk_array(v, c, f->upvalues, f->nupvalues);
}

WALK walk_c_closure(WALKER, struct l54_c_closure *f) {
  v->block(c, f, sizeof *f + f->nupvalues * sizeof *f->upvalues);
  v->perhaps(c, &f->gray);
  v->outside(c, &f->function, IMAGE_C_CLOSURE);
  walk_cells(v, c, f->upvalues, f->nupvalues);
}

/* Open or closed is seen by where it points, so by what was true before the move. */
WALK walk_upvalue(WALKER, struct l54_upvalue *u) {
  v->block(c, u, sizeof *u);
  int open = (uintptr_t)u->at != (uintptr_t)&u->as.own - v->moved_by(c);
  v->inside(c, &u->at);
  if (open) {
    v->inside(c, &u->as.open.next);
    v->inside(c, &u->as.open.previous);
  } else {
    walk_cells(v, c, &u->as.own, 1);
  }
}

WALK walk_userdata(WALKER, struct l54_userdata *u) {
  size_t head = l54_userdata_head(u);
  v->need(c, u->nbytes < SIZE_MAX / 2);
  v->block(c, u, head + u->nbytes);
  v->inside(c, &u->metatable);
  if (u->nvalues)
    v->perhaps(c, &u->gray);
  walk_cells(v, c, l54_user_values(u), u->nvalues);
  v->contents(c, u, (char *)u + head, u->nbytes);
}

WALK walk_function(WALKER, struct l54_function *f) {
  v->block(c, f, sizeof *f);
  walk_part(v, c, &f->constants, f->nconstants, sizeof *f->constants);
  walk_code(v, c, f);
  walk_part(v, c, &f->inner, f->ninner, sizeof *f->inner);
  walk_part(v, c, &f->upvalues, f->nupvalues, sizeof *f->upvalues);
  walk_part(v, c, &f->locals, f->nlocals, sizeof *f->locals);
  v->inside(c, &f->source);
  v->perhaps(c, &f->gray);
  walk_cells(v, c, f->constants, (size_t)f->nconstants);
  walk_array(v, c, f->inner, (size_t)f->ninner);
  for (int i = 0; i < f->nupvalues; i++)
    v->inside(c, &f->upvalues[i].name);
  for (int i = 0; i < f->nlocals; i++)
    v->inside(c, &f->locals[i].name);
}

/* A frame that runs or waits. Behind the running one there are frames for later calls,
 * which Lua fills before it reads them. */
WALK walk_frame(WALKER, struct l54_frame *f) {
  v->inside(c, &f->function);
  v->inside(c, &f->top);
  if (f->state & L54_FRAME_OF_C) {
    v->outside(c, &f->as.c.continuation, IMAGE_CONTINUATION);
    v->outside(c, &f->as.c.context, IMAGE_CONTEXT);
  } else {
    walk_place(v, c, f);
  }
}

WALK walk_frames(WALKER, struct l54_thread *t) {
  int in_use = 1;
  for (struct l54_frame *f = &t->first_frame; f; f = f->next) {
    if (f != &t->first_frame)
      v->block(c, f, sizeof *f);
    v->inside(c, &f->previous);
    v->inside(c, &f->next);
    if (in_use)
      walk_frame(v, c, f);
    in_use = in_use && f != t->frame;
  }
}

WALK walk_stack(WALKER, struct l54_thread *t) {
  size_t n = (size_t)(t->stack_end - t->stack), used = (size_t)(t->top - t->stack);
  v->need(c, t->stack_end >= t->stack && n < (size_t)1 << 31);
  v->need(c, t->top >= t->stack && used <= n + L54_SPARE_SLOTS);
  v->block(c, t->stack, (n + L54_SPARE_SLOTS) * sizeof *t->stack);
  walk_cells(v, c, t->stack, used);
  /* Old values, of objects that are not freed yet. A debug hook that yields makes them
   * part of the stack again, where the collector marks them. */
  for (size_t i = used; i < n + L54_SPARE_SLOTS; i++)
    if (t->stack[i].tag & L54_IS_OBJECT)
      v->perhaps(c, &t->stack[i].word);
}

WALK walk_thread(WALKER, struct l54_global *g, struct l54_thread *t) {
  char *extra = (char *)t - LUA_EXTRASPACE;
  walk_thread_block(v, c, g, t);
  v->inside(c, &t->global);
  v->need(c, t->global == g);
  v->inside(c, &t->top);
  v->inside(c, &t->frame);
  v->inside(c, &t->stack_end);
  v->inside(c, &t->stack);
  v->inside(c, &t->open_upvalues);
  v->inside(c, &t->to_be_closed);
  v->perhaps(c, &t->gray);
  v->inside(c, &t->with_upvalues);
  v->outside(c, &t->jump, IMAGE_JUMP);
  v->outside(c, &t->hook, IMAGE_HOOK);
  for (size_t i = 0; i + sizeof(void *) <= LUA_EXTRASPACE; i += sizeof(void *))
    v->outside(c, extra + i, IMAGE_EXTRA);
  if (!t->stack) /* there was no memory for it */
    return;
  walk_stack(v, c, t);
  walk_frames(v, c, t);
}

/* The least that an object of this type has: so much of it is read before its size is
 * known. */
static inline size_t walk_least(unsigned char type) {
  switch (type) {
  case L54_SHORT_STRING:
  case L54_LONG_STRING:
    return offsetof(struct l54_string, as) + sizeof(((struct l54_string *)0)->as);
  case L54_TABLE:
    return sizeof(struct l54_table);
  case L54_LUA_FUNCTION:
    return sizeof(struct l54_lua_closure);
  case L54_C_CLOSURE:
    return sizeof(struct l54_c_closure);
  case L54_UPVALUE:
    return sizeof(struct l54_upvalue);
  case L54_USERDATA:
    return offsetof(struct l54_userdata, gray);
  case L54_PROTOTYPE:
    return sizeof(struct l54_function);
  case L54_THREAD:
    return sizeof(struct l54_thread);
  }
  return 0; /* there is no such type */
}

WALK walk_object(WALKER, struct l54_global *g, struct l54_object *o) {
  switch (o->type) {
  case L54_SHORT_STRING:
  case L54_LONG_STRING:
    walk_string(v, c, g, (struct l54_string *)o);
    break;
  case L54_TABLE:
    walk_table(v, c, (struct l54_table *)o);
    break;
  case L54_LUA_FUNCTION:
    walk_lua_closure(v, c, (struct l54_lua_closure *)o);
    break;
  case L54_C_CLOSURE:
    walk_c_closure(v, c, (struct l54_c_closure *)o);
    break;
  case L54_UPVALUE:
    walk_upvalue(v, c, (struct l54_upvalue *)o);
    break;
  case L54_USERDATA:
    walk_userdata(v, c, (struct l54_userdata *)o);
    break;
  case L54_PROTOTYPE:
    walk_function(v, c, (struct l54_function *)o);
    break;
  case L54_THREAD:
    walk_thread(v, c, g, (struct l54_thread *)o);
    break;
  }
}

/* From the field that holds the first object. */
WALK walk_objects(WALKER, struct l54_global *g, struct l54_object **head) {
  v->inside(c, head);
  for (struct l54_object *o = *head; o; o = o->next) {
    v->object(c, o, sizeof *o);
    v->need(c, walk_least(o->type) != 0);
    v->object(c, o, walk_least(o->type));
    v->inside(c, &o->next);
    walk_object(v, c, g, o);
  }
}

WALK walk_collector(WALKER, struct l54_global *g) {
  v->inside(c, &g->sweep);
  v->inside(c, &g->gray);
  v->inside(c, &g->gray_again);
  v->inside(c, &g->weak);
  v->inside(c, &g->ephemeron);
  v->inside(c, &g->all_weak);
  v->inside(c, &g->survival);
  v->inside(c, &g->old1);
  v->inside(c, &g->really_old);
  v->perhaps(c, &g->first_old1); /* stays when the generational mode is left */
  v->inside(c, &g->finaliser_survival);
  v->inside(c, &g->finaliser_old1);
  v->inside(c, &g->finaliser_really_old);
}

WALK walk_global(WALKER, struct l54_global *g) {
  v->outside(c, &g->allocate, IMAGE_ALLOCATOR);
  v->outside(c, &g->allocate_data, IMAGE_ALLOCATOR_DATA);
  v->outside(c, &g->panic, IMAGE_PANIC);
  v->outside(c, &g->warn, IMAGE_WARN);
  v->outside(c, &g->warn_data, IMAGE_WARN_DATA);
  walk_cells(v, c, &g->registry, 1);
  v->inside(c, &g->with_upvalues);
  walk_main(v, c, g);
  v->inside(c, &g->out_of_memory);
  walk_array(v, c, g->event_names, L54_EVENTS);
  walk_array(v, c, g->metatables, LUA_NUMTYPES);
  walk_array(v, c, g->cache, L54_CACHE);
  walk_collector(v, c, g);
  walk_part(v, c, &g->strings.chains, g->strings.nchains, sizeof *g->strings.chains);
  walk_array(v, c, g->strings.chains, (size_t)g->strings.nchains);
}

/* All of the state whose main thread is L: each object is in one of four lists. */
WALK walk_state(WALKER, lua_State *L) {
  struct l54_thread *main = l54_thread(L);
  v->inside(
      c,
      &main->global); /* once more as a thread's: who corrects it sees a corrected one */
  struct l54_global *g = main->global;
  walk_global(v, c, g);
  walk_objects(v, c, g, &g->all);
  walk_objects(v, c, g, &g->with_finaliser);
  walk_objects(v, c, g, &g->to_finalise);
  walk_objects(v, c, g, &g->fixed);
}

#undef WALKER
#undef WALK

#endif
