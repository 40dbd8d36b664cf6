/* See kept.h. Runs in clones; one thread. */
#include "template/heap/kept.h"

#include "template/heap/zone.h"

#include <string.h>

enum { KEPT_MAX = 8 << 20 }; /* bytes in all */

static void kept_remove(struct heap *h, size_t i) {
  h->kept_bytes -= h->kept[i].size;
  h->nkept--;
  memmove(&h->kept[i], &h->kept[i + 1], (h->nkept - i) * sizeof h->kept[i]);
}

static void kept_drop(struct heap *h, size_t most) { /* until at most so much is kept */
  while (h->nkept > 0 && (h->kept_bytes > most || h->nkept == NKEPT)) {
    zone_unmap(h, h->kept[0].map, h->kept[0].size);
    kept_remove(h, 0);
  }
}

void kept_drop_all(struct heap *h) {
  kept_drop(h, 0);
}

int kept_put(struct heap *h, void *map, size_t size) {
  if (!h->keeps || size >= BIG_HUGE)
    return 0;
  kept_drop(h, KEPT_MAX - size);
  h->kept[h->nkept++] = (struct kept){map, size};
  h->kept_bytes += size;
  return 1;
}

/* The smallest that fits well. */
void *kept_take(struct heap *h, size_t *size, int in_zone) {
  size_t best = h->nkept, most = *size + *size / 4;
  for (size_t i = 0; i < h->nkept; i++)
    if (h->kept[i].size >= *size && h->kept[i].size <= most &&
        zone_holds(h, h->kept[i].map) == in_zone) {
      best = i;
      most = h->kept[i].size - 1;
    }
  if (best == h->nkept)
    return NULL;
  void *map = h->kept[best].map;
  *size = h->kept[best].size;
  kept_remove(h, best);
  return map;
}

void heap_keep(struct heap *h) {
  h->keeps = 1;
}

void *heap_lend(struct heap *h, size_t n, size_t *ret_size) {
  *ret_size = round_up(n, h->page);
  void *map = kept_take(h, ret_size, 0);
  *ret_size = map ? *ret_size : 0;
  return map;
}
