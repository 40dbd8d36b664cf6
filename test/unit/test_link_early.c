/* Two processes that write to one pipe (wire/link_early.h): never both at once, neither
 * waits for ever, and the near end learns of each FORK that was written, once. */
#include "unit.h"

#include "wire/link_early.h"
#include <pthread.h>
#include <string.h>

enum { ROUNDS = 200000 };

static struct link_page page;

static int prepare(void **state) {
  memset(&page, 0, sizeof page);
  return 0;
}

static struct link_early record(uint32_t n) {
  return (struct link_early){n + 1, link_early_channel(n), 20};
}

static void write_one(uint32_t n) {
  struct link_early e = record(n);
  assert_int_equal(link_early_begin(&page, n, &e), 1);
  link_early_end(&page, n, 1);
}

static void test_what_was_written_is_taken_once(void **state) {
  struct link_early e;
  uint32_t taken = 0;
  assert_int_equal(link_early_take(&page, &taken, &e), 0);
  for (uint32_t n = 0; n < LINK_FORKS_MAX; n++)
    write_one(n);
  for (uint32_t n = 0; n < LINK_FORKS_MAX; n++) {
    assert_int_equal(link_early_take(&page, &taken, &e), 1);
    assert_int_equal(e.token, n + 1);
    assert_int_equal(e.channel, 3 + 4 * n);
  }
  assert_int_equal(link_early_take(&page, &taken, &e), 0);
}

static void test_nothing_is_written_while_it_is_claimed(void **state) {
  struct link_early e = record(0);
  uint32_t taken = 0;
  assert_int_equal(link_claim(&page), 1);
  assert_int_equal(link_early_begin(&page, 0, &e), 0);
  assert_int_equal(link_claim(&page), 1);
  link_release(&page);
  assert_int_equal(link_early_take(&page, &taken, &e), 0);
  write_one(0);
  assert_int_equal(link_early_take(&page, &taken, &e), 1);
}

static void test_a_writer_that_is_stopped_keeps_the_claim_away(void **state) {
  struct link_early e = record(0);
  assert_int_equal(link_early_begin(&page, 0, &e), 1);
  assert_int_equal(link_claim(&page), 0);
  link_early_end(&page, 0, 0);
  assert_int_equal(link_claim(&page), 1);
}

/* The agent's answer may be there before the program says that it wrote. */
static void test_an_answer_comes_before_the_word(void **state) {
  struct link_early e = record(0), heard;
  uint32_t taken = 0;
  assert_int_equal(link_early_begin(&page, 0, &e), 1);
  assert_int_equal(link_early_take(&page, &taken, &heard), 0);
  assert_int_equal(link_early_hear(&page, &taken, e.channel + 4, &heard), 0);
  assert_int_equal(link_early_hear(&page, &taken, e.channel, &heard), 1);
  link_early_end(&page, 0, 1);
  assert_int_equal(link_early_take(&page, &taken, &heard), 0);
  assert_int_equal(taken, 1);
}

static void test_what_is_not_taken_is_not_written_over(void **state) {
  struct link_early e = record(LINK_FORKS_MAX);
  uint32_t taken = 0;
  for (uint32_t n = 0; n < LINK_FORKS_MAX; n++) {
    struct link_early x = record(n);
    assert_int_equal(link_early_begin(&page, n, &x), 1);
    link_early_end(&page, n, 1);
  }
  assert_int_equal(link_early_begin(&page, LINK_FORKS_MAX, &e), 0);
  assert_int_equal(link_early_take(&page, &taken, &e), 1);
  assert_int_equal(e.token, 1);
  assert_int_equal(link_early_begin(&page, LINK_FORKS_MAX, &e), 1);
}

static void test_a_page_that_lies_has_bounds(void **state) {
  struct link_early e;
  uint32_t taken = 5;
  atomic_store(&page.nearly, 5 + LINK_FORKS_MAX + 1);
  assert_int_equal(link_early_take(&page, &taken, &e), 0);
  atomic_store(&page.nearly, 4);
  assert_int_equal(link_early_take(&page, &taken, &e), 0);
  assert_int_equal(taken, 5);
}

static void test_numbers_of_channels_end(void **state) {
  uint32_t n = 0x10000000, channel = link_early_channel(n);
  assert_true(channel > link_early_channel(n - 1));
  assert_true(link_channel_is_early(channel));
  assert_int_equal(link_early_channel(0x3fffffff), 0);
  assert_false(link_channel_is_early(LINK_NEAR_FIRST));
  assert_false(link_channel_is_early(LINK_CHANNEL_ROOT));
}

/* ---- both at once ---- */

static _Atomic int nwriters, is_over;
static unsigned nwritten;

static void be_alone(void) {
  assert_int_equal(atomic_fetch_add(&nwriters, 1), 0);
  atomic_fetch_sub(&nwriters, 1);
}

static void *program(void *unused) {
  for (uint32_t i = 0; i < ROUNDS; i++) {
    struct link_early e = record(nwritten);
    if (!link_early_begin(&page, nwritten, &e))
      continue;
    if (atomic_fetch_add(&nwriters, 1) != 0) {
      atomic_store(&is_over, 1);
      return &nwriters;
    }
    atomic_fetch_sub(&nwriters, 1);
    int is_written = i % 5 != 0;
    link_early_end(&page, nwritten, is_written);
    nwritten += (unsigned)is_written;
  }
  atomic_store(&is_over, 1);
  return NULL;
}

static void test_never_both_at_once(void **state) {
  pthread_t thread;
  void *failed;
  atomic_store(&is_over, 0);
  nwritten = 0;
  assert_int_equal(pthread_create(&thread, NULL, program, NULL), 0);
  while (!atomic_load(&is_over)) {
    if (link_claim(&page))
      be_alone();
    link_release(&page);
  }
  pthread_join(thread, &failed);
  assert_null(failed);
  assert_int_equal(atomic_load(&page.nearly), nwritten);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_what_was_written_is_taken_once, prepare),
      cmocka_unit_test_setup(test_nothing_is_written_while_it_is_claimed, prepare),
      cmocka_unit_test_setup(test_a_writer_that_is_stopped_keeps_the_claim_away, prepare),
      cmocka_unit_test_setup(test_an_answer_comes_before_the_word, prepare),
      cmocka_unit_test_setup(test_what_is_not_taken_is_not_written_over, prepare),
      cmocka_unit_test_setup(test_a_page_that_lies_has_bounds, prepare),
      cmocka_unit_test_setup(test_numbers_of_channels_end, prepare),
      cmocka_unit_test_setup(test_never_both_at_once, prepare),
  };
  return cmocka_run_group_tests_name("link early", tests, NULL, NULL);
}
