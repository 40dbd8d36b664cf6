/* The body of a failure: what one side writes the other reads; and what is none. */
#include "unit/unit.h"

#include "wire/failure_body.h"
#include <stdlib.h>

static void check_text(const void *got, size_t ngot, const void *want, size_t nwant) {
  assert_int_equal(got != NULL, want != NULL);
  assert_int_equal(ngot, nwant);
  if (want && nwant > 0)
    assert_memory_equal(got, want, nwant);
}

static void test_what_is_written_is_read(void **state) {
  (void)state;
  static char longest[FAILURE_TEXT_MAX], value[FAILURE_VALUE_MAX];
  memset(longest, 'm', sizeof longest);
  memset(value, 'v', sizeof value);
  const struct failure_body failures[] = {
      {.code = FAILURE_REMOTE, .message = "x", .nmessage = 1},
      {.code = FAILURE_FORK,
       .second = PHASE_FUNCTION,
       .error = ENOMEM,
       .message = "a\0b",
       .nmessage = 3,
       .traceback = "t",
       .ntraceback = 1},
      {.code = FAILURE_INVAL,
       .second = 1,
       .error = UINT32_MAX,
       .message = "",
       .value = value,
       .nvalue = 5},
      {.code = FAILURE_LIMIT,
       .message = longest,
       .nmessage = sizeof longest,
       .traceback = longest,
       .ntraceback = sizeof longest,
       .value = value,
       .nvalue = sizeof value},
      {.code = FAILURE_CODE_LAST},
  };
  for (size_t i = 0; i < COUNT(failures); i++) {
    const struct failure_body *f = &failures[i];
    struct failure_body got;
    struct buf b;
    buf_init(&b, SIZE_MAX);
    assert_int_equal(failure_body_encode(f, &b), 0);
    assert_true(buf_size(&b) <= FRAME_BODY_MAX); /* all is one frame */
    assert_int_equal(failure_body_decode(&got, buf_peek(&b), buf_size(&b)), 0);
    assert_int_equal(got.code, f->code);
    assert_int_equal(got.second, f->second);
    assert_int_equal(got.error, f->error);
    check_text(got.message, got.nmessage, f->message, f->nmessage);
    check_text(got.traceback, got.ntraceback, f->traceback, f->ntraceback);
    check_text(got.value, got.nvalue, f->value, f->nvalue);
    for (size_t n = 0; n < buf_size(&b) && i < 3;
         n++) { /* cut anywhere, unless before the value */
      int r = failure_body_decode(&got, buf_peek(&b), n);
      size_t without = 8 + 4 + f->nmessage + 4 + f->ntraceback;
      assert_int_equal(r, f->value && n == without ? 0 : -EPROTO);
    }
    buf_deinit(&b);
  }
}

static void test_too_long(void **state) {
  (void)state;
  char *text = calloc(1, FAILURE_VALUE_MAX + 1);
  const struct failure_body failures[] = {
      {.message = text, .nmessage = FAILURE_TEXT_MAX + 1},
      {.message = text, .traceback = text, .ntraceback = FAILURE_TEXT_MAX + 1},
      {.message = text, .value = text, .nvalue = FAILURE_VALUE_MAX + 1},
  };
  for (size_t i = 0; i < COUNT(failures); i++) {
    struct failure_body got = {.code = 77};
    struct buf b;
    buf_init(&b, SIZE_MAX);
    assert_int_equal(failure_body_encode(&failures[i], &b), 0);
    assert_int_equal(failure_body_decode(&got, buf_peek(&b), buf_size(&b)), -EPROTO);
    assert_int_equal(got.code, 77); /* as it was */
    buf_deinit(&b);
  }
  free(text);
}

static void test_more_than_a_failure(void **state) {
  (void)state;
  const struct failure_body f = {
      .message = "x", .nmessage = 1, .value = "v", .nvalue = 1};
  struct failure_body got;
  struct buf b;
  buf_init(&b, SIZE_MAX);
  assert_int_equal(failure_body_encode(&f, &b), 0);
  assert_int_equal(buf_put_u8(&b, 0), 0);
  assert_int_equal(failure_body_decode(&got, buf_peek(&b), buf_size(&b)), -EPROTO);
  buf_deinit(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_what_is_written_is_read),
      census_test(test_too_long),
      census_test(test_more_than_a_failure),
  };
  return cmocka_run_group_tests_name("failure", tests, NULL, NULL);
}
