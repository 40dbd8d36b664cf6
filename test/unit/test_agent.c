/* When the agent tells of ends: its file is part of this program. */
#include "unit.h"
#include <sys/wait.h>

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

/* In a child, with the stream's other ends here: it ends. */
static pid_t fork_agent(int *ret_to, int *ret_from) {
  int in[2], out[2];
  assert_int_equal(pipe(in), 0);
  assert_int_equal(pipe(out), 0);
  pid_t pid = fork();
  if (pid == 0) {
    close(in[1]);
    close(out[0]);
    mux_open(&mux, in[0], out[1]);
    say_hello();
    return 0;
  }
  close(in[0]);
  close(out[1]);
  *ret_to = in[1];
  *ret_from = out[0];
  return pid;
}

static void write_all(int fd, const struct buf *b) {
  assert_int_equal(write(fd, buf_peek(b), buf_size(b)), buf_size(b));
}

/* A connection that was lost between both greetings: the agent stayed as long as it did. */
static void test_an_agent_that_nobody_greets_ends(void **state) {
  int to, from, status;
  pid_t pid = fork_agent(&to, &from);
  if (pid == 0) {
    uint64_t due_ms = uv_timer_get_due_in(&ungreeted);
    if (due_ms > 0 && due_ms <= UNGREETED_MS)
      ungreeted.timer_cb(&ungreeted);
    _exit(77);
  }
  unsigned char said[512];
  ssize_t n = read(from, said, sizeof said), more;
  while (n > 0 && (more = read(from, said + n, sizeof said - (size_t)n)) > 0)
    n += more;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(WEXITSTATUS(status), 1);
  assert_true(n > LINK_MARKER_SIZE);
  assert_memory_equal(said, LINK_MARKER, LINK_MARKER_SIZE);
  assert_non_null(memmem(said, (size_t)n, "has greeted the agent", 21));
  close(to);
  close(from);
}

/* What lies in the stream when the time is over counts: an agent that was stopped. */
static void test_a_greeting_that_was_not_read_in_time_counts(void **state) {
  static char none_program[] = "/bin/true", *none[] = {none_program, NULL};
  struct buf hello;
  int to, from, status;
  words = none;
  program = none[0];
  buf_init(&hello, LINK_BODY_MAX);
  assert_int_equal(link_put_hello(&hello, LINK_BEAT_MS, LINK_WINDOW), 0);
  int go[2];
  assert_int_equal(pipe(go), 0);
  pid_t pid = fork_agent(&to, &from);
  if (pid == 0) {
    char byte;
    if (read(go[0], &byte, 1) == 1)
      ungreeted.timer_cb(&ungreeted);
    _exit(mux.greeted && !uv_is_active((uv_handle_t *)&ungreeted) ? 78 : 77);
  }
  write_all(to, &hello);
  assert_int_equal(write(go[1], "x", 1), 1);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(WEXITSTATUS(status), 78);
  buf_deinit(&hello);
  close(to);
  close(from);
  close(go[0]);
  close(go[1]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_no_end_waits_for_the_birth_of_its_own_process,
                                      setup, teardown),
      cmocka_unit_test_setup_teardown(test_the_clock_of_a_row_goes_on_when_an_end_is_told,
                                      setup, teardown),
      cmocka_unit_test_setup_teardown(test_an_agent_that_nobody_greets_ends, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_a_greeting_that_was_not_read_in_time_counts,
                                      setup, teardown),
  };
  return cmocka_run_group_tests_name("agent", tests, NULL, NULL);
}
