/* stdin_reset: it was done in two places, and only one of them forgot that the old file
 * had come to its end. */
#include "unit/unit.h"

#include "os/fd.h"
#include "os/stdin.h"

#include <stdio.h>
#include <unistd.h>

/* A file with that text becomes descriptor 0; stdio does not know. */
static void put_in_place(const char *text) {
  int fds[2];
  assert_int_equal(pipe(fds), 0);
  assert_int_equal(write(fds[1], text, strlen(text)), strlen(text));
  assert_int_equal(dup2(fds[0], 0), 0);
  fd_close(&fds[0]);
  fd_close(&fds[1]);
}

static void test_stdin_reset_forgets_what_was_read_ahead(void **state) {
  int old = dup(0);
  put_in_place("old");
  assert_int_equal(getchar(), 'o');
  put_in_place("new");
  stdin_reset();
  assert_int_equal(getchar(), 'n');
  stdin_reset();
  dup2(old, 0);
  fd_close(&old);
}

static void test_stdin_reset_forgets_the_end(void **state) {
  int old = dup(0);
  put_in_place("");
  assert_int_equal(getchar(), EOF);
  assert_true(feof(stdin));
  put_in_place("new");
  stdin_reset();
  assert_false(feof(stdin));
  assert_int_equal(getchar(), 'n');
  stdin_reset();
  dup2(old, 0);
  fd_close(&old);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_stdin_reset_forgets_what_was_read_ahead),
      census_test(test_stdin_reset_forgets_the_end),
  };
  return cmocka_run_group_tests_name("stdin", tests, NULL, NULL);
}
