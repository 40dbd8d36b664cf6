#include "parent/larder.h"

#include <stdlib.h>

static void *take_place(struct larder *l, int i, size_t *ret_size) {
  void *block = l->kept[i].block;
  *ret_size = l->kept[i].size;
  l->octets -= l->kept[i].size;
  l->kept[i].block = NULL;
  l->kept[i].size = 0;
  return block;
}

void *larder_take(struct larder *l, size_t least, size_t *ret_size) {
  int best = -1;
  for (int i = 0; i < LARDER_BLOCKS; i++)
    if (l->kept[i].block && l->kept[i].size >= least &&
        (best < 0 || l->kept[i].size < l->kept[best].size))
      best = i;
  if (best >= 0)
    return take_place(l, best, ret_size);
  *ret_size = least;
  return malloc(least);
}

void *larder_take_largest(struct larder *l, size_t *ret_size) {
  int best = 0;
  for (int i = 1; i < LARDER_BLOCKS; i++)
    if (l->kept[i].size > l->kept[best].size)
      best = i;
  return take_place(l, best, ret_size);
}

static int smallest(const struct larder *l) { /* an empty place first of all */
  int best = 0;
  for (int i = 1; i < LARDER_BLOCKS; i++)
    if (l->kept[i].size < l->kept[best].size)
      best = i;
  return best;
}

/* What is smaller makes way. */
void larder_give(struct larder *l, void *block, size_t size) {
  size_t other;
  if (!block || size < LARDER_BLOCK_MIN || size > LARDER_BLOCK_MAX) {
    free(block);
    return;
  }
  int place = smallest(l);
  if (l->kept[place].size > size) {
    free(block);
    return;
  }
  free(take_place(l, place, &other));
  while (l->octets + size > LARDER_OCTETS_MAX) {
    int largest = 0;
    for (int i = 1; i < LARDER_BLOCKS; i++)
      if (l->kept[i].size > l->kept[largest].size)
        largest = i;
    free(take_place(l, largest, &other));
  }
  l->kept[place].block = block;
  l->kept[place].size = size;
  l->octets += size;
}

void larder_empty(struct larder *l) {
  size_t size;
  for (int i = 0; i < LARDER_BLOCKS; i++)
    free(take_place(l, i, &size));
}
