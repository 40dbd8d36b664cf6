/* The blockpool: what was given back last comes first, and only a few are kept. */
#include "base/blockpool.h"
#include "unit/unit.h"

#include <stdlib.h>
#include <string.h>

enum { SIZE = 1400 };

static void test_a_block_comes_again(void **state) {
  struct blockpool p = {0};
  void *a = blockpool_take(&p, SIZE), *b = blockpool_take(&p, SIZE);
  assert_non_null(a);
  assert_non_null(b);
  assert_ptr_not_equal(a, b);
  memset(a, 1, SIZE);
  memset(b, 2, SIZE);
  blockpool_give(&p, a);
  blockpool_give(&p, b);
  if (p.nkept > 0) { /* not under AddressSanitizer */
    assert_ptr_equal(blockpool_take(&p, SIZE), b);
    assert_ptr_equal(blockpool_take(&p, SIZE), a);
    free(a);
    free(b);
  }
  blockpool_empty(&p);
}

static void test_few_are_kept(void **state) {
  struct blockpool p = {0};
  for (int i = 0; i < 3 * BLOCKPOOL_MAX; i++)
    blockpool_give(&p, malloc(SIZE));
  assert_true(p.nkept <= BLOCKPOOL_MAX);
  blockpool_give(&p, NULL);
  assert_true(p.nkept <= BLOCKPOOL_MAX);
  blockpool_empty(&p);
  assert_int_equal(p.nkept, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_block_comes_again),
      cmocka_unit_test(test_few_are_kept),
  };
  return cmocka_run_group_tests_name("blockpool", tests, NULL, NULL);
}
