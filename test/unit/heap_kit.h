/* What tests of the heap ask of it and of their process. */
#ifndef HEAP_KIT_H
#define HEAP_KIT_H

#include "sanitized.h"
#include "template/heap/heap.h"
#include "unit.h"
#include <string.h>

#define MIB ((size_t)1 << 20)

struct heap *heap_make(void **state);
struct heap_stats stats_of(const struct heap *h);

/* Bytes that this process has for itself; 0 where there is no /proc. */
size_t private_bytes(void);

/* Runs f in a forked process and says whether it came back true. */
int in_child(int (*f)(struct heap *h, void *data), struct heap *h, void *data);

#endif
