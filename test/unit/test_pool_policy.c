/* The decisions of a pool, as tables of numbers: who starts when, who stops when, who
 * gets the next call, when it is enough. */
#include "parent/pool/policy.h"
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>

static const struct policy_config standard = {
    .max = 4,
    .idle = 0,
    .load = 2,
    .start_ms = 100,
    .stop_ms = 10000,
    .restarts = {
        .burst = 5, .period_ms = 10000, .backoff_min_ms = 50, .backoff_max_ms = 5000}};

static struct policy p;

static void begin(struct policy_config c) {
  assert_int_equal(policy_init(&p, &c, 1), 0);
  assert_int_equal(policy_add_source(&p), 0);
}

/* Does what the policy wants at that time; new workers are ready at once when they may.
 * Gives how many were started less how many were stopped. */
static int obey(uint64_t now_ms, size_t nqueued, int ready) {
  int n = 0;
  for (;;) {
    struct policy_action a = policy_next(&p, now_ms, nqueued);
    if (a.act == POLICY_START) {
      int slot = policy_started(&p, a.source, now_ms);
      assert_true(slot >= 0);
      if (ready)
        policy_ready(&p, (unsigned)slot);
      n++;
    } else if (a.act == POLICY_STOP) {
      policy_leave(&p, a.slot);
      policy_ended(&p, a.slot, END_ASKED, now_ms);
      n--;
    } else {
      return n;
    }
  }
}

static void test_growth(void **state) {
  static const struct {
    int fresh; /* a new pool */
    unsigned max, idle, start_ms;
    uint64_t at_ms;
    size_t nqueued;
    unsigned workers;
  } rows[] = {
      {1, 4, 0, 200, 0, 0, 0},     {0, 4, 0, 200, 0, 20, 1},
      {0, 4, 0, 200, 199, 20, 1},  {0, 4, 0, 200, 200, 20, 2},
      {0, 4, 0, 200, 400, 20, 3},  {0, 4, 0, 200, 600, 20, 4},
      {0, 4, 0, 200, 9999, 20, 4}, {1, 3, 0, 0, 0, 20, 3},
      {1, 3, 2, 100, 0, 0, 2},     {1, 3, 3, 100, 0, 0, 3},
      {1, 0, 0, 100, 0, 20, 0},    {0, 0, 0, 100, 99999, 20, 0},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    if (rows[i].fresh) {
      struct policy_config c = standard;
      c.max = rows[i].max;
      c.idle = rows[i].idle;
      c.start_ms = rows[i].start_ms;
      policy_deinit(&p);
      begin(c);
    }
    obey(rows[i].at_ms, rows[i].nqueued, 0);
    assert_int_equal(policy_workers(&p), rows[i].workers);
  }
  policy_deinit(&p);
}

static void test_waiting_calls_wake_it_in_time(void **state) {
  begin(standard);
  obey(1000, 5, 0);
  assert_int_equal(policy_next(&p, 1000, 5).wake_ms, 1100);
  assert_true(policy_next(&p, 1000, 0).wake_ms == UINT64_MAX);
  policy_deinit(&p);
}

static void test_shrink(void **state) {
  static const struct {
    unsigned idle;
    uint64_t at_ms;
    unsigned workers;
  } steps[] = {{0, 0, 4},   {0, 399, 4},  {0, 400, 3},  {0, 799, 3},
               {0, 800, 2}, {0, 1200, 1}, {0, 1600, 0}, {2, 0, 4},
               {2, 400, 3}, {2, 800, 2},  {2, 1200, 2}, {2, 9999, 2}};
  for (size_t i = 0; i < COUNT(steps); i++) {
    if (steps[i].at_ms == 0) {
      struct policy_config c = standard;
      c.idle = steps[i].idle;
      c.stop_ms = 400;
      c.start_ms = 0;
      c.load = 1;
      if (i)
        policy_deinit(&p);
      begin(c);
      for (unsigned k = 0; k < 4; k++) {
        int slot = policy_started(&p, 0, 0);
        policy_ready(&p, (unsigned)slot);
      }
    }
    obey(steps[i].at_ms, 0, 1);
    assert_int_equal(policy_workers(&p), steps[i].workers);
  }
  policy_deinit(&p);
}

static void test_busy_workers_are_not_stopped(void **state) {
  struct policy_config c = standard;
  c.stop_ms = 0; /* honoured: at once */
  begin(c);
  obey(0, 1, 1);
  policy_give(&p, 0);
  assert_int_equal(obey(99999, 0, 1), 0);
  policy_take_back(&p, 0, 1);
  assert_int_equal(obey(99999, 0, 1), -1);
  policy_deinit(&p);
}

static void test_refused_by_name(void **state) {
  struct policy_config c = standard;
  c.load = 0;
  assert_int_equal(policy_init(&p, &c, 1), -EINVAL);
  c = standard;
  c.idle = 5;
  assert_int_equal(policy_init(&p, &c, 1), -EINVAL);
  c = standard;
  c.restarts.burst = POLICY_BURST_MAX + 1;
  assert_int_equal(policy_init(&p, &c, 1), -EINVAL);
  c = standard;
  c.restarts.backoff_max_ms = c.restarts.backoff_min_ms - 1;
  assert_int_equal(policy_init(&p, &c, 1), -EINVAL);
}

static void test_least_loaded_first(void **state) {
  static const int expected[] = {0, 1, 2, 0, 1, 2, -1};
  struct policy_config c = standard;
  c.idle = c.max = 3;
  begin(c);
  assert_int_equal(obey(0, 0, 1), 3);
  for (size_t i = 0; i < COUNT(expected); i++) {
    int slot = policy_pick(&p);
    assert_int_equal(slot, expected[i]);
    if (slot >= 0)
      policy_give(&p, (unsigned)slot);
  }
  policy_take_back(&p, 1, 1);
  assert_int_equal(policy_pick(&p), 1);
  policy_leave(&p, 1);
  assert_int_equal(policy_pick(&p), -1);
  policy_deinit(&p);
}

static void test_starting_workers_get_nothing(void **state) {
  begin(standard);
  obey(0, 1, 0);
  assert_int_equal(policy_pick(&p), -1);
  policy_ready(&p, 0);
  assert_int_equal(policy_pick(&p), 0);
  policy_deinit(&p);
}

/* One worker that dies again and again; gives how many deaths it took to fail, 0: none.
 */
static unsigned deaths_to_fail(unsigned burst, unsigned period_ms, unsigned every_ms,
                               int answers, enum policy_end how) {
  struct policy_config c = standard;
  unsigned n, failed = 0;
  c.restarts.burst = burst;
  c.restarts.period_ms = period_ms;
  begin(c);
  for (n = 1; n <= 50 && !failed; n++) {
    int slot = policy_started(&p, 0, n * every_ms);
    policy_ready(&p, (unsigned)slot);
    if (answers) {
      policy_give(&p, (unsigned)slot);
      policy_take_back(&p, (unsigned)slot, 1);
    }
    policy_ended(&p, (unsigned)slot, how, n * every_ms);
    if (p.failed)
      failed = n;
  }
  policy_deinit(&p);
  return failed;
}

static void test_restart_intensity(void **state) {
  static const struct {
    unsigned burst, period_ms, every_ms;
    int answers;
    enum policy_end how;
    unsigned deaths;
  } rows[] = {
      {5, 10000, 10, 0, END_DIED, 6},   {5, 10000, 2000, 0, END_DIED, 6},
      {5, 10000, 2001, 0, END_DIED, 0}, {0, 10000, 10, 0, END_DIED, 1},
      {1, 100, 50, 0, END_DIED, 2},     {5, 10000, 10, 1, END_DIED, 0},
      {5, 10000, 10, 0, END_ASKED, 0},  {5, 10000, 10, 0, END_NOT_STARTED, 0},
      {5, 0, 10, 0, END_DIED, 0},
  };
  for (size_t i = 0; i < COUNT(rows); i++)
    assert_int_equal(deaths_to_fail(rows[i].burst, rows[i].period_ms, rows[i].every_ms,
                                    rows[i].answers, rows[i].how),
                     rows[i].deaths);
}

static void test_failed_pool_starts_nobody_until_it_has_another_source(void **state) {
  begin(standard);
  policy_fail_source(&p, 0);
  assert_true(p.failed);
  assert_int_equal(obey(0, 5, 1), 0);
  assert_true(policy_next(&p, 0, 5).wake_ms == UINT64_MAX);
  assert_int_equal(policy_add_source(&p), 1);
  policy_drop_source(&p, 0);
  assert_false(p.failed);
  assert_int_equal(obey(0, 5, 1), 1);
  policy_deinit(&p);
}

static unsigned start_from(uint64_t now_ms) {
  struct policy_action a = policy_next(&p, now_ms, 100);
  assert_int_equal(a.act, POLICY_START);
  return a.source;
}

static void test_workers_are_spread_over_sources(void **state) {
  struct policy_config c = standard;
  unsigned slots[9], n[3] = {0};
  c.max = 9;
  c.start_ms = 0;
  begin(c);
  assert_int_equal(policy_add_source(&p), 1);
  assert_int_equal(policy_add_source(&p), 2);
  for (int i = 0; i < 9; i++) {
    unsigned source = start_from(0);
    slots[i] = (unsigned)policy_started(&p, source, 0);
    n[source]++;
    if (i % 3 == 2)
      assert_true(n[0] == n[1] && n[1] == n[2]);
  }
  for (int i = 0; i < 9; i += 3) /* all of source 0 */
    policy_ended(&p, slots[i], END_ASKED, 0);
  for (int i = 0; i < 3; i++) {
    assert_int_equal(start_from(0), 0);
    policy_started(&p, 0, 0);
  }
  policy_deinit(&p);
}

/* With room for one worker each has its turn. */
static void test_sources_take_turns(void **state) {
  struct policy_config c = standard;
  c.max = 1;
  begin(c);
  policy_add_source(&p);
  for (unsigned i = 0; i < 6; i++) {
    unsigned source = start_from(0);
    int slot = policy_started(&p, source, 0);
    assert_int_equal(source, i % 2);
    policy_ended(&p, (unsigned)slot, END_ASKED, 0);
  }
  policy_deinit(&p);
}

static void die_early(unsigned source, uint64_t now_ms) {
  int slot = policy_started(&p, source, now_ms);
  policy_ended(&p, (unsigned)slot, END_DIED, now_ms);
}

/* Its deaths are its own: the other one goes on at once, and the pool fails with both. */
static void test_a_source_that_fails_fails_alone(void **state) {
  begin(standard);
  policy_add_source(&p);
  die_early(0, 1000);
  assert_int_equal(start_from(1000), 1);
  for (int i = 0; i < 5; i++)
    die_early(0, 2000);
  assert_true(policy_source_has_failed(&p, 0));
  assert_false(policy_source_has_failed(&p, 1));
  assert_false(p.failed);
  for (uint64_t i = 0; i < 5; i++) {
    assert_int_equal(start_from(9000 + i * 6000), 1);
    die_early(1, 9000 + i * 6000);
  }
  assert_false(p.failed);
  for (int i = 0; i < 6; i++)
    die_early(1, 90000);
  assert_true(p.failed);
  policy_deinit(&p);
}

/* While both wait, the pool waits for the one that is sooner. */
static void test_the_sooner_of_two_backoffs(void **state) {
  begin(standard);
  policy_add_source(&p);
  die_early(0, 1000);
  die_early(0, 1000);
  die_early(1, 1020);
  assert_int_equal(policy_next(&p, 1020, 1).act, POLICY_WAIT);
  assert_int_equal(policy_next(&p, 1020, 1).wake_ms, 1070);
  assert_int_equal(start_from(1070), 1);
  policy_deinit(&p);
}

/* Those of a source that is dropped don't count for who gets its number. */
static void test_ends_of_a_dropped_source(void **state) {
  int slots[6];
  begin(standard);
  for (int i = 0; i < 6; i++)
    slots[i] = policy_started(&p, 0, 0);
  policy_drop_source(&p, 0);
  assert_int_equal(policy_add_source(&p), 0);
  for (int i = 0; i < 6; i++)
    policy_ended(&p, (unsigned)slots[i], END_DIED, 0);
  assert_false(p.failed);
  assert_int_equal(start_from(0), 0);
  policy_deinit(&p);
}

static void test_surplus_is_of_the_source_with_most(void **state) {
  begin(standard);
  policy_add_source(&p);
  assert_int_equal(policy_pick_surplus(&p, 1), -1);
  policy_started(&p, 0, 0);
  assert_int_equal(policy_pick_surplus(&p, 1),
                   -1); /* its place would only change hands */
  policy_started(&p, 0, 0);
  policy_ready(&p, 0);
  policy_ready(&p, 1);
  policy_give(&p, 0);
  assert_int_equal(policy_pick_surplus(&p, 1), 1);
  assert_int_equal(policy_pick_surplus(&p, 0), -1);
  policy_started(&p, 1, 0);
  assert_int_equal(policy_pick_surplus(&p, 1), -1);
  policy_deinit(&p);
}

/* The time at which the next worker may start, when one has just ended that was given a
 * call and answered it or not. */
static uint64_t after_a_death(uint64_t now, int answered, enum policy_end how) {
  int slot = policy_started(&p, 0, now);
  struct policy_action a;
  policy_ready(&p, (unsigned)slot);
  policy_give(&p, (unsigned)slot);
  policy_take_back(&p, (unsigned)slot, answered);
  policy_ended(&p, (unsigned)slot, how, now);
  a = policy_next(&p, now, 1);
  return a.act == POLICY_START ? now : a.wake_ms;
}

static void test_backoff(void **state) {
  static const struct {
    unsigned min_ms, max_ms;
    unsigned delays[10];
  } rows[] = {
      {50, 5000, {50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000}},
      {200, 300, {200, 300, 300, 300, 300, 300, 300, 300, 300, 300}},
      {0, 0, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
      {100, UINT32_MAX, {100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200}},
  };
  for (int how = END_NOT_STARTED; how <= END_DIED; how++) {
    for (size_t i = 0; i < COUNT(rows); i++) {
      struct policy_config c = standard;
      uint64_t now = 1000;
      c.restarts.burst = 1000;
      c.restarts.backoff_min_ms = rows[i].min_ms;
      c.restarts.backoff_max_ms = rows[i].max_ms;
      begin(c);
      for (size_t k = 0; k < COUNT(rows[i].delays); k++) {
        assert_int_equal(after_a_death(now, 0, (enum policy_end)how),
                         now + rows[i].delays[k]);
        now += rows[i].delays[k];
        assert_int_equal(policy_next(&p, now, 1).act, POLICY_START);
      }
      policy_deinit(&p);
    }
  }
}

/* One crash in ten calls doubled the delay to five seconds, as each worker had answered
 * less than sixteen. */
static void test_one_answer_ends_the_backoff(void **state) {
  struct policy_config c = standard;
  c.restarts.burst = 1000;
  begin(c);
  for (int i = 0; i < 100; i++)
    assert_int_equal(after_a_death(1000, 1, END_DIED), 1000);
  for (int i = 0; i < 10; i++)
    after_a_death(1000, 0, END_DIED);
  assert_int_equal(after_a_death(9000, 1, END_DIED), 9000);
  assert_int_equal(after_a_death(9000, 0, END_DIED), 9050);
  policy_deinit(&p);
}

/* While one works, another that dies again and again is replaced after the least delay,
 * but not faster. */
static void test_a_neighbours_answer_ends_the_backoff(void **state) {
  struct policy_config c = standard;
  int good;
  c.restarts.burst = 1000;
  begin(c);
  good = policy_started(&p, 0, 0);
  policy_ready(&p, (unsigned)good);
  policy_give(&p, (unsigned)good);
  policy_give(&p, (unsigned)good); /* it takes no more */
  for (int i = 0; i < 8; i++)
    after_a_death(1000, 0, END_DIED);
  assert_int_equal(policy_next(&p, 1000, 1).wake_ms, 6000);
  policy_take_back(&p, (unsigned)good, 1);
  policy_give(&p, (unsigned)good);
  assert_int_equal(policy_next(&p, 1000, 1).wake_ms, 1050);
  policy_deinit(&p);
}

/* A pool that may lose any number of workers by their calls waited for ever for one that
 * can't even be started. */
static void test_starts_that_come_to_nothing(void **state) {
  static const struct {
    unsigned starts, deaths;
    int other; /* another worker is ready */
    enum policy_end how;
    int failed;
  } rows[] = {
      {3, 3, 0, END_DIED, 0}, {3, 4, 0, END_DIED, 1},        {0, 40, 0, END_DIED, 0},
      {3, 9, 1, END_DIED, 0}, {3, 9, 0, END_NOT_STARTED, 0}, {3, 9, 0, END_ASKED, 0},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    struct policy_config c = standard;
    c.restarts.burst = 1000;
    c.restarts.starts = rows[i].starts;
    begin(c);
    if (rows[i].other)
      policy_ready(&p, (unsigned)policy_started(&p, 0, 0));
    for (unsigned n = 0; n < rows[i].deaths; n++)
      policy_ended(&p, (unsigned)policy_started(&p, 0, 0), rows[i].how, 0);
    assert_int_equal(p.failed, rows[i].failed);
    policy_deinit(&p);
  }
}

static void test_a_start_that_succeeds_ends_the_row(void **state) {
  struct policy_config c = standard;
  c.restarts.burst = 1000;
  c.restarts.starts = 3;
  begin(c);
  for (int i = 0; i < 20; i++) {
    int slot;
    for (int k = 0; k < 2; k++)
      policy_ended(&p, (unsigned)policy_started(&p, 0, 0), END_DIED, 0);
    policy_death(&p, 0, 1, 0); /* a fork that the template refused */
    slot = policy_started(&p, 0, 0);
    policy_ready(&p, (unsigned)slot);
    policy_ended(&p, (unsigned)slot, END_DIED, 0); /* by its call */
  }
  assert_false(p.failed);
  for (int k = 0; k < 4; k++)
    policy_death(&p, 0, 1, 0);
  assert_true(p.failed);
  policy_renew_source(&p, 0);
  assert_false(p.failed);
  policy_death(&p, 0, 1, 0);
  assert_false(p.failed);
  policy_deinit(&p);
}

static void test_recycling_has_jitter_and_a_replacement_at_once(void **state) {
  struct policy_config c = standard;
  unsigned least = 1000, most = 0;
  c.max_calls = 100;
  begin(c);
  for (int i = 0; i < 200; i++) {
    unsigned n = 0;
    int slot, over = 0;
    if (i == 0)
      assert_int_equal(obey(0, 1, 1), 1);
    slot = policy_pick(&p);
    assert_true(slot >= 0);
    while (!over) {
      policy_give(&p, (unsigned)slot);
      over = policy_take_back(&p, (unsigned)slot, 1);
      n++;
    }
    least = n < least ? n : least;
    most = n > most ? n : most;
    policy_replace(&p, (unsigned)slot);
    assert_int_equal(obey(0, 1, 1), 1); /* though start_ms is not over */
    policy_ended(&p, (unsigned)slot, END_ASKED, 0);
  }
  assert_true(least >= 75 && least < 85);
  assert_true(most <= 100 && most > 90);
  policy_deinit(&p);
}

static void test_resize_to_zero_and_back(void **state) {
  struct policy_config c = standard;
  c.idle = 2;
  begin(c);
  assert_int_equal(obey(0, 0, 1), 2);
  policy_give(&p, 0);
  assert_int_equal(policy_pick(&p), 1);
  policy_resize(&p, 0);
  assert_int_equal(policy_pick(&p), -1);
  assert_int_equal(obey(0, 3, 1), -2);
  assert_int_equal(policy_workers(&p), 0);
  assert_int_equal(obey(5000, 3, 1), 0);
  policy_resize(&p, 4);
  assert_int_equal(obey(5000, 3, 1), 2);
  policy_deinit(&p);
}

static void test_ending_keeps_nobody_idle(void **state) {
  struct policy_config c = standard;
  c.idle = 2;
  begin(c);
  obey(0, 0, 1);
  policy_give(&p, 0);
  policy_end(&p);
  assert_int_equal(obey(0, 0, 1), -1);
  policy_take_back(&p, 0, 1);
  assert_int_equal(obey(0, 0, 1), -1);
  assert_int_equal(obey(0, 1, 1), 1); /* a call that came back from the dead */
  policy_deinit(&p);
}

/* Counts stay true whatever happens in whatever order. */
static void test_random_events(void **state) {
  uint32_t rng = 12345;
  uint64_t now = 0;
#define RND(n) ((rng = rng * 1664525u + 1013904223u) >> 8) % (n)
  for (int round = 0; round < 300; round++) {
    struct policy_config c = standard;
    c.max = RND(6);
    c.idle = RND(c.max + 1);
    c.load = 1 + RND(3);
    c.start_ms = RND(50);
    c.stop_ms = RND(50);
    c.max_calls = RND(20);
    c.restarts.burst = 1000;
    begin(c);
    for (int step = 0; step < 400; step++) {
      unsigned slot = p.nslots ? RND(p.nslots) : 0, nready = 0, idle = 0;
      struct policy_slot *s = p.nslots ? p.slots[slot] : NULL;
      int pick = policy_pick(&p);
      now += RND(20);
      switch (RND(8)) {
      case 0:
        if (s)
          policy_ready(&p, slot);
        break;
      case 1:
        if (s && RND(4) == 0)
          policy_replace(&p, slot);
        break;
      case 2:
        while (s && s->state != SLOT_FREE && s->load)
          policy_take_back(&p, slot, 0);
        if (s && s->state != SLOT_FREE && RND(3) == 0)
          policy_ended(&p, slot, END_DIED, now);
        break;
      case 3:
      case 4:
        if (pick >= 0)
          policy_give(&p, (unsigned)pick);
        break;
      case 5:
        if (s && s->state != SLOT_FREE && s->load)
          policy_take_back(&p, slot, 1);
        break;
      default: {
        struct policy_action a = policy_next(&p, now, RND(3));
        if (a.act == POLICY_START)
          assert_true(policy_started(&p, 0, now) >= 0);
        else if (a.act == POLICY_STOP)
          policy_leave(&p, a.slot);
      }
      }
      for (unsigned i = 0; i < p.nslots; i++) {
        nready += p.slots[i]->state == SLOT_READY;
        idle += p.slots[i]->state == SLOT_READY && !p.slots[i]->load;
        assert_true(p.slots[i]->load <= c.load);
      }
      assert_int_equal(nready, p.nready);
      assert_int_equal(idle, p.nidle);
      assert_true(policy_workers(&p) <= c.max);
      pick = policy_pick(&p);
      if (pick >= 0)
        assert_int_equal(p.slots[pick]->state, SLOT_READY);
    }
    policy_deinit(&p);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_growth),
      cmocka_unit_test(test_waiting_calls_wake_it_in_time),
      cmocka_unit_test(test_shrink),
      cmocka_unit_test(test_busy_workers_are_not_stopped),
      cmocka_unit_test(test_refused_by_name),
      cmocka_unit_test(test_least_loaded_first),
      cmocka_unit_test(test_starting_workers_get_nothing),
      cmocka_unit_test(test_restart_intensity),
      cmocka_unit_test(test_failed_pool_starts_nobody_until_it_has_another_source),
      cmocka_unit_test(test_workers_are_spread_over_sources),
      cmocka_unit_test(test_sources_take_turns),
      cmocka_unit_test(test_a_source_that_fails_fails_alone),
      cmocka_unit_test(test_the_sooner_of_two_backoffs),
      cmocka_unit_test(test_ends_of_a_dropped_source),
      cmocka_unit_test(test_surplus_is_of_the_source_with_most),
      cmocka_unit_test(test_backoff),
      cmocka_unit_test(test_one_answer_ends_the_backoff),
      cmocka_unit_test(test_a_neighbours_answer_ends_the_backoff),
      cmocka_unit_test(test_starts_that_come_to_nothing),
      cmocka_unit_test(test_a_start_that_succeeds_ends_the_row),
      cmocka_unit_test(test_recycling_has_jitter_and_a_replacement_at_once),
      cmocka_unit_test(test_resize_to_zero_and_back),
      cmocka_unit_test(test_ending_keeps_nobody_idle),
      cmocka_unit_test(test_random_events),
  };
  return cmocka_run_group_tests_name("pool policy", tests, NULL, NULL);
}
