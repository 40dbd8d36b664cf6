/* When a parent lets a child that is about to end have the processor. */
#include "parent/loop/yielding.h"
#include "unit.h"

#include <string.h>

static struct yielding y;

static int prepare(void **state) {
  memset(&y, 0, sizeof y);
  return 0;
}

/* At how many of n ends it yields. */
static unsigned yielded(unsigned n, uint64_t ns) {
  unsigned all = 0;
  for (unsigned i = 0; i < n; i++) {
    if (!yielding_is_due(&y))
      continue;
    yielding_took(&y, ns);
    all++;
  }
  return all;
}

static void test_what_takes_a_moment_is_done_each_time(void **state) {
  assert_int_equal(yielded(1000, YIELDING_LATE_NS), 1000);
}

static void test_what_takes_long_becomes_rare(void **state) {
  /* 64, 128 ... 8192 between them; then every 8193rd */
  assert_int_equal(
      yielded(8 + 2 * YIELDING_PAUSE_MAX - YIELDING_PAUSE, YIELDING_LATE_NS + 1), 8);
  assert_int_equal(yielded((YIELDING_PAUSE_MAX + 1) * 3, YIELDING_LATE_NS + 1), 3);
}

static void test_a_short_one_ends_the_pause(void **state) {
  yielded(1, YIELDING_LATE_NS + 1);
  assert_int_equal(yielded(YIELDING_PAUSE, 0), 0);
  assert_int_equal(yielded(100, 0), 100);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_what_takes_a_moment_is_done_each_time, prepare),
      cmocka_unit_test_setup(test_what_takes_long_becomes_rare, prepare),
      cmocka_unit_test_setup(test_a_short_one_ends_the_pause, prepare),
  };
  return cmocka_run_group_tests_name("yielding", tests, NULL, NULL);
}
