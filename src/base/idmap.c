/* An id's place is its lowest bits. An id whose place is taken by one that has stayed
 * long is skipped; as the table is never more than half full, few are. */
#include "base/idmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_SIZE = 64, KEPT_SIZE = 8192 };

void idmap_init(struct idmap *t) {
  memset(t, 0, sizeof *t);
  t->next = 1;
}

void idmap_deinit(struct idmap *t) {
  free(t->slots);
  idmap_init(t);
}

static struct idmap_slot *place(const struct idmap *t, uint64_t id) {
  return &t->slots[id & (t->size - 1)];
}

/* Ids that differ in their lowest bits differ in one bit more, too. */
static int grow(struct idmap *t) {
  struct idmap larger = *t;
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

int idmap_add(struct idmap *t, void *value, uint64_t *ret_id) {
  struct idmap_slot *n;
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

void *idmap_get(const struct idmap *t, uint64_t id) {
  const struct idmap_slot *n = t->size ? place(t, id) : NULL;
  return n && n->id == id ? n->value : NULL;
}

void idmap_remove(struct idmap *t, uint64_t id) {
  struct idmap_slot *n = t->size ? place(t, id) : NULL;
  if (!n || n->id != id || !n->value)
    return;
  n->value = NULL;
  if (--t->used || t->size <= KEPT_SIZE)
    return;
  free(t->slots); /* it was large once */
  t->slots = NULL;
  t->size = 0;
}
