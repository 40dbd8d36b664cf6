/* The near end's side of a stream that the program writes to, too (remote/mux_shared.c):
 * no frame is torn, a program that is stopped while it writes delays large frames only,
 * its FORKs are channels before anything refers to them, and of other channels it writes
 * nothing before what it wrote to their sockets. */
#include "mux_kit.h"

#include "os/sock.h"
#include "remote/mux.h"
#include "wire/frame.h"
#include "wire/link_early.h"
#include "wire/proto.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LARGE = 100 * 1024, WINDOW = 256 * 1024, CHANNEL = 3, TOKEN = 9 };

static struct mux mux;
static struct link_page page;
static uv_loop_t loop;
static struct turn turns;
static int to_it, from_it, input, user; /* input: the program's copy of the stream */
static int ended;
static unsigned nanswered;
static uint64_t root_cookie;
static struct buf in;

static int on_frame(struct mux *m, const struct link_frame *f) {
  return -EPROTO;
}

static void on_end(struct mux *m, const char *text) {
  ended++;
}

static int make_socket(struct mux *m, uint32_t token, uint64_t *ret_cookie) {
  return -EMFILE;
}

static void on_unmade_end(struct mux *m, uint32_t token) {
  assert_int_equal(token, TOKEN);
  nanswered++;
}

static const struct mux_ops ops = {.on_frame = on_frame,
                                   .on_end = on_end,
                                   .make_socket = make_socket,
                                   .on_unmade_end = on_unmade_end};

static void after(struct turn *t) {
  mux_after(&mux);
  mux_release(&mux);
}

static int setup(void **state) {
  int down[2], up[2], local[2];
  ended = 0;
  nanswered = 0;
  memset(&page, 0, sizeof page);
  buf_init(&in, SIZE_MAX);
  assert_int_equal(uv_loop_init(&loop), 0);
  assert_int_equal(turn_init(&turns, &loop, after), 0);
  assert_int_equal(mux_init(&mux, &turns, &ops, NULL, 0), 0);
  assert_int_equal(pipe(down), 0);
  assert_int_equal(pipe(up), 0);
#ifdef F_SETPIPE_SZ
  (void)fcntl(up[0], F_SETPIPE_SZ, 1024 * 1024); /* as the near end's */
#endif
  assert_int_equal(sock_pair(local, 0), 0);
  to_it = down[1];
  from_it = up[0];
  user = local[0];
  assert_int_equal(fcntl(up[1], F_SETFL, O_NONBLOCK), 0);
  assert_int_equal(fcntl(from_it, F_SETFL, O_NONBLOCK), 0);
  input = dup(up[1]);
  assert_int_equal(mux_open(&mux, down[0], up[1]), 0);
  root_cookie = sock_cookie(local[1]);
  assert_int_equal(mux_add(&mux, LINK_CHANNEL_ROOT, local[1], MUX_BOTH), 0);
  mux_begin(&mux, WINDOW);
  mux_share(&mux, &page);
  after(&turns);
  assert_int_equal(page.is_claimed, 0);
  return 0;
}

static int teardown(void **state) {
  mux_kit_end(&mux, &turns, &loop);
  close(to_it);
  close(from_it);
  close(input);
  close(user);
  buf_deinit(&in);
  return 0;
}

/* Turns for so long, and at least so often: a busy machine may let the time pass without a
 * turn. What is due comes then in the next ones. */
static void turn_for(uint64_t ms) {
  enum { TURNS = 50 };
  uint64_t last = uv_hrtime() + ms * 1000000;
  for (unsigned turn = 0; turn < TURNS || uv_hrtime() < last; turn++) {
    turn_once(&turns, 0);
    ssize_t n = read(from_it, buf_reserve(&in, 65536), 65536);
    if (n > 0)
      buf_commit(&in, (size_t)n);
  }
}

/* The next frame that it has sent; 0: none. */
static unsigned next(struct link_frame *f) {
  turn_for(20);
  return link_next(&in, LINK_LAST, f) == 0 ? f->type : 0;
}

static void begin(void) {
  struct link_early e = {TOKEN, CHANNEL, 40};
  assert_int_equal(link_early_begin(&page, 0, &e), 1);
}

/* What stands for the FORK in the stream. */
static void write_fork(void) {
  unsigned char frame[LINK_HEADER_SIZE];
  link_put_header(frame, LINK_PING, 0, CHANNEL, 0);
  assert_int_equal(write(input, frame, sizeof frame), sizeof frame);
}

static void send_large(int to) {
  static unsigned char bytes[LARGE];
  for (size_t at = 0; at < sizeof bytes;) {
    ssize_t n = write(to, bytes + at, sizeof bytes - at);
    assert_true(n > 0);
    at += (size_t)n;
  }
}

static void test_a_program_that_is_stopped_delays_large_frames_only(void **state) {
  struct link_frame f;
  int other[2];
  begin();
  assert_int_equal(sock_pair(other, 0), 0);
  assert_int_equal(mux_add(&mux, LINK_NEAR_FIRST, other[1], MUX_BOTH), 0);
  mux_arm(&mux);
  send_large(user);
  assert_int_equal(next(&f), 0);
  assert_int_equal(write(other[0], "small", 5), 5);
  assert_int_equal(next(&f), LINK_DATA);
  assert_int_equal(f.channel, LINK_NEAR_FIRST);
  link_done(&in, &f);
  send_large(other[0]);
  assert_int_equal(next(&f), 0);
  assert_int_equal(mux_ping(&mux), 0);
  assert_int_equal(next(&f), LINK_PING);
  link_done(&in, &f);
  write_fork();
  link_early_end(&page, 0, 1);
  assert_int_equal(next(&f), LINK_PING);
  assert_int_equal(f.channel, CHANNEL);
  size_t npings = 0, n, got = 0;
  for (link_done(&in, &f); got < 2 * LARGE; link_done(&in, &f)) {
    unsigned type = next(&f);
    npings += type == LINK_PING;
    if (type != LINK_PING) {
      assert_int_equal(type, LINK_DATA);
      link_bytes(&f, &n);
      got += n;
    }
  }
  assert_true(npings <= 1);
  assert_int_equal(mux.root_sent, LARGE + 40);
  assert_int_equal(page.is_claimed, 0);
  assert_int_equal(ended, 0);
  close(other[0]);
}

/* With commands for the template, and bytes that wait for the claim, the near end tried again
 * at once, for ever: a program that a debugger had stopped there took a processor. */
static void test_a_program_that_is_stopped_is_waited_for_at_rest(void **state) {
  int other[2];
  unsigned nturns = 0;
  begin();
  assert_int_equal(sock_pair(other, 0), 0);
  assert_int_equal(mux_add(&mux, LINK_NEAR_FIRST, other[1], MUX_BOTH), 0);
  mux_arm(&mux);
  send_large(user);
  send_large(other[0]);
  turn_for(20);
  for (uint64_t last = uv_hrtime() + 100 * 1000000; !nturns || uv_hrtime() < last;
       nturns++)
    turn_once(&turns, 1);
  assert_in_range(nturns, 1, 200);
  write_fork();
  link_early_end(&page, 0, 1);
  turn_for(100);
  assert_int_equal(mux.root_sent, LARGE + 40);
  assert_int_equal(mux_backlog(&mux), 0);
  assert_int_equal(page.is_claimed, 0);
  close(other[0]);
}

#ifdef F_SETPIPE_SZ
/* What does not fit into the stream waits. */
static void test_the_claim_is_kept_while_a_frame_is_in_part_there(void **state) {
  struct link_early e = {TOKEN, CHANNEL, 40};
  assert_true(fcntl(from_it, F_SETPIPE_SZ, 16384) >= 16384);
  send_large(user);
  for (int i = 0; i < 20; i++)
    turn_once(&turns, 0);
  assert_int_equal(page.is_claimed, 1);
  assert_int_equal(link_early_begin(&page, 0, &e), 0);
  turn_for(100);
  assert_int_equal(page.is_claimed, 0);
  assert_int_equal(mux_backlog(&mux), 0);
}
#endif

static void say(unsigned type, uint32_t channel) {
  unsigned char frame[LINK_HEADER_SIZE];
  link_put_header(frame, type, 0, channel, 0);
  assert_int_equal(write(to_it, frame, sizeof frame), sizeof frame);
}

static void test_an_answer_comes_before_the_word(void **state) {
  begin();
  write_fork();
  say(LINK_RESET, CHANNEL);
  say(LINK_END, CHANNEL);
  turn_for(20);
  assert_int_equal(nanswered, 1);
  link_early_end(&page, 0, 1);
  say(LINK_PING, 0);
  turn_for(20);
  assert_int_equal(mux.nchannels, 1);
  assert_int_equal(nanswered, 1);
  assert_int_equal(ended, 0);
}

static void test_a_fork_that_nobody_wants_any_more(void **state) {
  begin();
  link_early_end(&page, 0, 1);
  mux_import(&mux);
  mux_forget_fork(&mux, TOKEN);
  assert_int_equal(nanswered, 1);
  assert_int_equal(mux.nchannels, 1);
}

static void test_a_record_that_lies_ends_the_link(void **state) {
  static const struct link_early lies[] = {{TOKEN, LINK_CHANNEL_ROOT, 40},
                                           {TOKEN, 4, 40},
                                           {TOKEN, CHANNEL, LINK_FORK_MAX + 1}};
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
    mux.over = ended = 0;
    assert_int_equal(link_early_begin(&page, (uint32_t)i, &lies[i]), 1);
    link_early_end(&page, (uint32_t)i, 1);
    mux_import(&mux);
    assert_int_equal(ended, 1);
  }
  assert_int_equal(mux.nchannels, 1);
}

/* ---- bytes of a channel ---- */

enum { PLACE = 3, TICKET = 7, FEW = 40 };

/* A channel of which the program writes bytes, too; its end of the socket. */
static int open_direct(void) {
  int pair[2];
  assert_int_equal(sock_pair(pair, 0), 0);
  uint64_t cookie = sock_cookie(pair[1]);
  assert_int_equal(mux_add(&mux, LINK_NEAR_FIRST, pair[1], MUX_BOTH), 0);
  if (!cookie) { /* a system without */
    close(pair[0]);
    skip();
  }
  mux_direct(&mux, PLACE, TICKET, cookie);
  assert_int_equal(page.direct[PLACE].ticket, 0); /* what is passed is not told yet */
  turn_for(5);
  return pair[0];
}

/* n: of those that were written before. */
static void write_piece(uint32_t n, uint32_t size, int is_said) {
  struct link_early e = {0, LINK_NEAR_FIRST, size};
  assert_int_equal(link_early_begin(&page, n, &e), 1);
  if (is_said)
    link_early_end(&page, n, 1);
}

static void grant(uint32_t channel, uint32_t size) {
  struct buf b;
  buf_init(&b, LINK_BODY_MAX);
  assert_int_equal(link_put(&b, LINK_WINDOW_MORE, channel, &size, 1), 0);
  assert_int_equal(write(to_it, buf_peek(&b), buf_size(&b)), buf_size(&b));
  buf_deinit(&b);
  turn_for(5);
}

static void test_what_was_written_to_a_socket_is_told_when_it_stands_there(void **state) {
  const struct link_direct *d = &page.direct[PLACE];
  struct link_frame f;
  int fd = open_direct();
  assert_int_equal(d->ticket, TICKET);
  assert_int_equal(d->channel, LINK_NEAR_FIRST);
  assert_int_equal(d->npassed, 0);
  assert_int_equal(d->limit, WINDOW);
  assert_int_equal(write(fd, "few", 3), 3);
  assert_int_equal(next(&f), LINK_DATA);
  assert_int_equal(d->npassed, 3);
  assert_int_equal(d->limit, WINDOW);
  write_piece(0, FEW, 1);
  mux_import(&mux);
  turn_for(5);
  assert_int_equal(d->npassed, 3);
  assert_int_equal(d->limit, WINDOW);
  assert_int_equal(page.ntaken, 1);
  grant(LINK_NEAR_FIRST, 3 + FEW);
  assert_int_equal(d->limit, WINDOW + 3 + FEW);
  assert_int_equal(ended, 0);
  close(fd);
}

#ifdef F_SETPIPE_SZ
static void test_bytes_that_wait_for_the_stream_are_not_passed(void **state) {
  const struct link_direct *d = &page.direct[PLACE];
  struct link_early e = {0, LINK_NEAR_FIRST, FEW};
  int fd = open_direct();
  assert_true(fcntl(from_it, F_SETPIPE_SZ, 16384) >= 16384);
  send_large(fd);
  for (int i = 0; i < 20; i++)
    turn_once(&turns, 0);
  assert_int_equal(d->npassed, 0);
  assert_int_equal(link_early_begin(&page, 0, &e), 0);
  turn_for(100);
  assert_int_equal(d->npassed, LARGE);
  assert_int_equal(link_early_begin(&page, 0, &e), 1);
  close(fd);
}
#endif

/* The agent has read them, and written them to its socket. */
static void test_a_window_for_bytes_that_are_not_said_to_be_written(void **state) {
  int fd = open_direct();
  write_piece(0, FEW, 0);
  grant(LINK_NEAR_FIRST, FEW);
  assert_int_equal(ended, 0);
  assert_int_equal(page.direct[PLACE].limit, WINDOW + FEW);
  link_early_end(&page, 0, 1);
  grant(LINK_NEAR_FIRST, FEW);
  assert_int_equal(ended, 1); /* for nothing */
  close(fd);
}

/* The near end reads no socket while the program writes: what it knows of the window is
 * too much then. */
static void test_a_socket_is_not_read_while_the_program_writes(void **state) {
  struct link_frame f;
  int fd = open_direct();
  write_piece(0, FEW, 0);
  assert_int_equal(write(fd, "few", 3), 3);
  assert_int_equal(next(&f), 0);
  link_early_end(&page, 0, 1);
  assert_int_equal(next(&f), LINK_DATA);
  assert_int_equal(page.direct[PLACE].npassed, 3);
  assert_int_equal(page.direct[PLACE].limit, WINDOW);
  close(fd);
}

static void test_a_ticket_ends_with_its_channel(void **state) {
  int fd = open_direct();
  say(LINK_RESET, LINK_NEAR_FIRST);
  turn_for(5);
  assert_int_equal(page.direct[PLACE].ticket, 0);
  write_piece(0, WINDOW + 1, 1); /* of which nothing is known any more */
  mux_import(&mux);
  assert_int_equal(ended, 0);
  close(fd);
}

/* Of a channel that is freed nothing is told. */
static void test_a_ticket_ends_with_its_link(void **state) {
  int fd = open_direct();
  mux_drop_all(&mux);
  assert_int_equal(page.direct[PLACE].ticket, 0);
  assert_null(mux.direct[PLACE]);
  close(fd);
}

static void test_a_place_is_another_sockets(void **state) {
  int fd = open_direct(), pair[2];
  assert_int_equal(sock_pair(pair, 0), 0);
  assert_int_equal(mux_add(&mux, LINK_NEAR_FIRST + 4, pair[1], MUX_BOTH), 0);
  mux_direct(&mux, PLACE, TICKET + 1, sock_cookie(pair[1]));
  turn_for(5);
  assert_int_equal(page.direct[PLACE].ticket, TICKET + 1);
  assert_int_equal(page.direct[PLACE].channel, LINK_NEAR_FIRST + 4);
  mux_direct(&mux, PLACE, TICKET + 2, sock_cookie(user)); /* nobody's here */
  mux_direct(&mux, PLACE + 1, TICKET + 3, 0);
  mux_direct(&mux, PLACE + 2, TICKET + 4, root_cookie); /* where its FORKs are counted */
  turn_for(5);
  assert_int_equal(page.direct[PLACE].ticket, 0);
  assert_int_equal(page.direct[PLACE + 1].ticket, 0);
  assert_int_equal(page.direct[PLACE + 2].ticket, 0);
  close(pair[0]);
  close(fd);
}

static void test_more_than_the_window_ends_the_link(void **state) {
  int fd = open_direct();
  write_piece(0, WINDOW + 1, 1);
  mux_import(&mux);
  assert_int_equal(ended, 1);
  close(fd);
}

enum { WORD = FRAME_HEADER_SIZE };

/* So many bytes of the root's, and a descriptor with them. */
static void say_bytes(const unsigned char *bytes, size_t n, unsigned nfds) {
  const struct link_descriptor d = {.kind = LINK_REFUSED};
  unsigned char head[LINK_HEADER_SIZE + LINK_DESCRIPTOR_SIZE];
  size_t list = nfds * (size_t)LINK_DESCRIPTOR_SIZE;
  link_put_header(head, LINK_DATA, nfds, LINK_CHANNEL_ROOT, (uint32_t)(list + n));
  link_put_descriptor(head + LINK_HEADER_SIZE, &d);
  assert_int_equal(write(to_it, head, LINK_HEADER_SIZE + list), LINK_HEADER_SIZE + list);
  assert_int_equal(write(to_it, bytes, n), n);
}

static int receive_fds(size_t n) {
  static unsigned char bytes[4 * WORD];
  struct iovec iov = {bytes, n};
  struct fdset fds;
  int truncated, nfds;
  fdset_init(&fds);
  assert_int_equal(sock_recv_iov(user, &iov, 1, 0, &fds, &truncated), n);
  nfds = fds.n;
  fdset_close(&fds);
  return nfds;
}

/* A template that runs a function itself has used up its window inside of the word that it
 * is entered, at each of its bytes: the agent reads the rest of it together with the
 * function's first bytes and their descriptor. Who reads the word got that, and the run
 * failed with "malformed frame". */
static void test_a_handle_behind_a_word_that_is_cut(void **state) {
  unsigned char bytes[2 * WORD + 1];
  frame_encode(bytes, &(struct frame){.type = ANS_DONE, .id = 1});
  frame_encode(bytes + WORD, &(struct frame){.type = ANS_RUNNING, .id = 2});
  bytes[2 * WORD] = 'x';
  for (size_t cut = 0; cut <= 2 * WORD; cut++) {
    teardown(state);
    setup(state);
    if (cut)
      say_bytes(bytes, cut, 0);
    say_bytes(bytes + cut, sizeof bytes - cut, 1);
    turn_for(5);
    assert_int_equal(receive_fds(WORD), 0);
    assert_int_equal(receive_fds(WORD), 0);
    assert_int_equal(receive_fds(1), 1);
    say_bytes(bytes, sizeof bytes, 1); /* what the function sends is no word */
    turn_for(5);
    assert_int_equal(receive_fds(1), 1);
    assert_int_equal(receive_fds(2 * WORD), 0);
    assert_int_equal(ended, 0);
  }
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
  const struct CMUnitTest tests[] = {
      TEST(test_a_program_that_is_stopped_delays_large_frames_only),
      TEST(test_a_program_that_is_stopped_is_waited_for_at_rest),
#ifdef F_SETPIPE_SZ
      TEST(test_the_claim_is_kept_while_a_frame_is_in_part_there),
#endif
      TEST(test_an_answer_comes_before_the_word),
      TEST(test_a_fork_that_nobody_wants_any_more),
      TEST(test_a_record_that_lies_ends_the_link),
      TEST(test_what_was_written_to_a_socket_is_told_when_it_stands_there),
#ifdef F_SETPIPE_SZ
      TEST(test_bytes_that_wait_for_the_stream_are_not_passed),
#endif
      TEST(test_a_window_for_bytes_that_are_not_said_to_be_written),
      TEST(test_a_socket_is_not_read_while_the_program_writes),
      TEST(test_a_ticket_ends_with_its_channel),
      TEST(test_a_ticket_ends_with_its_link),
      TEST(test_a_place_is_another_sockets),
      TEST(test_more_than_the_window_ends_the_link),
      TEST(test_a_handle_behind_a_word_that_is_cut),
  };
  return cmocka_run_group_tests_name("mux shared", tests, NULL, NULL);
}
