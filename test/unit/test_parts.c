/* A message in parts: which frame may be the next one, and how long the body is. */
#include "unit/unit.h"

#include "wire/parts.h"
#include <errno.h>
#include <string.h>

static void test_begins_with_type_and_id(void **state) {
  (void)state;
  struct parts p = {0};
  struct frame f = {.type = 4, .id = 7, .nfds = 2};
  parts_begin(&p, &f);
  assert_int_equal(p.type, 4);
  assert_int_equal(p.id, 7);
  assert_int_equal(p.length, 0);
  parts_end(&p);
  assert_int_equal(p.type, 0);
}

static void test_what_a_later_part_may_be(void **state) {
  (void)state;
  static const struct {
    struct frame f;
    const char *wrong; /* a part of the text; NULL: nothing is wrong */
  } cases[] = {
      {{.type = 4}, NULL},
      {{.type = 4, .length = 5, .flags = FRAME_MORE}, NULL},
      {{.type = 5}, "another message"},
      {{.type = 4, .id = 7}, "its own id"},
      {{.type = 4, .nfds = 1}, "or handles"},
  };
  struct parts p = {0};
  parts_begin(&p, &(struct frame){.type = 4, .id = 7});
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *wrong = parts_refuse(&p, &cases[i].f);
    assert_int_equal(wrong != NULL, cases[i].wrong != NULL);
    if (wrong)
      assert_non_null(strstr(wrong, cases[i].wrong));
  }
}

static void test_grows_to_its_maximum(void **state) {
  (void)state;
  struct parts p = {0};
  parts_begin(&p, &(struct frame){.type = 4});
  assert_int_equal(parts_grow(&p, 0, 10), 0);
  assert_int_equal(parts_grow(&p, 9, 10), 0);
  assert_int_equal(parts_grow(&p, 2, 10), -E2BIG);
  assert_int_equal(p.length, 9); /* what was refused does not count */
  assert_int_equal(parts_grow(&p, 1, 10), 0);
  assert_int_equal(parts_grow(&p, SIZE_MAX, 10), -E2BIG);
  assert_int_equal(parts_grow(&p, 0, 9), -E2BIG);
  assert_int_equal(p.length, 10);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_begins_with_type_and_id),
      census_test(test_what_a_later_part_may_be),
      census_test(test_grows_to_its_maximum),
  };
  return cmocka_run_group_tests_name("parts", tests, NULL, NULL);
}
