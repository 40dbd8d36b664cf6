/* The heap plays random programs against a model that knows what each block holds. */
#include "unit.h"

#include "heap_kit.h"
#include "template/heap/heap.h"
#include <stdlib.h>
#include <string.h>

/* --- random programs against a model --------------------------------------------------
 */

enum { MODEL_BLOCKS = 600 };

struct model {
  struct heap *h;
  uint64_t random;
  struct {
    unsigned char *p;
    size_t n;
    unsigned char fill;
  } blocks[MODEL_BLOCKS];
  int depth, may_fail; /* in a small region: refused is fine, and changes nothing */
};

static uint64_t model_random(struct model *m) {
  m->random ^= m->random << 13;
  m->random ^= m->random >> 7;
  m->random ^= m->random << 17;
  return m->random;
}

static size_t model_size(struct model *m) {
  uint64_t r = model_random(m);
  switch (r % 16) {
  case 0:
    return HEAP_BIG - 2000 + (r >> 8) % 4000;
  case 1:
    return (r >> 8) % (r % 8 ? 400000 : 2 * MIB) + 1;
  case 2:
  case 3:
    return (r >> 8) % 20000 + 1;
  case 4:
    return (size_t)1 << ((r >> 8) % 18);
  default:
    return (r >> 8) % 300 + 1;
  }
}

static int model_holds(const struct model *m, int i, size_t n) {
  const unsigned char *p = m->blocks[i].p;
  for (size_t k = 0; k < n; k += n < 4096 ? 1 : 509)
    if (p[k] != m->blocks[i].fill)
      return 0;
  return n == 0 || p[n - 1] == m->blocks[i].fill;
}

static int model_resize(struct model *m, int i, size_t n) {
  size_t old = m->blocks[i].n;
  if (!model_holds(m, i, old))
    return 0;
  unsigned char *p = heap_alloc(m->h, m->blocks[i].p, old, n);
  if (n && !p)
    return m->may_fail && n > old && model_holds(m, i, old);
  m->blocks[i].p = p;
  m->blocks[i].n = n;
  if (!model_holds(m, i, old < n ? old : n))
    return 0;
  m->blocks[i].fill = (unsigned char)(model_random(m) | 1);
  if (n)
    memset(p, m->blocks[i].fill, n);
  return 1;
}

static int model_live(const struct model *m) {
  uint64_t live = 0;
  for (int i = 0; i < MODEL_BLOCKS; i++)
    live += m->blocks[i].n;
  struct heap_stats stats = stats_of(m->h);
  return stats.live == live && stats.own <= live;
}

static int model_play(struct model *m, int steps);

static int model_child(struct heap *h, void *data) {
  struct model *m = data;
  heap_forked(h);
  m->depth++;
  m->random += 77;
  return model_play(m, 3000);
}

static int model_fork(struct model *m) {
  if (m->depth >= 3)
    return 1;
  if (model_random(m) % 2) {
    heap_seal(m->h);
    if (model_random(m) % 2)
      heap_freeze(m->h);
  }
  return in_child(model_child, m->h, m);
}

static int model_play(struct model *m, int steps) {
  for (int step = 0; step < steps; step++) {
    uint64_t r = model_random(m);
    int i = (int)(r % MODEL_BLOCKS), fine = 1;
    if ((r >> 32) % 4000 == 0)
      fine = model_fork(m);
    else if ((r >> 32) % 1000 == 1)
      heap_seal(m->h);
    else if ((r >> 32) % 2000 == 2) {
      heap_seal(m->h);
      heap_freeze(m->h);
    } else if ((r >> 32) % 4000 == 3)
      heap_thaw(m->h);
    else if ((r >> 32) % 1000 == 4)
      heap_set_hot(m->h, (enum heap_hot)((r >> 20) % 3));
    else
      fine = model_resize(m, i, m->blocks[i].n && (r >> 20) % 3 == 0 ? 0 : model_size(m));
    if (!fine || (step % 256 == 0 && !model_live(m)))
      return 0;
  }
  for (int i = 0; i < MODEL_BLOCKS; i++)
    if (!model_holds(m, i, m->blocks[i].n))
      return 0;
  return model_live(m);
}

static void test_heap_agrees_with_a_model(void **state) {
  const char *seed = getenv("MOONFORK_TEST_SEED"), *steps = getenv("MOONFORK_TEST_STEPS");
  for (uint64_t round = 0; round < 4; round++) {
    struct model *m = calloc(1, sizeof *m);
    m->random = (seed ? strtoull(seed, NULL, 0) : 0x9e3779b97f4a7c15u) + round * 1000003;
    m->h = round % 2 ? heap_new(32 * MIB) : heap_make(state);
    m->may_fail = round % 2;
    uint64_t start = m->random;
    if (!model_play(m, steps ? atoi(steps) : 20000))
      fail_msg("seed %llu", (unsigned long long)start);
    heap_free(m->h);
    free(m);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_heap_agrees_with_a_model),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
