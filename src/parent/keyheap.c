/* A binary heap: the children of place i are at 2i and 2i + 1. */
#include "parent/keyheap.h"

#include <errno.h>
#include <stdlib.h>

void keyheap_init(struct keyheap *h) {
  h->at = NULL;
  h->n = h->cap = 0;
}

void keyheap_deinit(struct keyheap *h) {
  for (size_t i = 1; i <= h->n; i++)
    h->at[i]->place = 0;
  free(h->at);
  keyheap_init(h);
}

static void put(struct keyheap *h, size_t place, struct keyheap_node *node) {
  h->at[place] = node;
  node->place = place;
}

static void rise(struct keyheap *h, struct keyheap_node *node) {
  size_t i = node->place;
  for (; i > 1 && h->at[i / 2]->key > node->key; i /= 2)
    put(h, i, h->at[i / 2]);
  put(h, i, node);
}

static void sink(struct keyheap *h, struct keyheap_node *node) {
  size_t i = node->place, child;
  for (; (child = 2 * i) <= h->n; i = child) {
    if (child < h->n && h->at[child + 1]->key < h->at[child]->key)
      child++;
    if (h->at[child]->key >= node->key)
      break;
    put(h, i, h->at[child]);
  }
  put(h, i, node);
}

int keyheap_reserve(struct keyheap *h, size_t n) {
  size_t cap = h->cap ? h->cap : 16;
  while (cap < n)
    cap *= 2;
  if (cap == h->cap)
    return 0;
  struct keyheap_node **at = realloc(h->at, (cap + 1) * sizeof(struct keyheap_node *));
  if (!at)
    return -ENOMEM;
  h->at = at;
  h->cap = cap;
  return 0;
}

int keyheap_set(struct keyheap *h, struct keyheap_node *node, uint64_t key) {
  if (!node->place) {
    if (keyheap_reserve(h, h->n + 1) < 0)
      return -ENOMEM;
    put(h, ++h->n, node);
  }
  node->key = key;
  rise(h, node);
  sink(h, node);
  return 0;
}

void keyheap_remove(struct keyheap *h, struct keyheap_node *node) {
  struct keyheap_node *last;
  size_t place = node->place;
  if (!place)
    return;
  node->place = 0;
  last = h->at[h->n--];
  if (last == node)
    return;
  put(h, place, last);
  rise(h, last);
  sink(h, last);
}

struct keyheap_node *keyheap_first(const struct keyheap *h) {
  return h->n ? h->at[1] : NULL;
}
