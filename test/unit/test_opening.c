/* How a process's socket begins: where *running* ends, however its bytes are cut. */
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

/* The bytes come in pieces: where the first `all` of them say that *running* ends. */
static size_t find(size_t piece, size_t all) {
  struct opening o = {.is_on = 1};
  size_t found = 0;
  for (size_t at = 0; at < all; at += piece) {
    size_t n = piece < all - at ? piece : all - at;
    size_t end = opening_pass(&o, bytes + at, n);
    assert_in_range(end, 0, n);
    assert_true(!end || !found);
    found = end ? at + end : found;
  }
  assert_int_equal(o.is_on, 0);
  return found;
}

static void test_frames(void **state) {
  static const size_t pieces[] = {1, 3, 15, 16, 17, 300, ALL};
  size_t end = put(put(put(0, ANS_HELLO, 24), ANS_DONE, 0), ANS_MEMORY, 5000);
  end = put(end, ANS_RUNNING, 0);
  put(end, ANS_RUNNING, 0); /* the function's bytes */
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
    assert_int_equal(find(pieces[i], ALL), end);
    assert_int_equal(find(pieces[i], end), end);
  }
}

static void test_anything_else(void **state) {
  memset(bytes, 'x', sizeof bytes);
  assert_int_equal(find(ALL, ALL), 0);
  put(0, CMD_FORK, 10);
  assert_int_equal(find(7, ALL), 0);
  put(put(0, ANS_DONE, 0), CMD_FORK, 10);
  assert_int_equal(find(7, ALL), 0);
  struct opening off = {0};
  put(0, ANS_RUNNING, 0);
  assert_int_equal(opening_pass(&off, bytes, 50), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_frames),
      cmocka_unit_test(test_anything_else),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
