#include "template/thread/thread_slot.h"

#include <pthread.h>
#include <string.h>

enum {
  SLOTS = 4,
  WARM = 64 << 10 /* bytes behind the template's that stay, zeroed */
};

static struct {
  pthread_mutex_t lock;
  struct heap_shape shape; /* of the template, and the front of it, when it was copied */
  size_t front;            /* last; 0: it is large, or none was copied */
  char *base[SLOTS];
  int n;
} slots = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int same_shape(const struct heap_shape *a, const struct heap_shape *b) {
  return a->region == b->region && a->zone == b->zone;
}

static void drop_all(void) {
  while (slots.n > 0)
    heap_copy_drop(slots.base[--slots.n], &slots.shape);
}

char *thread_slot_take(const struct heap *from) {
  struct heap_shape shape;
  size_t front = heap_copy_front(from);
  heap_copy_shape(from, &shape);
  pthread_mutex_lock(&slots.lock);
  if (front > THREAD_SLOT_MAX || front < slots.front || !same_shape(&shape, &slots.shape))
    drop_all();
  slots.shape = shape;
  slots.front = front > THREAD_SLOT_MAX ? 0 : front;
  char *base = slots.n > 0 ? slots.base[--slots.n] : NULL;
  pthread_mutex_unlock(&slots.lock);
  return base;
}

void thread_slot_put(struct heap *h) {
  pthread_mutex_lock(&slots.lock);
  struct heap_shape shape = slots.shape;
  size_t front = slots.n < SLOTS ? slots.front : 0;
  pthread_mutex_unlock(&slots.lock);
  if (front == 0) {
    heap_free(h);
    return;
  }
  char *base = heap_copy_retire(h, &shape, front, WARM);
  if (!base)
    return;
  pthread_mutex_lock(&slots.lock);
  int keeps = slots.n < SLOTS && slots.front >= front && same_shape(&shape, &slots.shape);
  if (keeps)
    slots.base[slots.n++] = base;
  pthread_mutex_unlock(&slots.lock);
  if (!keeps)
    heap_copy_drop(base, &shape);
}

void thread_slot_drop(void) {
  pthread_mutex_lock(&slots.lock);
  drop_all();
  pthread_mutex_unlock(&slots.lock);
}
