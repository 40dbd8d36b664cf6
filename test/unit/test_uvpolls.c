/* Many watches by uv_polls of their own: a turn of the loop tells a bounded number, each
 * of the others comes before anyone comes twice, and who is not watched any more is not
 * told. */
#include "unit/unit.h"

#include "parent/loop/uvpolls.h"
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

enum { MANY = 3 * POLL_BATCH + 10 };

struct side {
  struct watch watch;
  int fd[2];
  int told, turn; /* how often, and last in which turn */
  unsigned ready;
  void (*then)(struct side *s);
};

static uv_loop_t loop;
static uv_prepare_t prepare;
static struct uvpolls polls;
static struct side sides[MANY];
static int turn, told_now;

static void on_prepare(uv_prepare_t *handle) {
  (void)handle;
  uvpolls_turn(&polls);
}

static void on_closed(void *owner) {
  ++*(int *)owner;
}

static void on_ready(struct watch *w, unsigned events) {
  struct side *s = (struct side *)(void *)w; /* its first member */
  s->told++;
  s->turn = turn;
  s->ready = events;
  told_now++;
  if (s->then)
    s->then(s);
}

static int nclosed;

static void open_all(int n) {
  assert_int_equal(uv_loop_init(&loop), 0);
  uv_prepare_init(&loop, &prepare);
  uv_prepare_start(&prepare, on_prepare);
  nclosed = turn = 0;
  uvpolls_init(&polls, &loop, on_closed, &nclosed);
  memset(sides, 0, sizeof sides);
  for (int i = 0; i < n; i++) {
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sides[i].fd), 0);
    sides[i].watch.on_ready = on_ready;
    assert_int_equal(uvpolls_watch(&polls, &sides[i].watch, sides[i].fd[0], WATCH_READ),
                     0);
  }
}

static void close_all(int n) {
  for (int i = 0; i < n; i++) {
    uvpolls_watch(&polls, &sides[i].watch, sides[i].fd[0], 0);
    fd_close(&sides[i].fd[0]);
    fd_close(&sides[i].fd[1]);
  }
  uv_close((uv_handle_t *)&prepare, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
  assert_int_equal(nclosed, n);
  assert_int_equal(polls.nclosing, 0);
  assert_int_equal(uv_loop_close(&loop), 0);
}

static int run_turn(void) {
  turn++;
  told_now = 0;
  uv_run(&loop, UV_RUN_NOWAIT);
  return told_now;
}

static void test_a_turn_is_bounded_and_all_have_theirs(void **state) {
  open_all(MANY);
  for (int i = 0; i < MANY; i++)
    assert_int_equal(write(sides[i].fd[1], "x", 1), 1);
  for (int i = 0; i < 3; i++) { /* nobody reads: all stay ready */
    assert_int_equal(run_turn(), POLL_BATCH);
    for (int k = 0; k < MANY; k++)
      assert_in_range(sides[k].told, 0, 1);
  }
  assert_int_equal(run_turn(), POLL_BATCH);
  for (int i = 0; i < MANY; i++)
    assert_in_range(sides[i].told, 1, 2);
  close_all(MANY);
}

static void let_go_of_the_rest(struct side *s) {
  for (int i = 0; i < MANY; i++)
    if (&sides[i] != s)
      uvpolls_watch(&polls, &sides[i].watch, sides[i].fd[0], 0);
}

static void test_what_is_let_go_of_is_not_told(void **state) {
  open_all(MANY);
  for (int i = 0; i < MANY; i++) {
    assert_int_equal(write(sides[i].fd[1], "x", 1), 1);
    sides[i].then = let_go_of_the_rest;
  }
  assert_int_equal(run_turn(), 1);
  for (int i = 0; i < 5; i++)
    run_turn();
  int who = 0;
  for (int i = 0; i < MANY; i++)
    who += sides[i].told > 0;
  assert_int_equal(who, 1);
  for (int i = 0; i < MANY; i++)
    assert_true(sides[i].told > 0 || sides[i].watch.impl == NULL);
  close_all(MANY);
}

static void stop(struct side *s) {
  uvpolls_watch(&polls, &s->watch, s->fd[0], 0);
}

/* Who was read meanwhile by another way is told in vain, and nobody waits for that. */
static void test_what_was_read_meanwhile_is_in_nobodys_way(void **state) {
  enum { SOME = POLL_BATCH + 2 };
  char c;
  open_all(SOME);
  for (int i = 0; i < SOME; i++)
    assert_int_equal(write(sides[i].fd[1], "x", 1), 1);
  assert_int_equal(run_turn(), POLL_BATCH);
  for (int i = 0; i < SOME; i++)
    assert_int_equal(read(sides[i].fd[0], &c, 1), 1);
  assert_int_equal(run_turn(), 0);
  int late = 0;
  for (int i = 0; i < SOME; i++)
    late += sides[i].told == 0;
  assert_int_equal(late, 2);
  assert_int_equal(write(sides[0].fd[1], "x", 1), 1);
  int before = sides[0].told;
  run_turn();
  assert_int_equal(sides[0].told, before + 1);
  close_all(SOME);
}

/* libuv stops a handle on POLLERR; the owner still wants what is there to read. */
static void test_a_reset_is_told_until_it_is_let_go_of(void **state) {
  open_all(1);
  assert_int_equal(write(sides[0].fd[0], "x", 1), 1);
  fd_close(&sides[0].fd[1]); /* with a byte unread: a reset */
  assert_int_equal(run_turn(), 1);
  assert_int_equal(sides[0].ready & WATCH_READ, WATCH_READ);
  assert_int_equal(run_turn(), 1);
  sides[0].then = stop;
  assert_int_equal(run_turn(), 1);
  assert_int_equal(run_turn(), 0);
  close_all(1);
}

static void test_writing_is_told_where_it_is_asked_for(void **state) {
  open_all(1);
  assert_int_equal(run_turn(), 0);
  assert_int_equal(
      uvpolls_watch(&polls, &sides[0].watch, sides[0].fd[0], WATCH_READ | WATCH_WRITE),
      0);
  assert_int_equal(run_turn(), 1);
  assert_int_equal(sides[0].ready, WATCH_WRITE);
  assert_int_equal(uvpolls_watch(&polls, &sides[0].watch, sides[0].fd[0], WATCH_READ), 0);
  assert_int_equal(run_turn(), 0);
  close_all(1);
}

/* libuv keeps two descriptors for itself from the first loop on. */
static int open_first_loop(void **state) {
  int r = uv_loop_init(&loop);
  return r < 0 ? r : uv_loop_close(&loop);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_a_turn_is_bounded_and_all_have_theirs),
      census_test(test_what_is_let_go_of_is_not_told),
      census_test(test_what_was_read_meanwhile_is_in_nobodys_way),
      census_test(test_a_reset_is_told_until_it_is_let_go_of),
      census_test(test_writing_is_told_where_it_is_asked_for),
  };
  return cmocka_run_group_tests_name("uvpolls", tests, open_first_loop, NULL);
}
