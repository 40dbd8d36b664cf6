/* struct minheap: the order, against a plain array that is searched; shapes that
 * recursion would not survive. */
#include "unit/unit.h"

#include "base/minheap.h"

#include <stdlib.h>

struct item {
  char before;
  struct minheap_node node;
};

static struct minheap heap_new_empty(void) {
  struct minheap h;
  minheap_init(&h);
  return h;
}

static uint64_t pop(struct minheap *h) {
  struct minheap_node *first = minheap_first(h);
  assert_non_null(first);
  minheap_remove(first);
  assert_false(minheap_holds(first));
  return first->key;
}

static void test_minheap_gives_the_least_first(void **state) {
  static const uint64_t keys[] = {5, 3, UINT64_MAX, 0, 3, 9, 1};
  static const uint64_t sorted[] = {0, 1, 3, 3, 5, 9, UINT64_MAX};
  struct minheap h = heap_new_empty();
  struct item items[COUNT(keys)];
  assert_null(minheap_first(&h));
  for (size_t i = 0; i < COUNT(keys); i++) {
    minheap_node_init(&items[i].node);
    assert_false(minheap_holds(&items[i].node));
    minheap_set(&h, &items[i].node, keys[i]);
    assert_true(minheap_holds(&items[i].node));
  }
  assert_ptr_equal(minheap_entry(minheap_first(&h), struct item, node), &items[3]);
  for (size_t i = 0; i < COUNT(sorted); i++)
    assert_true(pop(&h) == sorted[i]);
  assert_null(minheap_first(&h));
}

static void test_minheap_moves_a_node_that_is_in(void **state) {
  struct minheap h = heap_new_empty();
  struct minheap_node a, b;
  minheap_node_init(&a);
  minheap_node_init(&b);
  minheap_set(&h, &a, 1);
  minheap_set(&h, &b, 2);
  minheap_set(&h, &a, 3);
  assert_ptr_equal(minheap_first(&h), &b);
  minheap_set(&h, &a, 0);
  assert_ptr_equal(minheap_first(&h), &a);
  minheap_set(&h, &a, 0);
  assert_ptr_equal(minheap_first(&h), &a);
}

static void test_minheap_remove_twice_is_harmless(void **state) {
  struct minheap h = heap_new_empty();
  struct minheap_node a, b;
  minheap_node_init(&a);
  minheap_node_init(&b);
  minheap_remove(&a);
  minheap_set(&h, &a, 1);
  minheap_set(&h, &b, 2);
  minheap_remove(&a);
  minheap_remove(&a);
  assert_ptr_equal(minheap_first(&h), &b);
}

static void test_minheap_moves_a_node_between_heaps(void **state) {
  struct minheap h = heap_new_empty(), due = heap_new_empty();
  struct minheap_node nodes[5];
  for (size_t i = 0; i < COUNT(nodes); i++) {
    minheap_node_init(&nodes[i]);
    minheap_set(&h, &nodes[i], i);
  }
  minheap_set(&due, &nodes[0], 7);
  minheap_set(&due, &nodes[3], 6);
  minheap_remove(&nodes[1]);
  minheap_remove(&nodes[0]);
  assert_true(nodes[0].key == 7);
  assert_true(pop(&due) == 6);
  assert_null(minheap_first(&due));
  assert_true(pop(&h) == 2);
  assert_true(pop(&h) == 4);
  assert_null(minheap_first(&h));
}

/* What a model holds that looks at every node. */
static const struct minheap_node *least(const struct minheap_node *nodes, size_t n) {
  const struct minheap_node *best = NULL;
  for (size_t i = 0; i < n; i++)
    if (minheap_holds(&nodes[i]) && (!best || nodes[i].key < best->key))
      best = &nodes[i];
  return best;
}

/* Every node is reached once, by links that agree, and none is less than its parent. */
static size_t count_and_check(const struct minheap_node *parent, int is_head) {
  size_t n = 0;
  const struct minheap_node *prev = parent;
  for (const struct minheap_node *c = parent->child; c; prev = c, c = c->next) {
    assert_ptr_equal(c->prev, prev);
    assert_true(is_head || c->key >= parent->key);
    n += 1 + count_and_check(c, 0);
  }
  return n;
}

static void test_minheap_does_as_a_model_does(void **state) {
  enum { N = 40, STEPS = 20000 };
  struct minheap h = heap_new_empty();
  struct minheap_node nodes[N];
  uint64_t seed = 1;
  size_t in = 0;
  for (size_t i = 0; i < N; i++)
    minheap_node_init(&nodes[i]);
  for (int step = 0; step < STEPS; step++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    struct minheap_node *node = &nodes[(seed >> 33) % N];
    uint64_t key = (seed >> 43) % 50;
    in -= minheap_holds(node);
    switch ((seed >> 60) & 3) {
    case 0:
      minheap_remove(node);
      break;
    case 1:
      in += minheap_holds(node);
      if (minheap_first(&h)) {
        pop(&h);
        in--;
      }
      break;
    default:
      minheap_set(&h, node, key);
      in++;
    }
    const struct minheap_node *best = least(nodes, N), *first = minheap_first(&h);
    assert_true(!best == !first);
    assert_true(!best || best->key == first->key);
    assert_true(!first || (first->prev == &h.head && !first->next));
    assert_int_equal(count_and_check(&h.head, 1), in);
  }
}

/* How many children the node has. */
static size_t degree(const struct minheap_node *node) {
  size_t n = 0;
  for (const struct minheap_node *c = node->child; c; c = c->next)
    n++;
  return n;
}

/* The first removal from 100,000 that were set in the order of their times took 3 ms: all
 * of them were children of the least. */
static void test_minheap_no_node_has_many_children(void **state) {
  enum { N = 100000, MOST = 256 };
  struct minheap_node *nodes = calloc(N, sizeof *nodes);
  uint64_t seed = 1;
  assert_non_null(nodes);
  for (int order = 0; order < 6; order++) {
    struct minheap h = heap_new_empty();
    for (size_t i = 0; i < N; i++) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      uint64_t in_order[] = {i, N - i, 7, seed >> 40, i % 2 ? 2 * N - i : i, i % 300};
      minheap_set(&h, &nodes[i], in_order[order]);
    }
    assert_in_range(degree(minheap_first(&h)), 0, MOST);
    for (size_t i = 0; i < 3 * N; i++) { /* removed, due, moved, and set as the least */
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      struct minheap_node *node = &nodes[(seed >> 33) % N];
      uint64_t first = minheap_first(&h)->key;
      assert_in_range(degree(minheap_first(&h)), 0, MOST);
      assert_in_range(degree(node), 0, MOST);
      if (i % 3 == 0)
        minheap_remove(minheap_first(&h));
      else if (i % 3 == 1)
        minheap_remove(node);
      minheap_set(&h, node, i % 5 ? N + i : first);
    }
    while (minheap_first(&h)) {
      assert_in_range(degree(minheap_first(&h)), 0, MOST);
      pop(&h);
    }
  }
  free(nodes);
}

/* A heap as wide as can be, and a chain as deep. */
static void test_minheap_takes_a_million_in_any_order(void **state) {
  enum { N = 1000000 };
  struct minheap_node *nodes = calloc(N, sizeof *nodes);
  assert_non_null(nodes);
  for (int descending = 0; descending < 2; descending++) {
    struct minheap h = heap_new_empty();
    for (size_t i = 0; i < N; i++)
      minheap_set(&h, &nodes[i], descending ? N - i : i + 1);
    for (size_t i = 0; i < N; i++)
      assert_true(pop(&h) == i + 1);
    assert_null(minheap_first(&h));
  }
  free(nodes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_minheap_gives_the_least_first),
      cmocka_unit_test(test_minheap_moves_a_node_that_is_in),
      cmocka_unit_test(test_minheap_moves_a_node_between_heaps),
      cmocka_unit_test(test_minheap_remove_twice_is_harmless),
      cmocka_unit_test(test_minheap_does_as_a_model_does),
      cmocka_unit_test(test_minheap_no_node_has_many_children),
      cmocka_unit_test(test_minheap_takes_a_million_in_any_order),
  };
  return cmocka_run_group_tests_name("minheap", tests, NULL, NULL);
}
