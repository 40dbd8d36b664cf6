/* When the agent tells of ends: its file is part of this program. */
#include "unit.h"

#undef fail /* of cmocka */
#include "../../src/remote/agent.c"

static void after_nothing(struct turn *t) {
}

static int setup(void **state) {
  int unused;
  assert_int_equal(turn_init(&turn, uv_default_loop(), after_nothing), 0);
  assert_int_equal(mux_init(&mux, &turn, &ops, NULL, 1), 0);
  intake_init(&intake, &mux, &intake_ops, &unused);
  fd_close(&unused);
  fd_close(&intake.fd);
  uv_timer_init(turn.loop, &late);
  tables_init(&tables, &tables_ops);
  return 0;
}

static int teardown(void **state) {
  uv_timer_stop(&late);
  buf_deinit(&tables.ended);
  mux_deinit(&mux);
  turn_deinit(&turn);
  return 0;
}

/* An end that can be told, right after a FORK. */
static void end_near_a_birth(unsigned nwaiting) {
  intake.nwaiting = nwaiting;
  mux.passed_ms = mux_now_ms(&mux);
  assert_int_equal(buf_put(&tables.ended, "end", 3), 0);
  nlate = 3;
}

/* It was held back for a millisecond by the birth of that very process, which had told its
 * return already. Others that are being born hold it back still. */
static void test_no_end_waits_for_the_birth_of_its_own_process(void **state) {
  end_near_a_birth(2);
  before_end(&intake);
  assert_true(mux.passed_ms > 0);
  intake.nwaiting = 1;
  before_end(&intake);
  assert_true(mux.passed_ms == 0);
  pass_late();
  assert_int_equal(nlate, 0);
  assert_int_equal(buf_size(&mux.out), 3);
}

/* The report of an end stopped the clock that ends a row: no child was heard any more. */
static void test_the_clock_of_a_row_goes_on_when_an_end_is_told(void **state) {
  is_row = 1;
  uv_timer_start(&late, on_late, UNHEARD_MS, 0);
  end_near_a_birth(1);
  put_late();
  assert_true(uv_is_active((uv_handle_t *)&late));
  is_row = 0;
  end_near_a_birth(1);
  put_late();
  assert_false(uv_is_active((uv_handle_t *)&late));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_no_end_waits_for_the_birth_of_its_own_process,
                                      setup, teardown),
      cmocka_unit_test_setup_teardown(test_the_clock_of_a_row_goes_on_when_an_end_is_told,
                                      setup, teardown),
  };
  return cmocka_run_group_tests_name("agent", tests, NULL, NULL);
}
