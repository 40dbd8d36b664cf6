/* wire/chunk.c: answers that lie, and the record of a worker that may stop at any moment.
 */
#include "wire/chunk.h"

#include "unit.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static size_t put(unsigned char *at, unsigned kind, uint32_t length, const char *text) {
  at[0] = (unsigned char)kind;
  for (int i = 0; i < 4; i++)
    at[1 + i] = (unsigned char)(length >> 8 * i);
  memcpy(at + 5, text, strlen(text));
  return 5 + strlen(text);
}

static struct chunk_record *record_new(void) {
  struct chunk_record *r = calloc(1, CHUNK_RECORD_SIZE);
  assert_non_null(r);
  return r;
}

static void test_answers(void **state) {
  unsigned char data[64];
  uint32_t failures;
  struct reader r;
  struct chunk_answer a;
  size_t n = put(data, CHUNK_RESULT, 3, "one");
  (void)state;
  n += put(data + n, CHUNK_FAILURE, 0, "");
  assert_int_equal(chunk_answers_count(data, n, 9, &failures), 2);
  assert_int_equal(failures, 1);
  assert_int_equal(chunk_answers_count(data, n, 1, &failures), 1);
  assert_int_equal(failures, 0);
  reader_init(&r, data, n);
  assert_int_equal(chunk_answer_next(&r, &a), 0);
  assert_int_equal(a.kind, CHUNK_RESULT);
  assert_int_equal(a.size, 3);
  assert_memory_equal(a.body, "one", 3);
}

static void test_answers_that_lie(void **state) {
  unsigned char data[64];
  uint32_t failures;
  (void)state;
  size_t n = put(data, CHUNK_RESULT, 3, "one");
  for (size_t cut = 0; cut < n; cut++)
    assert_int_equal(chunk_answers_count(data, cut, 9, &failures), 0);
  put(data, CHUNK_RESULT, 4, "one"); /* longer than what is there */
  assert_int_equal(chunk_answers_count(data, n, 9, &failures), 0);
  put(data, CHUNK_RESULT, UINT32_MAX, "one"); /* no str */
  assert_int_equal(chunk_answers_count(data, n, 9, &failures), 0);
  put(data, CHUNK_FAILURE + 1, 3, "one"); /* no such kind */
  assert_int_equal(chunk_answers_count(data, n, 9, &failures), 0);
}

static void read_record(const struct chunk_record *r, uint32_t n, uint32_t finished,
                        uint32_t entered) {
  unsigned char *out = malloc(RPC_CHUNK_BYTES);
  uint32_t bytes, f, e;
  assert_non_null(out);
  chunk_record_read(r, n, out, &bytes, &f, &e);
  assert_int_equal(f, finished);
  assert_int_equal(e, entered);
  assert_true(bytes <= RPC_CHUNK_BYTES);
  free(out);
}

static void test_record(void **state) {
  unsigned char answer[16];
  size_t n = put(answer, CHUNK_RESULT, 3, "one");
  struct chunk_record *r = record_new();
  (void)state;
  read_record(r, 3, 0, 0);
  assert_int_equal(chunk_record_enter(r, 1), 1);
  read_record(r, 3, 0, 1);
  assert_int_equal(chunk_record_finish(r, 1, answer, n), 1);
  read_record(r, 3, 1, 1);
  assert_int_equal(chunk_record_enter(r, 2), 1);
  read_record(r, 3, 1, 2);
  chunk_record_stop(r);
  assert_int_equal(chunk_record_finish(r, 2, answer, n), 1);
  assert_int_equal(chunk_record_enter(r, 3), 0); /* and it says so no more */
  read_record(r, 3, 2, 2);
  chunk_record_clear(r);
  read_record(r, 3, 0, 0);
  assert_int_equal(chunk_record_enter(r, 1), 1);
  free(r);
}

static void test_record_is_full(void **state) {
  struct chunk_record *r = record_new();
  unsigned char *answer = calloc(1, RPC_CHUNK_BYTES + 1);
  assert_non_null(answer);
  (void)state;
  put(answer, CHUNK_RESULT, RPC_CHUNK_BYTES - 5, "");
  chunk_record_enter(r, 1);
  assert_int_equal(chunk_record_finish(r, 1, answer, RPC_CHUNK_BYTES + 1), 0);
  read_record(r, 2, 0, 1);
  assert_int_equal(chunk_record_finish(r, 1, answer, RPC_CHUNK_BYTES), 1);
  read_record(r, 2, 1, 1);
  chunk_record_enter(r, 2);
  assert_int_equal(chunk_record_finish(r, 2, answer, 1), 0);
  read_record(r, 2, 1, 2);
  atomic_store(&r->bytes, RPC_CHUNK_BYTES + 1); /* by the other side */
  assert_int_equal(chunk_record_finish(r, 2, answer, 1), 0);
  atomic_store(&r->bytes, RPC_CHUNK_BYTES);
  free(answer);
  free(r);
}

/* The other process writes what it likes. */
static void test_record_that_lies(void **state) {
  struct chunk_record *r = record_new();
  (void)state;
  atomic_store(&r->entered, UINT32_MAX);
  atomic_store(&r->finished, UINT32_MAX);
  atomic_store(&r->bytes, UINT32_MAX);
  memset(r->answers, 0xff, RPC_CHUNK_BYTES);
  read_record(r, 7, 0, 7);
  memset(r->answers, 0, RPC_CHUNK_BYTES); /* empty results */
  read_record(r, 7, 7, 7);
  atomic_store(&r->entered, 2);
  read_record(r, 7, 2, 2);
  atomic_store(&r->bytes, 7);
  read_record(r, 7, 1, 2);
  free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_answers),          cmocka_unit_test(test_answers_that_lie),
      cmocka_unit_test(test_record),           cmocka_unit_test(test_record_is_full),
      cmocka_unit_test(test_record_that_lies),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
