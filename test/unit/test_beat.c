/* Signs of life. An end that had not run for more than a beat, and heard the other in the turn
 * in which it ran again, added the time that it had slept through to the time at which it
 * had heard it: that was later than now, and it took the other for silent for 1.84e+16 s. */
#include "mux_kit.h"

#include "os/proc.h"
#include "os/sock.h"
#include "remote/beat.h"
#include <errno.h>
#include <poll.h>
#include <unistd.h>

enum { BEAT_MS = 20, WINDOW = 8192 };

static struct mux mux;
static struct beat beat;
static uv_loop_t loop;
static struct turn turns;
static int other; /* end of the stream */
static int nended;

static int on_frame(struct mux *m, const struct link_frame *f) {
  return -EPROTO;
}

static void on_end(struct mux *m, const char *text) {
  nended++;
}

static const struct mux_ops ops = {.on_frame = on_frame, .on_end = on_end};

static void after(struct turn *t) {
  mux_after(&mux);
}

static int setup(void **state) {
  int stream[2];
  nended = 0;
  assert_int_equal(uv_loop_init(&loop), 0);
  assert_int_equal(turn_init(&turns, &loop, after), 0);
  assert_int_equal(sock_pair(stream, 0), 0);
  assert_int_equal(mux_init(&mux, &turns, &ops, NULL, 0), 0);
  assert_int_equal(mux_open(&mux, stream[0], fd_dup(stream[0])), 0);
  mux_begin(&mux, WINDOW);
  other = stream[1];
  uv_update_time(&loop);
  beat_start(&beat, &mux, BEAT_MS, NULL);
  turn_once(&turns, 0);
  return 0;
}

static int teardown(void **state) {
  mux_kit_end(&mux, &turns, &loop);
  close(other);
  return 0;
}

static void say_ping(void) {
  unsigned char ping[LINK_HEADER_SIZE];
  link_put_header(ping, LINK_PING, 0, 0, 0);
  assert_int_equal(write(other, ping, sizeof ping), sizeof ping);
}

/* As if this process had been stopped for so many beats. */
static void sleep_beats(int n) {
  uint64_t end = proc_now_ns() + (uint64_t)n * BEAT_MS * 1000000;
  while (proc_now_ns() < end)
    (void)poll(NULL, 0, BEAT_MS);
}

static void test_what_is_heard_in_the_turn_after_a_long_sleep_counts(void **state) {
  for (int i = 0; i < 3; i++) {
    say_ping();
    sleep_beats(4);
    turn_once(&turns, 0); /* reads it, and a beat is due */
    assert_int_equal(nended, 0);
    assert_true(mux.heard_ms <= mux_now_ms(&mux));
  }
}

static void test_time_that_was_slept_through_does_not_count(void **state) {
  sleep_beats(8);
  turn_once(&turns, 0);
  assert_int_equal(nended, 0);
}

static void test_silence_ends_the_link(void **state) {
  uint64_t end = proc_now_ns() + 10000000000u;
  while (!nended && proc_now_ns() < end)
    turn_once(&turns, 1);
  assert_int_equal(nended, 1);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
  const struct CMUnitTest tests[] = {
      T(test_what_is_heard_in_the_turn_after_a_long_sleep_counts),
      T(test_time_that_was_slept_through_does_not_count),
      T(test_silence_ends_the_link),
  };
  return cmocka_run_group_tests_name("beat", tests, NULL, NULL);
}
