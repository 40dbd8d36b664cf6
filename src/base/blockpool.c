#include "base/blockpool.h"

#include <assert.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__)
enum { KEPT_MAX = 0 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
enum { KEPT_MAX = 0 };
#else
enum { KEPT_MAX = BLOCKPOOL_MAX };
#endif
#else
enum { KEPT_MAX = BLOCKPOOL_MAX };
#endif

static void *pop(struct blockpool *p) {
  void *block = p->last;
  p->last = *(void **)block;
  p->nkept--;
  return block;
}

void *blockpool_take(struct blockpool *p, size_t size) {
  assert(size >= sizeof(void *));
  return p->last ? pop(p) : malloc(size);
}

void blockpool_give(struct blockpool *p, void *block) {
  if (!block)
    return;
  if (p->nkept >= KEPT_MAX) {
    free(block);
    return;
  }
  *(void **)block = p->last;
  p->last = block;
  p->nkept++;
}

void blockpool_empty(struct blockpool *p) {
  while (p->last)
    free(pop(p));
}
