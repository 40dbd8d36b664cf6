/* A number's place is its lowest bits. A number whose place is taken by one that has
 * stayed long is skipped; as the table is never more than half full, few are. */
#include "parent/numbers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_SIZE = 64, KEPT_SIZE = 8192 };

void numbers_init(struct numbers *t) {
  memset(t, 0, sizeof *t);
  t->next = 1;
}

void numbers_deinit(struct numbers *t) {
  free(t->slots);
  numbers_init(t);
}

static struct number *place(const struct numbers *t, uint64_t id) {
  return &t->slots[id & (t->size - 1)];
}

/* Numbers that differ in their lowest bits differ in one bit more, too. */
static int grow(struct numbers *t) {
  struct numbers larger = *t;
  larger.size = t->size ? t->size * 2 : FIRST_SIZE;
  larger.slots = calloc(larger.size, sizeof *larger.slots);
  if (!larger.slots)
    return -ENOMEM;
  for (size_t i = 0; i < t->size; i++)
    if (t->slots[i].value)
      *place(&larger, t->slots[i].id) = t->slots[i];
  free(t->slots);
  *t = larger;
  return 0;
}

int numbers_add(struct numbers *t, void *value, uint64_t *ret_id) {
  struct number *n;
  if (t->used * 2 >= t->size && grow(t) < 0)
    return -ENOMEM;
  while ((n = place(t, t->next))->value || !t->next)
    t->next++;
  n->id = t->next++;
  n->value = value;
  t->used++;
  *ret_id = n->id;
  return 0;
}

void *numbers_get(const struct numbers *t, uint64_t id) {
  const struct number *n = t->size ? place(t, id) : NULL;
  return n && n->id == id ? n->value : NULL;
}

void numbers_remove(struct numbers *t, uint64_t id) {
  struct number *n = t->size ? place(t, id) : NULL;
  if (!n || n->id != id || !n->value)
    return;
  n->value = NULL;
  if (--t->used || t->size <= KEPT_SIZE)
    return;
  free(t->slots); /* it was large once */
  t->slots = NULL;
  t->size = 0;
}
