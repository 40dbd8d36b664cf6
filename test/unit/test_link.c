/* The frames of a link: written and read again, at each boundary, and refused. */
#include "unit.h"

#include "base/result.h"
#include "wire/build.h"
#include "wire/link.h"
#include "wire/proto.h"
#include <errno.h>
#include <string.h>

static struct buf b;

static int setup(void **state) {
  buf_init(&b, SIZE_MAX);
  return 0;
}

static int teardown(void **state) {
  buf_deinit(&b);
  return 0;
}

/* A frame as its bytes come one by one: whole with the last, and not before. */
static struct link_frame arrive(struct buf *whole, unsigned last) {
  static struct buf in;
  struct link_frame f;
  size_t n = buf_size(whole);
  buf_deinit(&in);
  buf_init(&in, SIZE_MAX);
  for (size_t i = 0; i < n; i++) {
    assert_int_equal(link_next(&in, last, &f), MF_AGAIN);
    assert_int_equal(buf_put(&in, buf_peek(whole) + i, 1), 0);
  }
  assert_int_equal(link_next(&in, last, &f), 0);
  buf_consume(whole, n);
  return f;
}

static void test_numbers_and_births(void **state) {
  uint32_t numbers[4] = {7, 63, UINT32_MAX, 4711}, got[4];
  struct link_birth birth;
  assert_int_equal(link_put(&b, LINK_BORN, 0, numbers, 4), 0);
  struct link_frame f = arrive(&b, LINK_LAST);
  assert_int_equal(f.type, LINK_BORN);
  assert_int_equal(link_numbers(&f, got, 4), 0);
  assert_memory_equal(got, numbers, sizeof got);
  assert_int_equal(link_numbers(&f, got, 3), -EPROTO); /* too long */
  assert_int_equal(link_read_birth(&f, &birth), 0);
  assert_int_equal(birth.pid, 4711);
  numbers[3] = 0; /* a pid that is none */
  link_put(&b, LINK_BORN, 0, numbers, 4);
  f = arrive(&b, LINK_LAST);
  assert_int_equal(link_read_birth(&f, &birth), -EPROTO);
  numbers[3] = 0x80000000u;
  link_put(&b, LINK_BORN, 0, numbers, 4);
  f = arrive(&b, LINK_LAST);
  assert_int_equal(link_read_birth(&f, &birth), -EPROTO);
}

static void test_ends(void **state) {
  struct link_end e = {.serial = 3,
                       .status = 256,
                       .utime_us = 1,
                       .stime_us = 1ull << 40,
                       .maxrss_bytes = 5,
                       .words = "it is\0bad",
                       .nwords = 9},
                  got;
  assert_int_equal(link_put_end(&b, &e), 0);
  struct link_frame f = arrive(&b, LINK_LAST);
  assert_int_equal(link_read_end(&f, &got), 0);
  assert_int_equal(got.serial, 3);
  assert_int_equal(got.stime_us, 1ull << 40);
  assert_int_equal(got.nwords, 9);
  assert_memory_equal(got.words, e.words, 9);
  e.words = NULL;
  link_put_end(&b, &e);
  f = arrive(&b, LINK_LAST);
  assert_int_equal(link_read_end(&f, &got), 0);
  assert_int_equal(got.nwords, 0);
  f.length--;
  assert_int_equal(link_read_end(&f, &got), -EPROTO);
}

static void test_returns(void **state) {
  uint32_t serial;
  uint64_t id;
  assert_int_equal(link_put_returned(&b, 7, 5ull << 40 | 3), 0);
  struct link_frame f = arrive(&b, LINK_LAST);
  assert_int_equal(f.type, LINK_RETURNED);
  assert_int_equal(link_read_returned(&f, &serial, &id), 0);
  assert_int_equal(serial, 7);
  assert_int_equal(id, 5ull << 40 | 3);
  f.length--;
  assert_int_equal(link_read_returned(&f, &serial, &id), -EPROTO);
}

static void test_forks(void **state) {
  static const unsigned char head[FRAME_HEADER_SIZE] = "the header";
  const struct link_fork none = {.command = head, .n = sizeof head};
  struct link_fork fork = {9, 3, 4, head, sizeof head}, back;
  char body[LINK_FORK_MAX] = "body";
  assert_int_equal(link_put_fork(&b, &fork, body, sizeof body - sizeof head), 0);
  struct link_frame f = arrive(&b, LINK_SIDE_LAST);
  assert_int_equal(link_read_fork(&f, &back), 0);
  assert_int_equal(back.token, 9);
  assert_int_equal(back.table, 3);
  assert_int_equal(back.index, 4);
  assert_int_equal(back.n, sizeof body);
  assert_memory_equal(back.command, head, sizeof head);
  assert_memory_equal(back.command + sizeof head, "body", 4);
  link_put_fork(&b, &none, NULL, 0); /* a token that is none */
  f = arrive(&b, LINK_SIDE_LAST);
  assert_int_equal(link_read_fork(&f, &back), -EPROTO);
  fork.n--; /* less than a header */
  link_put_fork(&b, &fork, NULL, 0);
  f = arrive(&b, LINK_SIDE_LAST);
  assert_int_equal(link_read_fork(&f, &back), -EPROTO);
  fork.n++;
  link_put_fork(&b, &fork, body, sizeof body - sizeof head + 1);
  f = arrive(&b, LINK_SIDE_LAST);
  assert_int_equal(link_read_fork(&f, &back), -EPROTO);
  assert_int_equal(link_put_clone(&b, 77, &none, "body", 4), 0);
  f = arrive(&b, LINK_LAST);
  assert_int_equal(f.type, LINK_CLONE);
  assert_int_equal(f.channel, 77);
  assert_int_equal(link_read_fork(&f, &back), 0);
  assert_int_equal(back.n, sizeof head + 4);
  assert_memory_equal(back.command + sizeof head, "body", 4);
  f.length -= 5;
  assert_int_equal(link_read_fork(&f, &back), -EPROTO);
}

static void test_hellos(void **state) {
  struct link_hello h;
  link_put_hello(&b, 0, 0);
  struct link_frame f = arrive(&b, LINK_LAST);
  assert_int_equal(link_read_hello(&f, 1, &h), 0);
  assert_string_equal(h.build, build_own.version);
  assert_int_equal(link_read_hello(&f, 0, &h), -EPROTO); /* a near end says more */
  static const struct {
    uint32_t beat, window;
    int r;
  } cases[] = {{LINK_BEAT_MIN_MS, LINK_WINDOW_MIN, 0},
               {LINK_BEAT_MAX_MS, LINK_WINDOW_MAX, 0},
               {LINK_BEAT_MIN_MS - 1, LINK_WINDOW, -EPROTO},
               {LINK_BEAT_MAX_MS + 1, LINK_WINDOW, -EPROTO},
               {LINK_BEAT_MS, LINK_WINDOW_MIN - 1, -EPROTO},
               {LINK_BEAT_MS, LINK_WINDOW_MAX + 1, -EPROTO},
               {UINT32_MAX, UINT32_MAX, -EPROTO}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    link_put_hello(&b, cases[i].beat, cases[i].window);
    f = arrive(&b, LINK_LAST);
    assert_int_equal(link_read_hello(&f, 0, &h), cases[i].r);
  }
}

static void test_a_text_is_cut(void **state) {
  static char text[LINK_TEXT_MAX + 10];
  struct reader r;
  size_t n;
  memset(text, 'x', sizeof text);
  link_put_text(&b, LINK_FAILED, text, sizeof text);
  struct link_frame f = arrive(&b, LINK_LAST);
  reader_init(&r, f.body, f.length);
  assert_non_null(reader_str(&r, &n));
  assert_int_equal(n, LINK_TEXT_MAX);
  char small[8], large[LINK_TEXT_MAX + 1];
  assert_int_equal(link_read_text(&f, small, sizeof small), 0);
  assert_string_equal(small, "xxxxxxx");
  assert_int_equal(link_read_text(&f, large, sizeof large), 0);
  assert_int_equal(strlen(large), LINK_TEXT_MAX);
  f.length = 3; /* not even its length */
  assert_int_equal(link_read_text(&f, small, sizeof small), -EPROTO);
  assert_string_equal(small, "xxxxxxx");
}

/* The reason that an agent gave for its end reached the terminal of whoever printed the
 * error. */
static void test_a_text_is_shown_without_control_characters(void **state) {
  static const char text[] = "a\tb\n\033[2J\x7f\xc2\x9b"
                             "31m\xc3\x9b";
  char shown[64];
  link_put_text(&b, LINK_FAILED, text, sizeof text - 1);
  struct link_frame f = arrive(&b, LINK_LAST);
  assert_int_equal(link_read_text(&f, shown, sizeof shown), 0);
  assert_string_equal(shown, "a\tb\n?[2J?\xc2?31m\xc3\x9b");
}

static void test_headers_that_are_refused(void **state) {
  static const struct {
    unsigned type, descriptors;
    uint32_t length;
    int r;
  } cases[] = {
      {0, 0, 0, -EPROTO},
      {LINK_LAST + 1, 0, 0, -EPROTO},
      {LINK_START, 0, 8, -EPROTO}, /* only from the parent */
      {255, 0, 0, -EPROTO},
      {LINK_DATA, 0, 0, -EPROTO}, /* says nothing */
      {LINK_DATA, 0, 1, MF_AGAIN},
      {LINK_DATA, 0, LINK_DATA_MAX, MF_AGAIN},
      {LINK_DATA, 0, LINK_DATA_MAX + 1, -EPROTO},
      {LINK_DATA, 1, LINK_DESCRIPTOR_SIZE, -EPROTO}, /* no byte to come with */
      {LINK_DATA, 1, LINK_DESCRIPTOR_SIZE + 1, MF_AGAIN},
      {LINK_DATA, LINK_FDS_MAX, LINK_BODY_MAX, MF_AGAIN},
      {LINK_DATA, LINK_FDS_MAX + 1, LINK_BODY_MAX, -EPROTO},
      {LINK_DATA, LINK_FDS_MAX, LINK_BODY_MAX + 1, -EPROTO},
      {LINK_PING, 1, 13, -EPROTO},
      {LINK_PING, 0, UINT32_MAX, -EPROTO},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct link_frame f;
    unsigned char *at = buf_reserve(&b, LINK_HEADER_SIZE);
    link_put_header(at, cases[i].type, cases[i].descriptors, 1, cases[i].length);
    buf_commit(&b, LINK_HEADER_SIZE);
    assert_int_equal(link_next(&b, LINK_LAST, &f), cases[i].r);
    buf_consume(&b, LINK_HEADER_SIZE);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_numbers_and_births, setup, teardown),
      cmocka_unit_test_setup_teardown(test_ends, setup, teardown),
      cmocka_unit_test_setup_teardown(test_returns, setup, teardown),
      cmocka_unit_test_setup_teardown(test_forks, setup, teardown),
      cmocka_unit_test_setup_teardown(test_hellos, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_text_is_cut, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_text_is_shown_without_control_characters,
                                      setup, teardown),
      cmocka_unit_test_setup_teardown(test_headers_that_are_refused, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
