#include "template/thread/thread_picture.h"

#include "template/lua/thread_end.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* A signal that comes to a clone meanwhile must not touch its memory: what is not there
 * yet is put in place with this lock. */
void picture_lock(void) {
  thread_end_hold();
  pthread_mutex_lock(&lock);
}

void picture_unlock(void) {
  pthread_mutex_unlock(&lock);
  thread_end_let();
}

static int add_part(void *data, char *at, size_t size) {
  struct picture *p = data;
  struct picture_part *more = realloc(p->parts, (p->nparts + 1) * sizeof *more);
  if (!more)
    return -ENOMEM;
  p->parts = more;
  p->parts[p->nparts++] =
      (struct picture_part){.size = size, .first = p->nchunks, .memory = at};
  p->nchunks += picture_chunks(size);
  p->size += size;
  return 0;
}

static void free_picture(struct picture *p) {
  if (p->copy)
    munmap(p->copy, (size_t)p->size);
  if (p->owns_bits)
    free((void *)(uintptr_t)p->bits);
  free(p->parts);
  free(p);
}

void picture_release(struct picture *p) {
  if (--p->refs == 0)
    free_picture(p);
}

struct picture *picture_new(const struct heap *from, const uint64_t *bits) {
  struct picture *p = calloc(1, sizeof *p);
  if (!p)
    return NULL;
  p->refs = 1;
  p->bits = bits;
  if (heap_copy_parts(from, add_part, p) < 0) {
    free_picture(p);
    return NULL;
  }
  for (size_t i = 0; i < p->nparts; i++)
    p->parts[i].at = (uint64_t)(p->parts[i].memory - (const char *)from);
  return p;
}

static int is_used(const struct picture *p) {
  picture_lock();
  int used = p->refs > 1;
  picture_unlock();
  return used;
}

/* Clones are served from the old place meanwhile; nobody writes there. */
int picture_end(struct picture *p) {
  if (!is_used(p)) {
    free_picture(p);
    return 0;
  }
  char *copy = mmap(NULL, (size_t)p->size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED)
    return -ENOMEM;
  char *at = copy;
  for (size_t i = 0; i < p->nparts; at += p->parts[i++].size)
    memcpy(at, p->parts[i].memory, (size_t)p->parts[i].size);
  picture_lock();
  at = p->copy = copy;
  for (size_t i = 0; i < p->nparts; at += p->parts[i++].size)
    p->parts[i].memory = at;
  p->owns_bits = 1;
  picture_release(p);
  picture_unlock();
  return 1;
}

int picture_ranges(const struct picture *p, int (*f)(void *data, struct heap_range range),
                   void *data) {
  int r = 0;
  for (size_t i = 0, end; i < p->nparts && r == 0; i = end) {
    struct heap_range range = {p->parts[i].at, 0};
    for (end = i; end < p->nparts && p->parts[end].at == range.at + range.size; end++)
      range.size += p->parts[end].size;
    r = f(data, range);
  }
  return r;
}

const struct picture_part *picture_part_at(const struct picture *p, uint64_t at) {
  size_t low = 0, high = p->nparts;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (p->parts[middle].at <= at)
      low = middle + 1;
    else
      high = middle;
  }
  const struct picture_part *part = low ? &p->parts[low - 1] : NULL;
  return part && at - part->at < part->size ? part : NULL;
}

const struct picture_part *picture_part_of(const struct picture *p, size_t chunk) {
  size_t low = 0, high = p->nparts;
  while (low + 1 < high) {
    size_t middle = low + (high - low) / 2;
    if (p->parts[middle].first <= chunk)
      low = middle;
    else
      high = middle;
  }
  return &p->parts[low];
}
