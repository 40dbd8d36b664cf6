/* The histogram of times: what it keeps, what it forgets, how right it is. */
#include "parent/pool/latency.h"
#include "unit.h"

#include <stdlib.h>

static struct latency l;

static int prepare(void **state) {
  memset(&l, 0, sizeof l);
  return 0;
}

static void test_nothing_is_zero(void **state) {
  assert_int_equal(latency_at(&l, 50), 0);
  assert_int_equal(latency_at(&l, 100), 0);
}

static void test_short_times_are_exact(void **state) {
  for (uint64_t us = 0; us < 64; us++) {
    memset(&l, 0, sizeof l);
    latency_add(&l, us);
    latency_add(&l, 1000);
    assert_int_equal(latency_at(&l, 50), us);
  }
}

/* Every power of two and its neighbours: never too short, 1/32 too long at most. */
static void test_long_times_are_right_to_a_32nd(void **state) {
  for (unsigned bit = 1; bit < LATENCY_BITS_MAX; bit++)
    for (int d = -1; d <= 1; d++) {
      uint64_t us = (UINT64_C(1) << bit) + (uint64_t)d, told;
      memset(&l, 0, sizeof l);
      latency_add(&l, us);
      latency_add(&l, us * 2); /* so that the longest does not help */
      told = latency_at(&l, 50);
      assert_true(told >= us && told - us <= us / 32);
    }
}

static void test_percentiles_are_in_order_and_below_the_longest(void **state) {
  for (unsigned i = 1; i <= 1000; i++)
    latency_add(&l, i * 100);
  assert_in_range(latency_at(&l, 50), 50000, 50000 + 50000 / 32);
  assert_in_range(latency_at(&l, 90), 90000, 90000 + 90000 / 32);
  assert_in_range(latency_at(&l, 99), 99000, 100000);
  assert_int_equal(latency_at(&l, 100), 100000);
}

static void test_one_call_is_all_of_them(void **state) {
  latency_add(&l, 12345);
  for (unsigned percent = 1; percent <= 100; percent++)
    assert_int_equal(latency_at(&l, percent), 12345);
}

/* A slow one is forgotten after 8,192 others, and not before 4,096. */
static void test_it_forgets_what_is_long_ago(void **state) {
  latency_add(&l, 1000000);
  for (int i = 0; i < LATENCY_WINDOW; i++)
    latency_add(&l, 10);
  assert_int_equal(latency_at(&l, 100), 1000000);
  for (int i = 0; i < LATENCY_WINDOW; i++)
    latency_add(&l, 10);
  assert_int_equal(latency_at(&l, 100), 10);
  assert_int_equal(latency_at(&l, 99), 10);
}

static void test_endless_times_have_a_bucket(void **state) {
  latency_add(&l, UINT64_MAX);
  assert_int_equal(latency_at(&l, 50), (UINT64_C(1) << LATENCY_BITS_MAX) - 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_nothing_is_zero, prepare),
      cmocka_unit_test_setup(test_short_times_are_exact, prepare),
      cmocka_unit_test_setup(test_long_times_are_right_to_a_32nd, prepare),
      cmocka_unit_test_setup(test_percentiles_are_in_order_and_below_the_longest,
                             prepare),
      cmocka_unit_test_setup(test_one_call_is_all_of_them, prepare),
      cmocka_unit_test_setup(test_it_forgets_what_is_long_ago, prepare),
      cmocka_unit_test_setup(test_endless_times_have_a_bucket, prepare),
  };
  return cmocka_run_group_tests_name("latency", tests, NULL, NULL);
}
