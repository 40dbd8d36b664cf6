/* nats/job_name.c: names of stored jobs, and what others make of them. */
#include "nats/job_name.h"

#include "unit.h"
#include <errno.h>
#include <string.h>

static void test_words(void **state) {
  char word[JOB_WORD_SIZE], id[JOB_ID_MAX + 1], every[256];
  (void)state;
  assert_int_equal(job_word("mail 7.*>", 9, word), 0);
  assert_string_equal(word, "mail%207%2E%2A%3E");
  assert_int_equal(job_unword(word, strlen(word), id), 9);
  assert_memory_equal(id, "mail 7.*>", 9);
  for (int i = 0; i < 256; i++)
    every[i] = (char)i;
  for (int i = 0; i < 256; i += JOB_ID_MAX) {
    assert_int_equal(job_word(every + i, JOB_ID_MAX, word), 0);
    for (const char *c = word; *c; c++)
      assert_true(*c > ' ' && *c < 0x7f && strchr(".*>\"\\", *c) == NULL);
    assert_int_equal(job_unword(word, strlen(word), id), JOB_ID_MAX);
    assert_memory_equal(id, every + i, JOB_ID_MAX);
  }
  assert_int_equal(job_word("", 0, word), -EINVAL);
  assert_int_equal(job_word(every, JOB_ID_MAX + 1, word), -EINVAL);
}

static void test_words_that_are_none(void **state) {
  static const char *const words[] = {"",    "%",   "%2", "%2g", "%2e",
                                      "a.b", "a b", "*",  "\xff"};
  char id[JOB_ID_MAX + 1], long_word[JOB_WORD_SIZE + 1];
  (void)state;
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
    assert_int_equal(job_unword(words[i], strlen(words[i]), id), -EINVAL);
  memset(long_word, 'a', sizeof long_word);
  assert_int_equal(job_unword(long_word, JOB_ID_MAX, id), JOB_ID_MAX);
  assert_int_equal(job_unword(long_word, JOB_ID_MAX + 1, id), -EINVAL);
}

static void test_streams(void **state) {
  char name[JOB_STREAM_MAX + 2];
  (void)state;
  assert_true(job_is_stream("JOBS_2-a"));
  assert_false(job_is_stream(""));
  assert_false(job_is_stream("a.b"));
  assert_false(job_is_stream("a\"b"));
  memset(name, 'a', sizeof name);
  name[JOB_STREAM_MAX] = '\0';
  assert_true(job_is_stream(name));
  name[JOB_STREAM_MAX] = 'a';
  name[JOB_STREAM_MAX + 1] = '\0';
  assert_false(job_is_stream(name));
}

static void test_deliveries(void **state) {
  static const char *const bad[] = {"",
                                    "$JS.ACK.",
                                    "_INBOX.a.b.c.d.e.f.g.h",
                                    "$JS.ACK.S.C.1.2.3.4",
                                    "$JS.ACK.S.C.x.2.3.4.5",
                                    "$JS.ACK.S.C..2.3.4.5",
                                    "$JS.ACK.S.C.1.99999999999999999999999.3.4.5",
                                    "$JS.ACK.S.C.1.-2.3.4.5",
                                    "$JS.ACK.S.C.1.2.3.x.5"};
  struct job_delivery d;
  (void)state;
  assert_int_equal(job_delivery("$JS.ACK.JOBS.lease-30000.2.41.7.1700000001.0", &d), 0);
  assert_int_equal(d.count, 2);
  assert_int_equal(d.sequence, 41);
  assert_int_equal(d.at_ms, 1700);
  assert_int_equal(job_delivery("$JS.ACK._.hash.JOBS.lease-30000.3.42.7.1700.0.rnd", &d),
                   0);
  assert_int_equal(d.count, 3);
  assert_int_equal(d.sequence, 42);
  assert_int_equal(job_delivery("$JS.ACK._.hash.JOBS.lease-30000.3.42.7.1700.0", &d), 0);
  assert_int_equal(d.sequence, 42);
  assert_int_equal(job_delivery(NULL, &d), -EPROTO);
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    assert_int_equal(job_delivery(bad[i], &d), -EPROTO);
}

static void test_subjects(void **state) {
  static const char *const bad[] = {
      "",        "job.",     "job.30000",      "job.30000.",
      "job.x.a", "job.99.a", "job.86400001.a", "jobs.30000.a",
      "done.a",  "job.-1.a", "job.30000x.a"};
  struct job_subject s;
  (void)state;
  assert_int_equal(job_subject("job.30000.a%20b", &s), 0);
  assert_false(s.is_later);
  assert_int_equal(s.lease_ms, 30000);
  assert_string_equal(s.word, "a%20b");
  assert_int_equal(job_subject("later.100.x", &s), 0);
  assert_true(s.is_later);
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    assert_int_equal(job_subject(bad[i], &s), -EPROTO);
}

static void test_backoff(void **state) {
  (void)state;
  assert_int_equal(job_backoff_ms(1), 100);
  assert_int_equal(job_backoff_ms(2), 200);
  assert_int_equal(job_backoff_ms(7), 6400);
  assert_int_equal(job_backoff_ms(8), 10000);
  assert_int_equal(job_backoff_ms(UINT64_MAX), 10000);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_words),    cmocka_unit_test(test_words_that_are_none),
      cmocka_unit_test(test_streams),  cmocka_unit_test(test_deliveries),
      cmocka_unit_test(test_subjects), cmocka_unit_test(test_backoff),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
