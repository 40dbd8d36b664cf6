/* How a process's socket begins: nothing behind *running* is read with it. */
#include "unit.h"

#include "remote/opening.h"
#include "wire/proto.h"
#include <string.h>

enum { HEADER = FRAME_HEADER_SIZE, ALL = 100000 };

static unsigned char bytes[ALL];

static size_t put(size_t at, unsigned type, uint32_t length) {
  struct frame f = {.type = (uint8_t)type, .length = length};
  frame_encode(bytes + at, &f);
  return at + HEADER + length;
}

/* Reads `piece` bytes at a time at most, up to *running*: where it ends. */
static size_t read_up(size_t piece) {
  struct opening o = {.is_on = 1};
  size_t at = 0;
  while (o.is_on && at < ALL) {
    size_t n = opening_limit(&o, piece);
    assert_in_range(n, 1, piece);
    opening_count(&o, bytes + at, n);
    at += n;
  }
  assert_int_equal(opening_limit(&o, ALL), ALL);
  return at;
}

static void test_frames(void **state) {
  static const size_t pieces[] = {1, 3, 15, 16, 17, 300, ALL};
  size_t end = put(put(put(0, ANS_HELLO, 24), ANS_DONE, 0), ANS_MEMORY, 5000);
  end = put(end, ANS_RUNNING, 0);
  put(end, ANS_RUNNING, 0); /* the function's bytes */
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
    assert_int_equal(read_up(pieces[i]), end);
}

static void test_anything_else(void **state) {
  memset(bytes, 'x', sizeof bytes);
  assert_int_equal(read_up(ALL), HEADER);
  put(0, CMD_FORK, 10);
  assert_int_equal(read_up(7), HEADER);
  struct opening off = {0};
  opening_count(&off, bytes, 50);
  assert_int_equal(opening_limit(&off, 50), 50);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_frames),
      cmocka_unit_test(test_anything_else),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
