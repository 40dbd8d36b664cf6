/* What follows from what is known of a process: the table of liveness.c, by its rows. */
#include "parent/process/liveness.h"
#include "unit.h"

enum {
  M = LIFE_KERNEL_MUTE,
  L = LIFE_KERNEL_LIVES,
  G = LIFE_KERNEL_GONE,
  S = LIFE_KERNEL_STATUS
};
enum {
  NONE = LIFE_SOURCE_NONE,
  SERVES = LIFE_SOURCE_SERVES,
  EXECUTED = LIFE_SOURCE_EXECUTED,
  ENDED = LIFE_SOURCE_ENDED
};
enum { ANY = -1 };

static const struct row {
  int kernel, source, hung_up, spoke, numbered, unheard, nlooks;
  int verdict;
  unsigned wait_ms;
  const char *why;
} rows[] = {
    {S, ANY, ANY, ANY, ANY, ANY, ANY, LIFE_DEAD, 0, "the kernel says how it ended"},
    {L, ANY, 0, ANY, ANY, 0, ANY, LIFE_NOTHING, 0, "it lives, and is heard"},
    {L, ANY, ANY, ANY, ANY, 1, ANY, LIFE_NOTHING, 0, "its socket proves nothing"},
    {L, ANY, 1, ANY, ANY, 0, ANY, LIFE_WAIT, LIFE_GRACE_MS, "it must end, or be killed"},
    {G, ANY, ANY, ANY, ANY, ANY, 0, LIFE_WAIT, LIFE_LOOK_MS, "its status may come"},
    {G, ANY, ANY, ANY, ANY, ANY, LIFE_LOOKS_MAX - 1, LIFE_WAIT, LIFE_LOOK_MS,
     "once more"},
    {G, ANY, ANY, ANY, ANY, ANY, LIFE_LOOKS_MAX, LIFE_DEAD, 0, "nobody releases it"},
    {M, ANY, ANY, ANY, ANY, 1, ANY, LIFE_DEAD, 0, "nobody would ever tell"},
    {M, ANY, 0, ANY, ANY, 0, ANY, LIFE_NOTHING, 0, "somebody has the other end"},
    {M, ANY, 1, 1, ANY, 0, ANY, LIFE_DEAD, 0, "it spoke, and has ended"},
    {M, ANY, 1, 0, 1, 0, ANY, LIFE_DEAD, 0, "the kernel has given it a number"},
    {M, SERVES, 1, 0, 0, 0, ANY, LIFE_NOTHING, 0, "its source will say what it did"},
    {M, EXECUTED, 1, 0, 0, 0, ANY, LIFE_DEAD, 0, "it ended before its first word"},
    {M, NONE, 1, 0, 0, 0, ANY, LIFE_DEAD, 0, "the same of a program"},
    {M, ENDED, 1, 0, 0, 0, ANY, LIFE_NEVER_STARTED, 0, "nobody forks it any more"},
};

static int fits(int wanted, int value) {
  return wanted == ANY || wanted == value;
}

static const struct row *row_of(const struct life *l) {
  const struct row *found = NULL;
  for (size_t i = 0; i < COUNT(rows); i++) {
    const struct row *r = &rows[i];
    if (!fits(r->kernel, l->kernel) || !fits(r->source, l->source) ||
        !fits(r->hung_up, l->hung_up) || !fits(r->spoke, l->spoke) ||
        !fits(r->numbered, l->numbered) || !fits(r->unheard, l->unheard) ||
        !fits(r->nlooks, l->nlooks))
      continue;
    assert_null(found); /* no case has two rows */
    found = r;
  }
  return found;
}

/* Every case has one row, and the verdict of that row. */
static void test_every_case_is_decided_as_the_table_says(void **state) {
  static const int looks[] = {0, LIFE_LOOKS_MAX - 1, LIFE_LOOKS_MAX};
  for (int kernel = M; kernel <= S; kernel++)
    for (int source = NONE; source <= ENDED; source++)
      for (int bits = 0; bits < 16; bits++)
        for (size_t i = 0; i < COUNT(looks); i++) {
          struct life l = {.kernel = (enum life_kernel)kernel,
                           .source = (enum life_source)source,
                           .hung_up = bits & 1,
                           .spoke = bits >> 1 & 1,
                           .numbered = bits >> 2 & 1,
                           .unheard = bits >> 3 & 1,
                           .nlooks = looks[i]};
          unsigned wait_ms = 0;
          const struct row *r = row_of(&l);
          assert_non_null(r);
          int verdict = life_decide(&l, &wait_ms);
          if (verdict != r->verdict || (verdict == LIFE_WAIT && wait_ms != r->wait_ms))
            fail_msg("%s: %d, %u ms", r->why, verdict, wait_ms);
        }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_case_is_decided_as_the_table_says),
  };
  return cmocka_run_group_tests_name("liveness", tests, NULL, NULL);
}
