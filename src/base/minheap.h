/* A heap of nodes by key, the least first: deadlines, workers by load. Nodes are embedded
 * in their owners and link to each other, so nothing is allocated and nothing can fail.
 * Nodes with equal keys come in any order. Pure.
 *
 * set and the removal of a node that is not the first cost a few steps, which is what
 * most timeouts do; removing the first costs some dozens, however many were set before. */
#ifndef BASE_MINHEAP_H
#define BASE_MINHEAP_H

#include <stddef.h>
#include <stdint.h>

#define minheap_entry(node, type, member)                                                \
  ((type *)(void *)((char *)(node)-offsetof(type, member)))

struct minheap_node {
  uint64_t key;
  struct minheap_node *prev; /* sibling before it, or parent; NULL: in no heap */
  struct minheap_node *next, *child;
  unsigned rank;
};

struct minheap {
  struct minheap_node head; /* its child is the least */
};

void minheap_init(struct minheap *h);
/* In no heap. Once, before anything else is done with the node. */
void minheap_node_init(struct minheap_node *node);
/* Puts the node in with that key, or moves it there. It may be in this heap or in none.
 */
void minheap_set(struct minheap *h, struct minheap_node *node, uint64_t key);
/* From whichever heap it is in. Its key stays. Twice is harmless. */
void minheap_remove(struct minheap_node *node);

static inline int minheap_holds(const struct minheap_node *node) { /* is it in a heap? */
  return node->prev != NULL;
}

/* The least, or NULL. */
static inline struct minheap_node *minheap_first(const struct minheap *h) {
  return h->head.child;
}

#endif
