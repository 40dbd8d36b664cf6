#include "base/blockcache.h"

#include <stdlib.h>

static void *take_place(struct blockcache *c, int i, size_t *ret_size) {
  void *block = c->kept[i].block;
  *ret_size = c->kept[i].size;
  c->bytes -= c->kept[i].size;
  c->kept[i].block = NULL;
  c->kept[i].size = 0;
  return block;
}

void *blockcache_take(struct blockcache *c, size_t least, size_t *ret_size) {
  int best = -1;
  for (int i = 0; i < BLOCKCACHE_BLOCKS; i++)
    if (c->kept[i].block && c->kept[i].size >= least &&
        (best < 0 || c->kept[i].size < c->kept[best].size))
      best = i;
  if (best >= 0)
    return take_place(c, best, ret_size);
  *ret_size = least;
  return malloc(least);
}

void *blockcache_take_largest(struct blockcache *c, size_t *ret_size) {
  int best = 0;
  for (int i = 1; i < BLOCKCACHE_BLOCKS; i++)
    if (c->kept[i].size > c->kept[best].size)
      best = i;
  return take_place(c, best, ret_size);
}

static int smallest(const struct blockcache *c) { /* an empty place first of all */
  int best = 0;
  for (int i = 1; i < BLOCKCACHE_BLOCKS; i++)
    if (c->kept[i].size < c->kept[best].size)
      best = i;
  return best;
}

/* What is smaller makes way. */
void blockcache_give(struct blockcache *c, void *block, size_t size) {
  size_t other;
  if (!block || size < BLOCKCACHE_BLOCK_MIN || size > BLOCKCACHE_BLOCK_MAX) {
    free(block);
    return;
  }
  int place = smallest(c);
  if (c->kept[place].size > size) {
    free(block);
    return;
  }
  free(take_place(c, place, &other));
  while (c->bytes + size > BLOCKCACHE_BYTES_MAX) {
    int largest = 0;
    for (int i = 1; i < BLOCKCACHE_BLOCKS; i++)
      if (c->kept[i].size > c->kept[largest].size)
        largest = i;
    free(take_place(c, largest, &other));
  }
  c->kept[place].block = block;
  c->kept[place].size = size;
  c->bytes += size;
}

void blockcache_empty(struct blockcache *c) {
  size_t size;
  for (int i = 0; i < BLOCKCACHE_BLOCKS; i++)
    free(take_place(c, i, &size));
}
