/* struct buf and struct reader: growth, the maximum, all or nothing, short reads. */
#include "unit/unit.h"

#include "base/buf.h"
#include <stdlib.h>

static void test_put_then_consume_gives_the_same_bytes(void **state) {
  struct buf b;
  buf_init(&b, 1000);
  assert_int_equal(buf_put(&b, "hello", 5), 0);
  assert_int_equal(buf_put(&b, " world", 6), 0);
  buf_consume(&b, 6);
  assert_int_equal(buf_size(&b), 5);
  assert_memory_equal(buf_peek(&b), "world", 5);
  buf_deinit(&b);
}

static void test_empty_buffer_needs_no_storage(void **state) {
  struct buf b;
  buf_init(&b, 10);
  assert_int_equal(buf_size(&b), 0);
  assert_null(buf_peek(&b));
  assert_int_equal(buf_put(&b, NULL, 0), 0);
  buf_consume(&b, 0);
  assert_null(b.data);
  buf_deinit(&b);
}

static void test_maximum_is_reached_but_never_passed(void **state) {
  struct buf b;
  buf_init(&b, 10);
  assert_int_equal(buf_put(&b, "0123456789", 10), 0);
  assert_int_equal(buf_put(&b, "x", 1), -E2BIG);
  errno = 0;
  assert_null(buf_reserve(&b, 1));
  assert_int_equal(errno, E2BIG);
  assert_null(buf_reserve(&b, SIZE_MAX));
  assert_int_equal(buf_size(&b), 10);
  buf_consume(&b, 4);
  assert_int_equal(buf_put(&b, "abcd", 4), 0);
  assert_memory_equal(buf_peek(&b), "456789abcd", 10);
  assert_true(b.cap <= 10);
  buf_deinit(&b);
}

static void test_str_is_put_whole_or_not_at_all(void **state) {
  struct buf b;
  buf_init(&b, 8);
  assert_int_equal(buf_put_str(&b, "12345", 5), -E2BIG);
  assert_int_equal(buf_size(&b), 0);
  assert_int_equal(buf_put_str(&b, "1234", 4), 0);
  assert_memory_equal(buf_peek(&b),
                      "\4\0\0\0"
                      "1234",
                      8);
  buf_deinit(&b);
}

static void test_no_memory_leaves_the_content(void **state) {
  struct buf b;
  buf_init(&b, SIZE_MAX);
  assert_int_equal(buf_put(&b, "abc", 3), 0);
  errno = 0;
  assert_null(buf_reserve(&b, SIZE_MAX / 2));
  assert_int_equal(errno, ENOMEM);
  assert_memory_equal(buf_peek(&b), "abc", 3);
  buf_deinit(&b);
}

static void test_numbers_are_little_endian(void **state) {
  static const unsigned char expected[] = {0xfe, 0x34, 0x12, 0x78, 0x56, 0x34, 0x12, 8,
                                           7,    6,    5,    4,    3,    2,    1};
  struct buf b;
  buf_init(&b, 100);
  buf_put_u8(&b, 0xfe);
  buf_put_u16(&b, 0x1234);
  buf_put_u32(&b, 0x12345678);
  buf_put_u64(&b, UINT64_C(0x0102030405060708));
  assert_int_equal(buf_size(&b), sizeof expected);
  assert_memory_equal(buf_peek(&b), expected, sizeof expected);
  struct reader r;
  reader_init(&r, buf_peek(&b), buf_size(&b));
  assert_int_equal(reader_u8(&r), 0xfe);
  assert_int_equal(reader_u16(&r), 0x1234);
  assert_int_equal(reader_u32(&r), 0x12345678);
  assert_true(reader_u64(&r) == UINT64_C(0x0102030405060708));
  assert_true(r.ok);
  assert_int_equal(reader_left(&r), 0);
  buf_deinit(&b);
}

static void test_storage_follows_what_is_held(void **state) {
  static unsigned char block[1000];
  struct buf b;
  buf_init(&b, 1 << 20);
  for (int i = 0; i < 1000; i++)
    assert_int_equal(buf_put(&b, block, sizeof block), 0);
  assert_true(b.cap >= 1000000 && b.cap <= 1 << 20);
  buf_consume(&b, buf_size(&b));
  assert_null(b.data); /* more than 64 KiB are given back */
  assert_int_equal(buf_put(&b, block, sizeof block), 0);
  buf_consume(&b, sizeof block);
  assert_non_null(b.data); /* a little is kept */
  buf_deinit(&b);
}

static void test_queue_use_does_not_grow_storage(void **state) {
  struct buf b;
  buf_init(&b, 1 << 20);
  for (unsigned i = 0; i < 100000; i++) {
    assert_int_equal(buf_put_u32(&b, i), 0);
    if (i < 10)
      continue;
    struct reader r;
    reader_init(&r, buf_peek(&b), buf_size(&b));
    assert_int_equal(reader_u32(&r), i - 10);
    buf_consume(&b, 4);
  }
  assert_true(b.cap <= 4096);
  buf_deinit(&b);
}

static void test_reader_gives_zero_after_a_short_read(void **state) {
  struct reader r;
  reader_init(&r, "\1\2\3", 3);
  assert_int_equal(reader_u32(&r), 0);
  assert_false(r.ok);
  assert_int_equal(reader_u8(&r), 0); /* although one would be there */
  assert_null(reader_take(&r, 0));
  assert_int_equal(reader_left(&r), 0);
}

static void test_reader_tells_none_empty_and_short_strings_apart(void **state) {
  struct reader r;
  size_t n = 99;
  reader_init(&r,
              "\xff\xff\xff\xff"
              "\0\0\0\0"
              "\2\0\0\0hi"
              "\5\0\0\0hi",
              20);
  assert_null(reader_str(&r, &n));
  assert_true(r.ok && n == 0);
  assert_non_null(reader_str(&r, &n));
  assert_true(r.ok && n == 0);
  assert_memory_equal(reader_str(&r, &n), "hi", 2);
  assert_true(r.ok && n == 2);
  assert_null(reader_str(&r, &n));
  assert_true(!r.ok && n == 0);
}

static void test_reader_at_every_length(void **state) {
  static const unsigned char bytes[] = {1, 2, 0, 3, 0, 0, 0, 1, 0, 0, 0, 'x'};
  for (size_t n = 0; n <= sizeof bytes; n++) {
    struct reader r;
    size_t length;
    reader_init(&r, bytes, n);
    reader_u8(&r);
    reader_u16(&r);
    reader_u32(&r);
    reader_str(&r, &length);
    assert_int_equal(r.ok, n == sizeof bytes);
  }
}

static void test_storage_is_lent_and_kept(void **state) {
  struct buf b;
  size_t cap;
  buf_init(&b, 1 << 20);
  unsigned char *block = malloc(300000);
  buf_adopt(&b, block, 300000);
  assert_ptr_equal(buf_reserve(&b, 300000), block);
  assert_int_equal(buf_put(&b, "abc", 3), 0);
  assert_ptr_equal(buf_yield(&b, &cap), block);
  assert_int_equal(cap, 300000);
  assert_int_equal(buf_size(&b), 0);
  assert_null(buf_yield(&b, &cap));
  buf_adopt(&b, block, 300000);
  b.keep = 300000;
  assert_int_equal(buf_put(&b, "abc", 3), 0);
  buf_consume(&b, 3);
  assert_ptr_equal(b.data, block);
  b.keep = 299999;
  assert_int_equal(buf_put(&b, "abc", 3), 0);
  buf_consume(&b, 3);
  assert_null(b.data);
  buf_deinit(&b);
  assert_int_equal(b.keep, 299999);
}

static void test_lent_storage_is_used_while_the_content_fits(void **state) {
  char home[300];
  struct buf b;
  buf_init(&b, 4096);
  buf_lend(&b, home, sizeof home);
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 300; i++)
      assert_int_equal(buf_put_u8(&b, (unsigned)i % 256), 0);
    assert_true(round > 0 || (const char *)buf_peek(&b) == home);
    assert_int_equal(buf_put(&b, "more", 4), 0);
    assert_ptr_not_equal(buf_peek(&b), home);
    for (int i = 0; i < 300; i++)
      assert_int_equal(buf_peek(&b)[i], i % 256);
    assert_memory_equal(buf_peek(&b) + 300, "more", 4);
    buf_consume(&b, 304);
  }
  b.keep = 0; /* what it does not keep it does not need: back to what was lent */
  assert_int_equal(buf_put(&b, "x", 1), 0);
  buf_consume(&b, 1);
  assert_ptr_equal(buf_reserve(&b, 300), home);
  buf_commit(&b, 300);
  assert_int_equal(buf_put(&b, home, 300), 0);
  buf_deinit(&b);
}

static void test_reader_of_nothing(void **state) {
  struct reader r;
  reader_init(&r, NULL, 0);
  assert_int_equal(reader_left(&r), 0);
  assert_non_null(reader_take(&r, 0));
  assert_true(r.ok);
  assert_null(reader_take(&r, 1));
  assert_false(r.ok);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_put_then_consume_gives_the_same_bytes),
      census_test(test_empty_buffer_needs_no_storage),
      census_test(test_maximum_is_reached_but_never_passed),
      census_test(test_str_is_put_whole_or_not_at_all),
      census_test(test_no_memory_leaves_the_content),
      census_test(test_numbers_are_little_endian),
      census_test(test_storage_follows_what_is_held),
      census_test(test_queue_use_does_not_grow_storage),
      census_test(test_reader_gives_zero_after_a_short_read),
      census_test(test_reader_tells_none_empty_and_short_strings_apart),
      census_test(test_reader_at_every_length),
      census_test(test_reader_of_nothing),
      census_test(test_lent_storage_is_used_while_the_content_fits),
      census_test(test_storage_is_lent_and_kept),
  };
  return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
