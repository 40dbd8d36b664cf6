/* The blockcache: what it keeps, what it frees, and how much that may be. */
#include "base/blockcache.h"
#include "unit/unit.h"

#include <stdlib.h>

#define KIB ((size_t)1024)
#define MIB (KIB * KIB)

static void give(struct blockcache *l, size_t size) {
  blockcache_give(l, malloc(size), size);
}

static size_t kept(const struct blockcache *l) {
  size_t sum = 0;
  for (int i = 0; i < BLOCKCACHE_BLOCKS; i++) {
    assert_true(!l->kept[i].block == !l->kept[i].size);
    sum += l->kept[i].size;
  }
  assert_int_equal(sum, l->bytes);
  assert_true(sum <= BLOCKCACHE_BYTES_MAX);
  return sum;
}

static void test_the_smallest_that_is_enough(void **state) {
  struct blockcache l = {0};
  size_t size;
  give(&l, 200 * KIB);
  give(&l, MIB);
  give(&l, 100 * KIB);
  void *p = blockcache_take(&l, 150 * KIB, &size);
  assert_int_equal(size, 200 * KIB);
  assert_int_equal(kept(&l), MIB + 100 * KIB);
  free(p);
  p = blockcache_take(&l, 2 * MIB, &size);
  assert_int_equal(size, 2 * MIB); /* a fresh one */
  assert_int_equal(kept(&l), MIB + 100 * KIB);
  blockcache_give(&l, p, size);
  p = blockcache_take_largest(&l, &size);
  assert_int_equal(size, 2 * MIB);
  free(p);
  blockcache_empty(&l);
  assert_int_equal(kept(&l), 0);
  assert_null(blockcache_take_largest(&l, &size));
  assert_int_equal(size, 0);
}

static void test_what_it_does_not_want_is_freed(void **state) {
  struct blockcache l = {0};
  blockcache_give(&l, NULL, 0);
  give(&l, BLOCKCACHE_BLOCK_MIN - 1);
  give(&l, BLOCKCACHE_BLOCK_MAX + 1);
  assert_int_equal(kept(&l), 0);
  give(&l, BLOCKCACHE_BLOCK_MAX);
  assert_int_equal(kept(&l), BLOCKCACHE_BLOCK_MAX);
  blockcache_empty(&l);
}

static void test_larger_ones_displace_smaller_ones(void **state) {
  struct blockcache l = {0};
  for (size_t i = 0; i < 4 + BLOCKCACHE_BLOCKS; i++)
    give(&l, (100 + i) * KIB);
  assert_int_equal(kept(&l), (104 + 105 + 106 + 107) * KIB);
  give(&l, 50 * KIB);
  assert_int_equal(kept(&l), (104 + 105 + 106 + 107) * KIB);
  blockcache_empty(&l);
}

static void test_kept_bytes_have_a_limit(void **state) {
  struct blockcache l = {0};
  size_t size;
  for (int i = 0; i < 9; i++) {
    give(&l, 3 * MIB);
    kept(&l);
  }
  assert_int_equal(kept(&l), 6 * MIB);
  give(&l, BLOCKCACHE_BLOCK_MAX);
  assert_true(kept(&l) >= BLOCKCACHE_BLOCK_MAX);
  void *p = blockcache_take_largest(&l, &size);
  assert_int_equal(size, BLOCKCACHE_BLOCK_MAX);
  free(p);
  blockcache_empty(&l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_smallest_that_is_enough),
      cmocka_unit_test(test_what_it_does_not_want_is_freed),
      cmocka_unit_test(test_larger_ones_displace_smaller_ones),
      cmocka_unit_test(test_kept_bytes_have_a_limit),
  };
  return cmocka_run_group_tests_name("blockcache", tests, NULL, NULL);
}
