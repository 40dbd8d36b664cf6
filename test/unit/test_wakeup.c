/* When a template takes SCHED_BATCH: what follows from how long it waited. */
#include "unit/unit.h"

#include "template/server/wakeup.h"
#include <stddef.h>

/* So many forks, each of which the template waited for so long. Returns after how many of
 * them it had the policy. */
static int forks(struct wakeup_plan *p, uint64_t *delayed_ns, int n, uint64_t each_ns) {
  int nwanted = 0;
  for (int i = 0; i < n; i++) {
    *delayed_ns += each_ns;
    if (wakeup_plan_is_due(p))
      wakeup_plan_look(p, *delayed_ns);
    nwanted += p->wanted;
  }
  return nwanted;
}

static void test_is_wanted_from_the_first_fork(void **state) {
  (void)state;
  struct wakeup_plan p = {0};
  uint64_t delayed = 12345678; /* while it was started */
  assert_int_equal(forks(&p, &delayed, 10000, WAKEUP_LATE_NS), 10000);
}

static void test_pauses_when_it_waits_long(void **state) {
  (void)state;
  struct wakeup_plan p = {0};
  uint64_t delayed = 0;
  unsigned pause = WAKEUP_PAUSE;
  forks(&p, &delayed, 1, 0);
  for (int i = 0; i < 10; i++) {
    assert_int_equal(p.wanted, 1);
    assert_int_equal(forks(&p, &delayed, WAKEUP_TRIAL, WAKEUP_LATE_NS + 1),
                     WAKEUP_TRIAL - 1);
    assert_int_equal(p.left, pause);
    assert_int_equal(forks(&p, &delayed, (int)pause, 0),
                     1); /* the last one tries again */
    pause = pause < WAKEUP_PAUSE_MAX ? 2 * pause : WAKEUP_PAUSE_MAX;
  }
  assert_int_equal(pause, WAKEUP_PAUSE_MAX);
}

/* A trial that lasts shows nothing yet; the first whole period does. */
static void test_forgets_old_waits(void **state) {
  (void)state;
  struct wakeup_plan p = {0};
  uint64_t delayed = 0;
  forks(&p, &delayed, 1, 0);
  forks(&p, &delayed, WAKEUP_TRIAL, 10 * WAKEUP_LATE_NS);
  forks(&p, &delayed, WAKEUP_PAUSE,
        10 * WAKEUP_LATE_NS); /* without it waits don't count */
  assert_int_equal(p.wanted, 1);
  forks(&p, &delayed, WAKEUP_TRIAL, 0);
  assert_int_equal(p.pause, WAKEUP_PAUSE);
  forks(&p, &delayed, WAKEUP_LOOK, 0);
  assert_int_equal(p.pause, 0);
  forks(&p, &delayed, WAKEUP_LOOK, WAKEUP_LATE_NS + 1);
  assert_int_equal(p.left, WAKEUP_PAUSE);
}

/* One long wait among many forks is no reason. */
static void test_takes_the_average(void **state) {
  (void)state;
  struct wakeup_plan p = {0};
  uint64_t delayed = 0;
  forks(&p, &delayed, 1 + WAKEUP_TRIAL, 0);
  delayed += (uint64_t)(WAKEUP_LOOK - 1) * WAKEUP_LATE_NS;
  assert_int_equal(forks(&p, &delayed, WAKEUP_LOOK, 0), WAKEUP_LOOK);
  delayed += (uint64_t)(WAKEUP_LOOK + 1) * WAKEUP_LATE_NS;
  assert_int_equal(forks(&p, &delayed, WAKEUP_LOOK, 0), WAKEUP_LOOK - 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_is_wanted_from_the_first_fork),
      cmocka_unit_test(test_pauses_when_it_waits_long),
      cmocka_unit_test(test_forgets_old_waits),
      cmocka_unit_test(test_takes_the_average),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
