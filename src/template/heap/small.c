/* See small.h. Runs in templates and clones; one thread. */
#include "template/heap/small.h"

#include "template/heap/free_list.h"
#include "template/heap/region.h"
#include "template/heap/span.h"

#include <lua.h>

/* ---- the hot part ---- */

void heap_set_hot(struct heap *h, enum heap_hot what) {
  h->hot = what;
  if (h->hot_end || what == HEAP_HOT_NONE)
    return;
  h->hot_end = h->first; /* the rest of the head */
  h->hot_top = align_up(h->base + sizeof *h, 64) + HEAP_STATE;
}

static void *hot_cut(struct heap *h, size_t n) {
  size_t pad = size_class_pad(h->hot_top, n);
  if (pad + n > (size_t)(h->hot_end - h->hot_top))
    return NULL;
  char *block = h->hot_top + pad;
  h->hot_top = block + n;
  return block;
}

static int is_hot(const struct heap *h, size_t tag) {
  return h->hot == HEAP_HOT_ALL || (h->hot == HEAP_HOT_USERDATA && tag == LUA_TUSERDATA);
}

/* ---- blocks ---- */

static void *small_cut(struct heap *h, size_t n) {
  if (n + size_class_pad(h->top, n) > (size_t)(h->soft_end - h->top) &&
      region_room(h, n + 16) < 0)
    return NULL;
  char *pad = h->top, *block = pad + size_class_pad(pad, n);
  h->top = block + n;
  if (block > pad)
    free_list_put(h, size_class_of((size_t)(block - pad)), pad);
  return block;
}

void *small_alloc(struct heap *h, size_t tag, size_t n) {
  unsigned c = size_class_of(n);
  struct free_block *b = is_hot(h, tag) ? hot_cut(h, size_class_bytes(c)) : NULL;
  if (b) {
    /* it is a clone's first write, or a page less for each */
  } else if (h->list[c]) {
    b = free_list_take(h, &h->list[c]);
  } else if (h->reuse && h->stash[c]) {
    b = free_list_take(h, &h->stash[c]);
    h->stash_bytes -= size_class_bytes(c);
  } else {
    if (h->clone)
      b = hot_cut(h, size_class_bytes(c));
    if (!b && h->spans && h->clone)
      b = span_cut(h, size_class_bytes(c));
    if (!b)
      b = small_cut(h, size_class_bytes(c));
    if (!b)
      b = span_last_resort(h, size_class_bytes(c));
    if (!b)
      return NULL;
  }
  h->live += n;
  if (!region_is_sealed(h, b))
    h->own += n;
  return b;
}

void small_free(struct heap *h, void *block, size_t n) {
  h->live -= n;
  h->freed += n;
  unsigned c = size_class_of(n);
  if (!region_is_sealed(h, block)) {
    h->own -= size_min(n, h->own);
    free_list_put(h, c, block);
  } else if (!h->clone) {
    /* The template's collector has just been here, so this dirties nothing new. */
    struct free_block *b = block;
    b->next = h->stash[c];
    h->stash[c] = heap_at_of(h, b);
    h->stash_bytes += size_class_bytes(c);
  }
}

void small_stash_all(struct heap *h) {
  for (unsigned c = 0; c < NCLASS; c++) {
    if (!h->list[c])
      continue;
    struct free_block *last = free_at(h, h->list[c]);
    h->stash_bytes += size_class_bytes(c);
    for (; last->next; last = free_at(h, last->next))
      h->stash_bytes += size_class_bytes(c);
    last->next = h->stash[c];
    h->stash[c] = h->list[c];
    h->list[c] = 0;
  }
}
