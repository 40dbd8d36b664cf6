/* flush_pending: what stdio holds back is written, whatever stream has it; else nothing
 * is. */
#include "os/flush.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
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

/* The three that are always there are looked at without any other stream. */
static void test_flush_writes_what_standard_error_holds(void **state) {
  static char room[64];
  int fd[2], before = dup(2);
  char text[16];
  (void)state;
  assert_true(before >= 0);
  assert_int_equal(pipe(fd), 0);
  assert_int_equal(dup2(fd[1], 2), 2);
  assert_int_equal(setvbuf(stderr, room, _IOFBF, sizeof room), 0);
  fputs("held", stderr);
  flush_pending();
  assert_int_equal(setvbuf(stderr, NULL, _IONBF, 0), 0);
  assert_int_equal(dup2(before, 2), 2);
  assert_int_equal(close(fd[1]), 0);
  assert_int_equal(arrived(fd[0], text, sizeof text), 4);
  assert_memory_equal(text, "held", 4);
  close(fd[0]);
  close(before);
}

static void *wait_for_end(void *arg) {
  char byte;
  return read(*(int *)arg, &byte, 1) < 0 ? arg : NULL;
}

static void test_flush_beside_a_thread(void **state) {
  pthread_t thread;
  int fd, end[2];
  char text[16];
  (void)state;
  assert_int_equal(pipe(end), 0);
  assert_int_equal(pthread_create(&thread, NULL, wait_for_end, &end[0]), 0);
  FILE *f = open_pipe(&fd);
  fputs("pending", f);
  flush_pending();
  assert_int_equal(arrived(fd, text, sizeof text), 7);
  close(end[1]);
  assert_int_equal(pthread_join(thread, NULL), 0);
  close(end[0]);
  fclose(f);
  close(fd);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_flush_writes_what_any_stream_holds),
      cmocka_unit_test(test_flush_writes_wide_characters),
      cmocka_unit_test(test_flush_leaves_input_alone),
      cmocka_unit_test(test_flush_writes_what_standard_error_holds),
      cmocka_unit_test(test_flush_beside_a_thread),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
