/* The larder: what it keeps, what it frees, and how much that may be. */
#include "parent/larder.h"
#include "unit/unit.h"

#include <stdlib.h>

#define KIB ((size_t)1024)
#define MIB (KIB * KIB)

static void give(struct larder *l, size_t size) {
  larder_give(l, malloc(size), size);
}

static size_t kept(const struct larder *l) {
  size_t sum = 0;
  for (int i = 0; i < LARDER_BLOCKS; i++) {
    assert_true(!l->kept[i].block == !l->kept[i].size);
    sum += l->kept[i].size;
  }
  assert_int_equal(sum, l->octets);
  assert_true(sum <= LARDER_OCTETS_MAX);
  return sum;
}

static void test_the_smallest_that_is_enough(void **state) {
  struct larder l = {0};
  size_t size;
  give(&l, 200 * KIB);
  give(&l, MIB);
  give(&l, 100 * KIB);
  void *p = larder_take(&l, 150 * KIB, &size);
  assert_int_equal(size, 200 * KIB);
  assert_int_equal(kept(&l), MIB + 100 * KIB);
  free(p);
  p = larder_take(&l, 2 * MIB, &size);
  assert_int_equal(size, 2 * MIB); /* a fresh one */
  assert_int_equal(kept(&l), MIB + 100 * KIB);
  larder_give(&l, p, size);
  p = larder_take_largest(&l, &size);
  assert_int_equal(size, 2 * MIB);
  free(p);
  larder_empty(&l);
  assert_int_equal(kept(&l), 0);
  assert_null(larder_take_largest(&l, &size));
  assert_int_equal(size, 0);
}

static void test_what_it_does_not_want_is_freed(void **state) {
  struct larder l = {0};
  larder_give(&l, NULL, 0);
  give(&l, LARDER_BLOCK_MIN - 1);
  give(&l, LARDER_BLOCK_MAX + 1);
  assert_int_equal(kept(&l), 0);
  give(&l, LARDER_BLOCK_MAX);
  assert_int_equal(kept(&l), LARDER_BLOCK_MAX);
  larder_empty(&l);
}

static void test_larger_ones_displace_smaller_ones(void **state) {
  struct larder l = {0};
  for (size_t i = 0; i < 4 + LARDER_BLOCKS; i++)
    give(&l, (100 + i) * KIB);
  assert_int_equal(kept(&l), (104 + 105 + 106 + 107) * KIB);
  give(&l, 50 * KIB);
  assert_int_equal(kept(&l), (104 + 105 + 106 + 107) * KIB);
  larder_empty(&l);
}

static void test_octets_have_a_limit(void **state) {
  struct larder l = {0};
  size_t size;
  for (int i = 0; i < 9; i++) {
    give(&l, 3 * MIB);
    kept(&l);
  }
  assert_int_equal(kept(&l), 6 * MIB);
  give(&l, LARDER_BLOCK_MAX);
  assert_true(kept(&l) >= LARDER_BLOCK_MAX);
  void *p = larder_take_largest(&l, &size);
  assert_int_equal(size, LARDER_BLOCK_MAX);
  free(p);
  larder_empty(&l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_smallest_that_is_enough),
      cmocka_unit_test(test_what_it_does_not_want_is_freed),
      cmocka_unit_test(test_larger_ones_displace_smaller_ones),
      cmocka_unit_test(test_octets_have_a_limit),
  };
  return cmocka_run_group_tests_name("larder", tests, NULL, NULL);
}
