/* A heap of keys beside a plain list that does the same the slow way. */
#include "parent/keyheap.h"
#include "unit.h"

#include <stdlib.h>

enum { NODES = 200, STEPS = 20000 };

struct model {
  struct keyheap heap;
  struct keyheap_node node[NODES];
  int in[NODES];
  uint32_t rng;
};

static uint32_t rnd(struct model *m, uint32_t n) {
  m->rng ^= m->rng << 13;
  m->rng ^= m->rng >> 17;
  m->rng ^= m->rng << 5;
  return m->rng % n;
}

/* The least key is first, and every node knows its place. */
static void check(struct model *m) {
  uint64_t least = UINT64_MAX;
  size_t n = 0;
  for (int i = 0; i < NODES; i++) {
    assert_int_equal(m->node[i].place != 0, m->in[i]);
    if (!m->in[i])
      continue;
    n++;
    assert_ptr_equal(m->heap.at[m->node[i].place], &m->node[i]);
    if (m->node[i].key < least)
      least = m->node[i].key;
  }
  assert_int_equal(m->heap.n, n);
  assert_int_equal(keyheap_first(&m->heap) != NULL, n > 0);
  if (n)
    assert_int_equal(keyheap_first(&m->heap)->key, least);
  for (size_t i = 2; i <= m->heap.n; i++)
    assert_true(m->heap.at[i / 2]->key <= m->heap.at[i]->key);
}

static void test_any_order_of_setting_moving_and_removing(void **state) {
  (void)state;
  for (uint32_t seed = 1; seed <= 5; seed++) {
    struct model *m = calloc(1, sizeof *m);
    m->rng = seed * 2654435761u;
    keyheap_init(&m->heap);
    for (int step = 0; step < STEPS; step++) {
      int i = (int)rnd(m, NODES);
      if (rnd(m, 3)) {
        assert_int_equal(keyheap_set(&m->heap, &m->node[i], rnd(m, 1000)), 0);
        m->in[i] = 1;
      } else {
        keyheap_remove(&m->heap, &m->node[i]); /* also one that is not in it */
        m->in[i] = 0;
      }
      if (step % 7 == 0 || step < 100)
        check(m);
    }
    keyheap_deinit(&m->heap);
    for (int i = 0; i < NODES; i++)
      assert_int_equal(m->node[i].place, 0);
    free(m);
  }
}

static void test_the_first_again_and_again_is_in_order(void **state) {
  struct keyheap h;
  struct keyheap_node node[50] = {0};
  uint64_t last = 0;
  (void)state;
  keyheap_init(&h);
  assert_null(keyheap_first(&h));
  for (int i = 0; i < 50; i++)
    keyheap_set(&h, &node[i], (uint64_t)(i * 37 % 50));
  while (keyheap_first(&h)) {
    struct keyheap_node *first = keyheap_first(&h);
    assert_true(first->key >= last);
    last = first->key;
    keyheap_remove(&h, first);
  }
  assert_int_equal(last, 49);
  keyheap_deinit(&h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_any_order_of_setting_moving_and_removing),
      cmocka_unit_test(test_the_first_again_and_again_is_in_order),
  };
  return cmocka_run_group_tests_name("keyheap", tests, NULL, NULL);
}
