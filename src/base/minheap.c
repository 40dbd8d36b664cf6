/* A pairing heap. Each node's children are a list, in no order; none is less than its
 * parent:
 *
 *   head -child-> least -child-> c1 <-> c2 <-> c3      (next; prev of c1 is the parent)
 *                                 |
 *                               child -> ...
 *
 * Loops instead of recursion: a list of children may be as long as the heap, and so may a
 * chain of only children. */
#include "base/minheap.h"

#include <stddef.h>

void minheap_init(struct minheap *h) {
  h->head = (struct minheap_node){0};
}

void minheap_node_init(struct minheap_node *node) {
  *node = (struct minheap_node){0};
}

static void add_child(struct minheap_node *parent, struct minheap_node *node) {
  node->prev = parent;
  node->next = parent->child;
  if (node->next)
    node->next->prev = node;
  parent->child = node;
}

/* Two heaps become one. Gives the lesser; its prev and next are the caller's to set. */
static struct minheap_node *merge(struct minheap_node *a, struct minheap_node *b) {
  if (b->key < a->key) {
    struct minheap_node *greater = a;
    a = b;
    b = greater;
  }
  add_child(a, b);
  return a;
}

/* Children of nobody become one heap: merged by twos from the left, then all of these
 * from the right, which is what keeps later removals cheap. NULL: there is none. */
static struct minheap_node *merge_all(struct minheap_node *list) {
  struct minheap_node *pairs = NULL, *all = NULL; /* pairs: the last one first, by next */
  while (list) {
    struct minheap_node *a = list, *b = a->next;
    list = b ? b->next : NULL;
    if (b)
      a = merge(a, b);
    a->next = pairs;
    pairs = a;
  }
  while (pairs) {
    struct minheap_node *pair = pairs;
    pairs = pair->next;
    all = all ? merge(pair, all) : pair;
  }
  return all;
}

/* The node's children take its place: none is less than what is above it. */
void minheap_remove(struct minheap_node *node) {
  if (!node->prev)
    return;
  struct minheap_node *child = merge_all(node->child), *next = node->next;
  if (child) {
    child->prev = node->prev;
    child->next = next;
  }
  if (node->prev->child == node)
    node->prev->child = child ? child : next;
  else
    node->prev->next = child ? child : next;
  if (next)
    next->prev = child ? child : node->prev;
  node->prev = node->next = node->child = NULL;
}

void minheap_set(struct minheap *h, struct minheap_node *node, uint64_t key) {
  minheap_remove(node);
  node->key = key;
  struct minheap_node *first = h->head.child;
  h->head.child = NULL;
  add_child(&h->head, first ? merge(first, node) : node);
}
