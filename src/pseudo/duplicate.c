#include "pseudo/duplicate.h"

#include "image/pointers.h"
#include "image/relocate.h"
#include "template/heap/heap_copy.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct copying {
  char *from, *to;
  const struct pointers *pointers;
};

static intptr_t distance(const struct copying *c) {
  return (intptr_t)((uintptr_t)c->to - (uintptr_t)c->from);
}

/* Whole pages, whose bits are whole words. */
static int copy_part(void *data, char *at, size_t size) {
  const struct copying *c = data;
  char *to = c->to + (at - c->from);
  if (heap_copy_open(to, size) < 0)
    return -ENOMEM;
  relocate_copy(to, at, size, c->pointers->bits + (size_t)(at - c->from) / 512,
                distance(c));
  return 0;
}

static void move_word(void *data, void *word) {
  const struct copying *c = data;
  char *p;
  memcpy(&p, word, sizeof p);
  if (!p)
    return;
  p = c->to + (p - c->from);
  memcpy(word, &p, sizeof p);
}

static int copy_all(struct copying *c, struct family_member *from) {
  struct heap *heap = (struct heap *)(void *)c->to;
  int r = heap_copy_parts(from->heap, copy_part, c);
  if (r < 0)
    return r;
  heap_copy_words(heap, move_word, c);
  return heap_copy_adopt(heap, 0);
}

int duplicate_make(struct family_member *to, struct family_member *from, char *why,
                   size_t size) {
  struct pointers pointers;
  struct heap_shape shape;
  const char *reason = heap_copy_prepare(from->heap);
  if (reason || (reason = relocate_obstacle(from->L))) {
    snprintf(why, size, "the interpreter can't be copied: %s", reason);
    return -EBUSY;
  }
  heap_copy_shape(from->heap, &shape);
  struct copying c = {(char *)from->heap,
                      heap_copy_reserve(&shape, heap_copy_place(from->heap)), &pointers};
  int r = -ENOMEM;
  if (c.to) {
    r = heap_copy_pointers(from->heap, from->L, &pointers);
    if (r == 0) {
      r = copy_all(&c, from);
      pointers_free(&pointers);
    }
    if (r < 0)
      heap_copy_drop(c.to, &shape);
  }
  if (r < 0) {
    snprintf(why, size, "there is no memory for a copy: %s", strerror(-r));
    return r;
  }
  to->heap = (struct heap *)(void *)c.to;
  to->L = (lua_State *)(void *)(c.to + ((char *)from->L - c.from));
  to->program = (lua_State *)(void *)(c.to + ((char *)from->program - c.from));
  return 0;
}

/* ---- userdata ---- */

int duplicate_look(struct family_member *m, struct userdata_list *ret,
                   struct userdata_refusal *ret_refusal) {
  struct heap_shape shape;
  heap_copy_shape(m->heap, &shape);
  struct userdata_question q = {USERDATA_PSEUDO, m->heap,
                                (size_t)(shape.region + shape.zone), NULL};
  return userdata_look(m->L, &q, ret, ret_refusal);
}
