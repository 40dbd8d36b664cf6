/* A heap of nodes by key, the least first: deadlines, workers by load. Nodes are embedded
 * in their owners; the heap holds pointers. Pure. Runs in the parent. */
#ifndef PARENT_KEYHEAP_H
#define PARENT_KEYHEAP_H

#include <stddef.h>
#include <stdint.h>

struct keyheap_node {
  uint64_t key;
  size_t place; /* 1 and up; 0: in no heap */
};

struct keyheap {
  struct keyheap_node **at; /* at[0] is not used */
  size_t n, cap;
};

void keyheap_init(struct keyheap *h);
void keyheap_deinit(struct keyheap *h);
/* Room for n nodes in all, so that keyheap_set can't fail for them. 0 or -ENOMEM. */
int keyheap_reserve(struct keyheap *h, size_t n);
/* Puts the node in with that key, or moves it there. 0 or -ENOMEM (only when it was not
 * in). */
int keyheap_set(struct keyheap *h, struct keyheap_node *node, uint64_t key);
void keyheap_remove(struct keyheap *h, struct keyheap_node *node); /* twice is harmless */
/* The least, or NULL. */
struct keyheap_node *keyheap_first(const struct keyheap *h);

#endif
