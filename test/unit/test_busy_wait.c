/* When it is worth to look again and again before a sleep. */
#include "parent/loop/busy_wait.h"
#include "unit.h"

#include <string.h>

static struct busy_wait b;

static int prepare(void **state) {
  memset(&b, 0, sizeof b);
  return 0;
}

static void test_only_what_was_expected_and_once(void **state) {
  assert_int_equal(busy_wait_begin(&b), 0);
  busy_wait_expect(&b, 1000);
  assert_int_equal(busy_wait_begin(&b), 1000 + BUSY_WAIT_NS);
  busy_wait_end(&b, 1);
  assert_int_equal(busy_wait_begin(&b), 0);
}

/* How many of n expectations are waited for. */
static unsigned begun(unsigned n, int came) {
  unsigned all = 0;
  for (unsigned i = 0; i < n; i++) {
    busy_wait_expect(&b, i);
    if (busy_wait_begin(&b) == 0)
      continue;
    busy_wait_end(&b, came);
    all++;
  }
  return all;
}

static void test_answers_that_come_are_waited_for(void **state) {
  assert_int_equal(begun(1000, 1), 1000);
}

static void test_what_is_in_vain_becomes_rare(void **state) {
  /* 1, 2, 4 ... 256 between them; then every 257th */
  assert_int_equal(begun(521, 0), 10);
  assert_int_equal(begun(257 * 10, 0), 10);
}

static void test_one_that_comes_ends_the_pause(void **state) {
  begun(521, 0);
  assert_int_equal(begun(BUSY_WAIT_PAUSE_MAX + 1, 1), 1);
  assert_int_equal(begun(100, 1), 100);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_only_what_was_expected_and_once, prepare),
      cmocka_unit_test_setup(test_answers_that_come_are_waited_for, prepare),
      cmocka_unit_test_setup(test_what_is_in_vain_becomes_rare, prepare),
      cmocka_unit_test_setup(test_one_that_comes_ends_the_pause, prepare),
  };
  return cmocka_run_group_tests_name("busy wait", tests, NULL, NULL);
}
