/* flush_pending: what stdio holds back is written, whatever stream has it; else nothing
 * is. */
#include "os/flush.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

static ssize_t arrived(int fd, char *text, size_t n) {
  return read(fd, text, n);
}

static FILE *open_pipe(int *ret_fd) {
  int fd[2];
  assert_int_equal(pipe(fd), 0);
  FILE *f = fdopen(fd[1], "w");
  assert_non_null(f);
  *ret_fd = fd[0];
  return f;
}

static void test_flush_writes_what_any_stream_holds(void **state) {
  int a, b;
  char text[16];
  FILE *first = open_pipe(&a), *second = open_pipe(&b);
  (void)state;
  for (int i = 0; i < 2; i++) {
    FILE *f = i ? second : first;
    fputs("pending", f);
    flush_pending();
    assert_int_equal(arrived(i ? b : a, text, sizeof text), 7);
    assert_memory_equal(text, "pending", 7);
  }
  fclose(first);
  fclose(second);
  close(a);
  close(b);
}

static void test_flush_writes_wide_characters(void **state) {
  int fd;
  char text[16];
  FILE *f = open_pipe(&fd);
  (void)state;
  fputws(L"wide", f);
  flush_pending();
  assert_int_equal(arrived(fd, text, sizeof text), 4);
  fclose(f);
  close(fd);
}

static void test_flush_leaves_input_alone(void **state) {
  int fd[2];
  (void)state;
  assert_int_equal(pipe(fd), 0);
  assert_int_equal(write(fd[1], "one\ntwo\n", 8), 8);
  FILE *f = fdopen(fd[0], "r");
  char line[16];
  assert_non_null(fgets(line, sizeof line, f));
  flush_pending();
  assert_non_null(fgets(line, sizeof line, f));
  assert_string_equal(line, "two\n");
  fclose(f);
  close(fd[1]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_flush_writes_what_any_stream_holds),
      cmocka_unit_test(test_flush_writes_wide_characters),
      cmocka_unit_test(test_flush_leaves_input_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
