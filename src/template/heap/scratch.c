/* See scratch.h. Runs in templates, at a seal; one thread. */
#include "template/heap/scratch.h"

void *scratch_alloc(struct heap *h, size_t n) {
  n = round_up(n, 16);
  if (n > (size_t)(h->scratch_end - h->scratch_top))
    return NULL;
  char *block = h->scratch_top;
  h->scratch_top += n;
  h->scratch_live++;
  return block;
}

void heap_scratch_begin(struct heap *h, size_t size) {
  h->table_grown = 1;
  if (h->scratch)
    return; /* strings of the last time still live there */
  size = round_up(size, h->page);
  char *map = map_new(size);
  if (!map)
    return;
  h->scratch = h->scratch_top = map;
  h->scratch_end = map + size;
  h->scratch_live = 0;
}

int heap_scratch_grown(const struct heap *h) {
  return h->table_grown > 1;
}

void heap_scratch_stop(struct heap *h) {
  h->table_grown = 0;
  h->scratch_top = NULL;
}

void heap_scratch_end(struct heap *h) {
  if (!h->scratch || h->scratch_live)
    return;
  munmap(h->scratch, (size_t)(h->scratch_end - h->scratch));
  h->scratch = h->scratch_end = NULL;
}

void scratch_deinit(struct heap *h) {
  if (h->scratch)
    munmap(h->scratch, (size_t)(h->scratch_end - h->scratch));
}
