/* What is walked in another way in Lua 5.5: part of walk54.h. */
#ifndef IMAGE_WALK55_H
#define IMAGE_WALK55_H

/* Of a string that luaL_Buffer made the characters are a block of the state's allocator,
 * which the state does not count; of one that the host made they are the host's. */
WALK walk_string(WALKER, struct l54_global *g, struct l54_string *s) {
  if (s->type != L54_LONG_STRING) {
    v->need(c, s->short_length >= 0);
    v->block(c, s, offsetof(struct l54_string, at) + (size_t)s->short_length + 1);
    v->inside(c, &s->as.chain);
    return;
  }
  size_t head = offsetof(struct l54_string, free);
  if (s->short_length == L55_HERE) {
    v->block(c, s, head + s->as.length + 1);
    v->inside(c, &s->at.bytes);
    return;
  }
  v->need(c, s->short_length == L55_FIXED || s->short_length == L55_ELSEWHERE);
  v->block(c, s, s->short_length == L55_ELSEWHERE ? sizeof *s : head);
  if (s->short_length == L55_FIXED) {
    v->outside(c, &s->at.bytes, IMAGE_STRING);
    return;
  }
  v->outside(c, &s->free, IMAGE_ALLOCATOR);
  v->outside(c, &s->free_data, IMAGE_ALLOCATOR_DATA);
  if (s->free == g->allocate && s->free_data == g->allocate_data) {
    v->inside(c, &s->at.bytes);
    v->uncounted(c, s->at.bytes, s->as.length + 1);
  } else {
    v->outside(c, &s->at.bytes, IMAGE_STRING);
  }
}

WALK walk_elements(WALKER, struct l54_table *t) {
  size_t n = t->narray;
  v->inside(c, &t->array);
  if (!n)
    return;
  const unsigned char *tags = (const unsigned char *)t->array + sizeof(unsigned);
  v->block(c, t->array - n, n * (sizeof *t->array + 1) + sizeof(unsigned));
  for (size_t i = 0; i < n; i++)
    walk_word(v, c, t->array - 1 - i, tags[i]);
}

/* The entries' block, from the word before them where they have it: the last free. */
WALK walk_entries_block(WALKER, struct l54_table *t, size_t n) {
  size_t before = t->log2_entries >= L55_HAS_LAST_FREE ? sizeof(void *) : 0;
  char *start = (char *)t->entries - before;
  v->block(c, start, n * sizeof *t->entries + before);
  if (before)
    v->inside(c, start);
}

WALK walk_code(WALKER, struct l54_function *f) {
  if (f->is_vararg & L55_PARTS_ARE_FIXED) {
    v->outside(c, &f->code, IMAGE_FIXED_CODE);
    v->outside(c, &f->lineinfo, IMAGE_FIXED_CODE);
    v->outside(c, &f->lines, IMAGE_FIXED_CODE);
    return;
  }
  walk_part(v, c, &f->code, f->ncode, sizeof *f->code);
  walk_part(v, c, &f->lineinfo, f->nlineinfo, sizeof *f->lineinfo);
  walk_part(v, c, &f->lines, f->nlines, sizeof *f->lines);
}

/* In code, or in what a host keeps for it. */
WALK walk_place(WALKER, struct l54_frame *f) {
  v->perhaps(c, &f->as.lua.next_instruction);
}

WALK walk_thread_block(WALKER, struct l54_global *g, struct l54_thread *t) {
  if (t == &g->main.thread)
    v->block(c, g, sizeof *g);
  else
    v->block(c, (char *)t - LUA_EXTRASPACE, LUA_EXTRASPACE + sizeof *t);
}

WALK walk_main(WALKER, struct l54_global *g) {
  (void)v, (void)c, (void)g; /* it lies inside */
}

#endif
