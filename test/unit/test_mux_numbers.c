/* The numbers of channels, between a near end and an agent. After 2^30 channels of the near
 * end's its next number was 1 again, which the agent took for a lie: the link ended. */
#include "mux_kit.h"

#include "os/sock.h"
#include "remote/mux.h"
#include "remote/mux_channel.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NEAR, AGENT, WINDOW = 8192, TURNS = 1000, STAYING = 2 };

static struct mux muxes[2];
static uv_loop_t loop;
static struct turn turns;
static int users[2]; /* the other end of channel 1's local socket */
static int ended;

static int on_frame(struct mux *m, const struct link_frame *f) {
  return -EPROTO;
}

static void on_end(struct mux *m, const char *text) {
  ended++;
}

static const struct mux_ops ops = {.on_frame = on_frame, .on_end = on_end};

static void after(struct turn *t) {
  mux_after(&muxes[NEAR]);
  mux_after(&muxes[AGENT]);
}

static int setup(void **state) {
  int stream[2], local[2];
  signal(SIGPIPE, SIG_IGN);
  ended = 0;
  assert_int_equal(uv_loop_init(&loop), 0);
  assert_int_equal(turn_init(&turns, &loop, after), 0);
  assert_int_equal(sock_pair(stream, 0), 0);
  for (int i = NEAR; i <= AGENT; i++) {
    assert_int_equal(mux_init(&muxes[i], &turns, &ops, NULL, i == AGENT), 0);
    assert_int_equal(sock_pair(local, 0), 0);
    assert_int_equal(mux_open(&muxes[i], stream[i], fd_dup(stream[i])), 0);
    assert_int_equal(mux_add(&muxes[i], LINK_CHANNEL_ROOT, local[1], MUX_BOTH), 0);
    mux_begin(&muxes[i], WINDOW);
    users[i] = local[0];
  }
  channel_find(&muxes[NEAR], LINK_CHANNEL_ROOT)->opening.is_on =
      0; /* no process speaks */
  return 0;
}

static int teardown(void **state) {
  mux_shut(&muxes[AGENT]);
  mux_kit_end(&muxes[NEAR], &turns, &loop);
  mux_deinit(&muxes[AGENT]);
  close(users[NEAR]);
  close(users[AGENT]);
  return 0;
}

static void await_bytes(int fd) {
  struct pollfd p = {fd, POLLIN, 0};
  for (int i = 0; i < TURNS && poll(&p, 1, 0) == 0; i++)
    turn_once(&turns, 0);
  assert_int_equal(ended, 0);
  assert_int_equal(p.revents & POLLIN, POLLIN);
}

static void receive(int fd, struct fdset *fds) {
  char text;
  struct iovec iov = {&text, 1};
  int truncated;
  fdset_init(fds);
  await_bytes(fd);
  assert_int_equal(sock_recv_iov(fd, &iov, 1, 1, fds, &truncated), 1);
}

/* A socket from one side to the other; what is written here arrives there. ret_ends: both,
 * to be closed by the caller. */
static void pass_socket(int from, int ret_ends[2]) {
  struct iovec iov = {(void *)(uintptr_t) "x", 1};
  struct fdset fds;
  int pair[2];
  assert_int_equal(sock_pair(pair, 0), 0);
  assert_int_equal(sock_send(users[from], &iov, 1, pair, 1), 1);
  close(pair[0]);
  receive(users[!from], &fds);
  assert_int_equal(fds.n, 1);
  ret_ends[0] = pair[1];
  ret_ends[1] = fdset_steal(&fds, 0);
  assert_int_equal(write(ret_ends[0], "y", 1), 1);
  receive(ret_ends[1], &fds);
}

/* As if all numbers but some of the last had been used. */
static void go_near_the_end(int side) {
  uint32_t step = side == AGENT ? 2 : 4;
  muxes[side].next_id +=
      UINT32_MAX / step * step - 3 * step - muxes[side].next_id / step * step;
  muxes[!side].last_ids[0] = muxes[side].next_id - step;
}

static void numbers_begin_again(int side) {
  int staying[STAYING][2], ends[2];
  for (int i = 0; i < STAYING; i++)
    pass_socket(side, staying[i]);
  go_near_the_end(side);
  uint32_t first = muxes[side].next_id;
  for (int i = 0; i < 16; i++) {
    pass_socket(side, ends);
    close(ends[0]);
    close(ends[1]);
  }
  assert_true(muxes[side].next_id < first);
  for (int i = 0; i < STAYING; i++) { /* each has its own channel still */
    struct fdset fds;
    assert_int_equal(write(staying[i][1], "z", 1), 1);
    receive(staying[i][0], &fds);
    close(staying[i][0]);
    close(staying[i][1]);
  }
}

static void test_the_near_ends_numbers_begin_again(void **state) {
  numbers_begin_again(NEAR);
}

static void test_the_agents_numbers_begin_again(void **state) {
  numbers_begin_again(AGENT);
}

/* ---- a number that is free for one end, and not for the other ---- */

static uint32_t newest(int side) {
  return list_entry(muxes[side].channels.prev, struct mux_channel, link)->id;
}

/* The next number of that side is this one, as after a whole round. */
static void come_round_to(int side, uint32_t id) {
  muxes[side].next_id = id;
  muxes[!side].last_ids[0] = id - (side == AGENT ? 2 : 4);
}

static void turn_until_gone(int side, uint32_t id) {
  for (int i = 0; i < TURNS && mux_has(&muxes[side], id); i++)
    turn_once(&turns, 0);
  assert_false(mux_has(&muxes[side], id));
  assert_int_equal(ended, 0);
}

/* A channel of that side which is over there; here bytes of it wait for their reader,
 * ret_reader. Its number comes next. */
static uint32_t leave_unread(int side, int *ret_reader) {
  static const char bytes[WINDOW];
  int ends[2], room = 1;
  pass_socket(side, ends);
  uint32_t id = newest(side);
  struct mux_channel *there = channel_find(&muxes[!side], id);
  assert_int_equal(setsockopt(there->local.fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room),
                   0);
  assert_int_equal(write(ends[0], bytes, sizeof bytes - 1), sizeof bytes - 1);
  shutdown(ends[1], SHUT_WR);
  close(ends[0]);
  turn_until_gone(side, id);
  for (int i = 0; i < TURNS && !there->ended; i++)
    turn_once(&turns, 0);
  assert_true(there->ended && !there->sends && there->queued > 0);
  come_round_to(side, id);
  *ret_reader = ends[1];
  return id;
}

/* The agent took that number for a lie, and the link ended. */
static void reader_comes_late(int side) {
  char bytes[WINDOW];
  struct fdset fds;
  int reader, ends[2];
  uint32_t id = leave_unread(side, &reader);
  pass_socket(side, ends);
  assert_int_equal(newest(side), id);
  for (size_t n = 0; n < WINDOW - 1;) { /* and then its end */
    await_bytes(reader);
    ssize_t got = read(reader, bytes, sizeof bytes);
    assert_true(got > 0);
    n += (size_t)got;
  }
  await_bytes(reader);
  assert_int_equal(read(reader, bytes, sizeof bytes), 0);
  assert_int_equal(write(ends[1], "z", 1), 1);
  receive(ends[0], &fds);
  close(reader);
  close(ends[0]);
  close(ends[1]);
}

/* That nobody reads it any more was said with its number, which is another's now. */
static void reader_never_comes(int side) {
  struct fdset fds;
  int reader, ends[2];
  uint32_t id = leave_unread(side, &reader);
  pass_socket(side, ends);
  assert_int_equal(newest(side), id);
  unsigned nchannels = muxes[!side].nchannels;
  close(reader);
  for (int i = 0; i < TURNS && muxes[!side].nchannels == nchannels; i++)
    turn_once(&turns, 0);
  assert_int_equal(muxes[!side].nchannels, nchannels - 1);
  for (int i = 0; i < 4; i++)
    turn_once(&turns, 0);
  for (int i = 0; i < 2; i++) {
    assert_int_equal(write(ends[i], "z", 1), 1);
    receive(ends[!i], &fds);
  }
  close(ends[0]);
  close(ends[1]);
}

static void test_bytes_that_wait_keep_no_number_of_the_near_ends(void **state) {
  reader_comes_late(NEAR);
}

static void test_bytes_that_wait_keep_no_number_of_the_agents(void **state) {
  reader_comes_late(AGENT);
}

static void test_nothing_is_said_of_a_near_ends_channel_that_is_over(void **state) {
  reader_never_comes(NEAR);
}

static void test_nothing_is_said_of_an_agents_channel_that_is_over(void **state) {
  reader_never_comes(AGENT);
}

/* Frames of it may be under way. */
static void test_a_number_that_is_just_free_is_left_out(void **state) {
  for (int side = NEAR; side <= AGENT; side++) {
    int ends[2];
    pass_socket(side, ends);
    uint32_t id = newest(side);
    come_round_to(side, id);
    close(ends[0]);
    close(ends[1]);
    turn_until_gone(side, id);
    turn_until_gone(!side, id);
    pass_socket(side, ends);
    assert_int_equal(newest(side), id + (side == AGENT ? 2 : 4));
    close(ends[0]);
    close(ends[1]);
  }
}

/* Who uses one again whose channel is still there does not keep to the protocol: two
 * channels of one number would get each other's bytes. */
static void test_a_number_in_use_is_refused(void **state) {
  for (int side = NEAR; side <= AGENT; side++) {
    int ends[2];
    uint32_t step = side == AGENT ? 2 : 4;
    pass_socket(side, ends);
    uint32_t id = newest(side);
    come_round_to(side, id);
    assert_int_equal(channel_may_come(&muxes[!side], id), -EPROTO);
    assert_int_equal(channel_may_come(&muxes[!side], id + step), 0);
    muxes[side].next_id = id + step;
    close(ends[0]);
    close(ends[1]);
  }
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
  const struct CMUnitTest tests[] = {
      T(test_the_near_ends_numbers_begin_again),
      T(test_the_agents_numbers_begin_again),
      T(test_bytes_that_wait_keep_no_number_of_the_near_ends),
      T(test_bytes_that_wait_keep_no_number_of_the_agents),
      T(test_nothing_is_said_of_a_near_ends_channel_that_is_over),
      T(test_nothing_is_said_of_an_agents_channel_that_is_over),
      T(test_a_number_that_is_just_free_is_left_out),
      T(test_a_number_in_use_is_refused),
  };
  return cmocka_run_group_tests_name("mux_numbers", tests, NULL, NULL);
}
