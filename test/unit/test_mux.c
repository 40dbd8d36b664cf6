/* One end of a link against a peer that is played here, byte by byte: what it may do, and
 * what ends it. The same for both ends, but for the numbers of channels. */
#include "mux_kit.h"

#include "os/sock.h"
#include "remote/mux.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#include <unistd.h>

enum { WINDOW = 8192 };

static struct mux mux;
static uv_loop_t loop;
static struct turn turns;
static int peer, user; /* the other end of the stream; of channel 1's local socket */
static int mine;       /* that local socket */
static int ended, nquiet;
static char why[128];
static struct buf out;

static int on_frame(struct mux *m, const struct link_frame *f) {
  return f->type == LINK_MEASURED ? 0 : -EPROTO;
}

static void on_end(struct mux *m, const char *text) {
  ended++;
  snprintf(why, sizeof why, "%s", text ? text : "end of stream");
}

static void on_quiet(struct mux *m) {
  nquiet++;
  link_put(&m->out, LINK_PING, 0, NULL, 0);
}

static int nbefore, nopen; /* before_local, and whether the user's socket was open then */

static void before_local(struct mux *m) {
  struct pollfd p = {user, POLLIN, 0};
  nbefore++;
  nopen += poll(&p, 1, 0) == 0;
}

static int made, nended; /* the other end of what make_socket made */
static uint32_t made_for, ended_token;

static int make_socket(struct mux *m, uint32_t token, uint64_t *ret_cookie) {
  int pair[2];
  assert_int_equal(sock_pair(pair, 0), 0);
  made = pair[0];
  made_for = token;
  return pair[1];
}

static void on_unmade_end(struct mux *m, uint32_t token) {
  nended++;
  ended_token = token;
}

static const struct mux_ops ops = {.on_frame = on_frame,
                                   .make_socket = make_socket,
                                   .on_unmade_end = on_unmade_end,
                                   .on_end = on_end,
                                   .before_local = before_local,
                                   .on_quiet = on_quiet};

static void after(struct turn *t) {
  mux_after(&mux);
}

static int setup(void **state) {
  int stream[2], local[2];
  ended = nquiet = 0;
  buf_init(&out, SIZE_MAX);
  assert_int_equal(uv_loop_init(&loop), 0);
  assert_int_equal(turn_init(&turns, &loop, after), 0);
  assert_int_equal(mux_init(&mux, &turns, &ops, NULL, 1), 0);
  assert_int_equal(sock_pair(stream, 0), 0);
  assert_int_equal(sock_pair(local, 0), 0);
  peer = stream[0];
  user = local[0];
  mine = local[1];
  assert_int_equal(mux_open(&mux, stream[1], fd_dup(stream[1])), 0);
  assert_int_equal(mux_add(&mux, LINK_CHANNEL_ROOT, local[1], MUX_BOTH), 0);
  mux_begin(&mux, WINDOW);
  return 0;
}

static int teardown(void **state) {
  mux_kit_end(&mux, &turns, &loop);
  close(peer);
  close(user);
  buf_deinit(&out);
  return 0;
}

static void turn(void) {
  for (int i = 0; i < 8; i++)
    turn_once(&turns, 0);
}

static void send_out(void) {
  while (buf_size(&out)) {
    ssize_t n = send(peer, buf_peek(&out), buf_size(&out), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n <= 0)
      break;
    buf_consume(&out, (size_t)n);
    turn();
  }
  turn();
}

static void put_data(uint32_t channel, size_t n, const struct link_descriptor *d,
                     unsigned nd) {
  size_t list = (size_t)nd * LINK_DESCRIPTOR_SIZE;
  unsigned char *at = buf_reserve(&out, LINK_HEADER_SIZE + list + n);
  link_put_header(at, LINK_DATA, nd, channel, (uint32_t)(list + n));
  for (unsigned i = 0; i < nd; i++)
    link_put_descriptor(at + LINK_HEADER_SIZE + (size_t)i * LINK_DESCRIPTOR_SIZE, &d[i]);
  memset(at + LINK_HEADER_SIZE + list, 'd', n);
  buf_commit(&out, LINK_HEADER_SIZE + list + n);
}

/* The next frame that the end has sent; type 0: none. */
static struct link_frame receive(void) {
  static struct buf in;
  struct link_frame f = {0};
  static uint32_t last;
  turn();
  if (last)
    buf_consume(&in, last);
  last = 0;
  if (!in.max)
    buf_init(&in, SIZE_MAX);
  unsigned char *at = buf_reserve(&in, 1 << 20);
  ssize_t n = recv(peer, at, 1 << 20, MSG_DONTWAIT);
  if (n > 0)
    buf_commit(&in, (size_t)n);
  if (link_next(&in, LINK_LAST, &f) != 0)
    return (struct link_frame){0};
  last = LINK_HEADER_SIZE + f.length;
  return f;
}

static void drain(void) {
  while (receive().type)
    ;
}

static void assert_broken(void) {
  send_out();
  assert_int_equal(ended, 1);
  assert_non_null(strstr(why, "the near end does not keep to the protocol"));
}

static void test_bytes_go_both_ways(void **state) {
  char text[8];
  put_data(LINK_CHANNEL_ROOT, 4, NULL, 0);
  send_out();
  assert_int_equal(read(user, text, sizeof text), 4);
  assert_int_equal(write(user, "hello", 5), 5);
  struct link_frame f = receive();
  assert_int_equal(f.type, LINK_DATA);
  assert_int_equal(f.channel, LINK_CHANNEL_ROOT);
  assert_int_equal(f.length, 5);
  drain();
  assert_int_equal(ended, 0);
}

static void test_nothing_is_read_beyond_the_window(void **state) {
  static char text[4 * WINDOW];
  size_t sent = 0;
  assert_int_equal(send(user, text, sizeof text, 0), (ssize_t)sizeof text);
  for (struct link_frame f; (f = receive()).type;)
    sent += f.type == LINK_DATA ? f.length : 0;
  assert_int_equal(sent, WINDOW);
  uint32_t more = 100;
  link_put(&out, LINK_WINDOW_MORE, LINK_CHANNEL_ROOT, &more, 1);
  send_out();
  for (struct link_frame f; (f = receive()).type;)
    sent += f.type == LINK_DATA ? f.length : 0;
  assert_int_equal(sent, WINDOW + 100);
}

/* One channel is full and not read; another one's bytes come. */
static void test_a_full_channel_stops_no_other(void **state) {
  struct link_descriptor d = {.id = 3, .kind = LINK_STREAM};
  char text[8];
  struct iovec iov = {text, 1};
  struct fdset fds;
  int truncated;
  put_data(LINK_CHANNEL_ROOT, 1, &d, 1);
  send_out();
  fdset_init(&fds);
  assert_int_equal(sock_recv_iov(user, &iov, 1, 1, &fds, &truncated), 1);
  assert_int_equal(fds.n, 1);
  put_data(LINK_CHANNEL_ROOT, WINDOW, NULL, 0); /* nobody reads it */
  put_data(3, 5, NULL, 0);
  send_out();
  assert_int_equal(ended, 0);
  assert_int_equal(read(fds.fd[0], text, sizeof text), 5);
  fdset_close(&fds);
  drain();
}

static void test_an_end_comes_after_the_bytes(void **state) {
  char text[8];
  put_data(LINK_CHANNEL_ROOT, 3, NULL, 0);
  link_put(&out, LINK_END, LINK_CHANNEL_ROOT, NULL, 0);
  send_out();
  assert_int_equal(read(user, text, sizeof text), 3);
  assert_int_equal(read(user, text, sizeof text), 0);
  assert_int_equal(write(user, "x", 1), 1); /* the other way is open */
  assert_int_equal(receive().type, LINK_DATA);
  shutdown(user, SHUT_WR);
  assert_int_equal(receive().type, LINK_END);
  assert_int_equal(mux.nchannels, 0);
}

/* What is told with an end goes first, once for all that have come: then each local
 * socket hears of its own, in both directions at once where both are over. */
static void test_ends_come_after_what_is_told(void **state) {
  char byte;
  link_put(&out, LINK_END, LINK_CHANNEL_ROOT, NULL, 0);
  link_put(&out, LINK_RESET, LINK_CHANNEL_ROOT, NULL, 0);
  link_put(&out, LINK_MEASURED, 0, NULL, 0);
  nbefore = nopen = 0;
  send_out();
  assert_int_equal(nbefore, 1);
  assert_int_equal(nopen, 1);
  assert_int_equal(recv(user, &byte, 1, MSG_DONTWAIT), 0);
  assert_int_equal(send(user, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL), -1);
  assert_int_equal(mux.nchannels, 0);
  assert_int_equal(receive().type, 0);
  assert_int_equal(ended, 0);
}

static int ask_fork(uint32_t token, const void *command, size_t n) {
  const struct link_fork fork = {token, 5, 6, command, n};
  return mux_fork(&mux, &fork);
}

/* A fork whose socket is not made: the number of its channel. */
static uint32_t fork_unmade(uint32_t token) {
  struct link_fork fork;
  assert_int_equal(ask_fork(token, "a header and more", 17), 0);
  struct link_frame f = receive();
  assert_int_equal(f.type, LINK_CLONE);
  assert_int_equal(f.ndescriptors, 0);
  assert_int_equal(link_read_fork(&f, &fork), 0);
  assert_int_equal(fork.table, 5);
  assert_int_equal(fork.index, 6);
  assert_int_equal(fork.n, 17);
  assert_memory_equal(fork.command, "a header and more", 17);
  return f.channel;
}

/* Its socket is made with the first bytes for it, or an end in one direction; not for one
 * that ends in both, nor when nobody wants it any more. */
static void test_a_socket_is_made_when_it_is_needed(void **state) {
  char bytes[8];
  made = -1;
  nended = 0;
  uint32_t silent = fork_unmade(7), speaks = fork_unmade(8), shuts = fork_unmade(9),
           unwanted = fork_unmade(10);
  assert_int_equal(mux.nchannels, 5);
  link_put(&out, LINK_END, silent, NULL, 0);
  link_put(&out, LINK_RESET, silent, NULL, 0);
  send_out();
  assert_int_equal(nended, 1);
  assert_int_equal(ended_token, 7);
  assert_int_equal(made, -1);
  put_data(speaks, 3, NULL, 0);
  send_out();
  assert_int_equal(made_for, 8);
  assert_int_equal(recv(made, bytes, sizeof bytes, MSG_DONTWAIT), 3);
  assert_int_equal(send(made, "xy", 2, MSG_NOSIGNAL), 2);
  struct link_frame f = receive();
  assert_int_equal(f.type, LINK_DATA);
  assert_int_equal(f.channel, speaks);
  mux_forget_fork(&mux, 8); /* it has one: its user closes it */
  assert_int_equal(receive().type, 0);
  close(made);
  assert_int_equal(receive().type, LINK_END);
  assert_int_equal(receive().type, LINK_RESET);
  link_put(&out, LINK_END, shuts, NULL, 0);
  send_out();
  assert_int_equal(made_for, 9);
  assert_int_equal(recv(made, bytes, sizeof bytes, MSG_DONTWAIT), 0);
  close(made);
  drain();
  mux_forget_fork(&mux, 10); /* which is answered, too */
  assert_int_equal(nended, 2);
  assert_int_equal(ended_token, 10);
  f = receive();
  assert_int_equal(f.type, LINK_END);
  assert_int_equal(f.channel, unwanted);
  assert_int_equal(receive().type, LINK_RESET);
  put_data(unwanted, 3, NULL, 0); /* which was on its way */
  send_out();
  assert_int_equal(made_for, 9);
  assert_int_equal(nended, 2);
  assert_int_equal(ended, 0);
}

/* What is asked for must fit into the window, and ends at once without a template. */
static void test_forks_that_can_not_go(void **state) {
  static const unsigned char large[WINDOW + 1];
  nended = 0;
  assert_int_equal(ask_fork(3, large, sizeof large), -EPROTO);
  fork_unmade(4);
  assert_int_equal(ask_fork(4, large, 1), -EPROTO);
  link_put(&out, LINK_RESET, LINK_CHANNEL_ROOT, NULL, 0);
  send_out();
  assert_int_equal(ask_fork(5, large, 1), 0);
  assert_int_equal(nended, 1);
  assert_int_equal(ended_token, 5);
  assert_int_equal(receive().type, 0);
}

static void test_nobody_reads_any_more(void **state) {
  link_put(&out, LINK_RESET, LINK_CHANNEL_ROOT, NULL, 0);
  send_out();
  assert_int_equal(send(user, "x", 1, MSG_NOSIGNAL), -1);
  assert_int_equal(errno, EPIPE);
  close(user);
  user = -1;
  put_data(LINK_CHANNEL_ROOT, 10, NULL, 0);
  send_out();
  assert_int_equal(receive().type, LINK_RESET);
  assert_int_equal(mux.nchannels, 0);
  put_data(LINK_CHANNEL_ROOT, 10, NULL, 0); /* was under way: ignored */
  send_out();
  assert_int_equal(ended, 0);
}

static void test_quiet_comes_behind_the_bytes(void **state) {
  assert_int_equal(write(user, "last words", 10), 10);
  mux_await_quiet(&mux);
  assert_int_equal(nquiet, 0);
  assert_int_equal(receive().type, LINK_DATA);
  assert_int_equal(receive().type, LINK_PING);
  assert_int_equal(nquiet, 1);
  mux_await_quiet(&mux); /* nothing lies there */
  assert_int_equal(nquiet, 2);
  drain();
}

/* One write for all that is known: bytes, the end of their channel, and what waited for
 * them. The other end is woken once. */
static void test_quiet_goes_with_bytes_and_end(void **state) {
  struct link_frame f;
  struct buf in;
  const unsigned types[] = {LINK_DATA, LINK_END, LINK_RESET, LINK_PING};
  turn_once(&turns, 0); /* its socket is watched */
  assert_int_equal(write(user, "last words", 10), 10);
  close(user);
  user = -1;
  mux_await_quiet(&mux);
  assert_int_equal(nquiet, 1);
  mux_flush(&mux);
  buf_init(&in, SIZE_MAX);
  unsigned char *at = buf_reserve(&in, 1024);
  ssize_t n = recv(peer, at, 1024, MSG_DONTWAIT);
  assert_true(n > 0);
  buf_commit(&in, (size_t)n);
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    assert_int_equal(link_next(&in, LINK_LAST, &f), 0);
    assert_int_equal(f.type, types[i]);
    link_done(&in, &f);
  }
  assert_int_equal(buf_size(&in), 0);
  buf_deinit(&in);
}

/* Who closes a socket without reading all leaves an error behind the bytes. */
static void test_bytes_before_an_error_are_sent(void **state) {
  put_data(LINK_CHANNEL_ROOT, 100, NULL, 0);
  send_out();
  assert_int_equal(write(user, "last words", 10), 10);
  close(user);
  user = -1;
  struct link_frame f = receive();
  assert_int_equal(f.type, LINK_DATA);
  assert_int_equal(f.length, 10);
  assert_int_equal(receive().type, LINK_END);
  drain();
}

/* What does not fit into its window is not waited for. */
static void test_quiet_does_not_wait_for_a_window(void **state) {
  static char text[2 * WINDOW];
  send(user, text, sizeof text, 0);
  mux_await_quiet(&mux);
  drain();
  assert_int_equal(nquiet, 1);
}

static void test_hostile_frames(void **state) {
  int which = (int)(intptr_t)*state;
  struct link_descriptor d = {.id = 3, .kind = LINK_STREAM};
  uint32_t number = WINDOW;
  switch (which) {
  case 0: /* more than the window, unread */
    for (int i = 0; i < 64; i++)
      put_data(LINK_CHANNEL_ROOT, WINDOW, NULL, 0);
    break;
  case 1: /* a channel of our own numbers */
    d.id = 4;
    put_data(LINK_CHANNEL_ROOT, 1, &d, 1);
    break;
  case 2: /* one that was used */
    put_data(LINK_CHANNEL_ROOT, 1, &d, 1);
    put_data(LINK_CHANNEL_ROOT, 1, &d, 1);
    break;
  case 3: /* a kind that there is not, and one that nobody makes here */
    d.kind = LINK_KIND_LAST + 1;
    put_data(LINK_CHANNEL_ROOT, 1, &d, 1);
    break;
  case 4:
    d.kind = LINK_BIRTHS;
    put_data(LINK_CHANNEL_ROOT, 1, &d, 1);
    break;
  case 5: /* bytes after the end */
    link_put(&out, LINK_END, LINK_CHANNEL_ROOT, NULL, 0);
    put_data(LINK_CHANNEL_ROOT, 1, NULL, 0);
    break;
  case 6: /* a second end */
    link_put(&out, LINK_END, LINK_CHANNEL_ROOT, NULL, 0);
    link_put(&out, LINK_END, LINK_CHANNEL_ROOT, NULL, 0);
    break;
  case 7: /* more room than there is */
    link_put(&out, LINK_WINDOW_MORE, LINK_CHANNEL_ROOT, &number, 1);
    break;
  case 8:
    number = UINT32_MAX;
    link_put(&out, LINK_WINDOW_MORE, LINK_CHANNEL_ROOT, &number, 1);
    break;
  case 9: /* of the wrong length */
    link_put(&out, LINK_WINDOW_MORE, LINK_CHANNEL_ROOT, NULL, 0);
    break;
  case 10:
    link_put_bytes(&out, LINK_PING, "x", 1);
    break;
  case 11: /* of the parent's side */
    link_put_bytes(&out, LINK_PRINTED, "x", 1);
    break;
  default:
    buf_put(&out, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 13);
  }
  assert_broken();
}

static void test_unknown_channels_are_ignored(void **state) {
  uint32_t more = 1;
  put_data(77, 100, NULL, 0);
  link_put(&out, LINK_WINDOW_MORE, 77, &more, 1);
  link_put(&out, LINK_END, 77, NULL, 0);
  link_put(&out, LINK_RESET, 77, NULL, 0);
  send_out();
  assert_int_equal(ended, 0);
}

/* Descriptors that come for a channel that is gone are closed, and their channels too. */
static void test_descriptors_for_nobody(void **state) {
  struct link_descriptor d = {.id = 3, .kind = LINK_STREAM};
  int before = fd_dup(peer);
  close(before);
  put_data(77, 1, &d, 1);
  send_out();
  drain();
  assert_int_equal(ended, 0);
  assert_int_equal(mux.nchannels, 1);
  int after = fd_dup(peer);
  close(after);
  assert_int_equal(after, before);
}

/* The local socket takes less than what comes: the rest waits, also what comes later, and
 * a descriptor comes with the bytes that it came with. */
static void test_what_does_not_fit_waits_in_order(void **state) {
  struct link_descriptor d = {.id = 3, .kind = LINK_STREAM};
  char text[2048];
  int size = 1, nfds = 0, truncated;
  size_t got = 0, marks[2] = {0};
  assert_int_equal(setsockopt(mine, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
  put_data(LINK_CHANNEL_ROOT, WINDOW - 100, NULL, 0);
  put_data(LINK_CHANNEL_ROOT, 50, &d, 1);
  put_data(LINK_CHANNEL_ROOT, 50, NULL, 0);
  link_put(&out, LINK_END, LINK_CHANNEL_ROOT, NULL, 0);
  send_out();
  for (;;) {
    struct iovec iov = {text, sizeof text};
    struct fdset fds;
    turn();
    fdset_init(&fds);
    ssize_t n = sock_recv_iov(user, &iov, 1, 0, &fds, &truncated);
    if (n <= 0) {
      assert_int_equal(n, 0); /* its END, and nothing is missing before it */
      break;
    }
    got += (size_t)n;
    if (fds.n)
      marks[nfds++] = got;
    fdset_close(&fds);
  }
  assert_int_equal(got, WINDOW);
  assert_int_equal(nfds, 1);
  assert_true(marks[0] > WINDOW - 100 && marks[0] <= WINDOW - 50);
  drain();
}

/* Many channels at once, more than there are spare pairs: each has a socket of its own.
 */
static void test_each_channel_has_its_own_pair(void **state) {
  enum { N = 3 * PAIRS_AHEAD + 1 };
  struct link_descriptor d[N];
  struct iovec iov;
  struct fdset fds;
  char text[8];
  int truncated;
  for (int round = 0; round < 2; round++) {
    for (unsigned i = 0; i < N; i++)
      d[i] = (struct link_descriptor){.id = 3 + 2 * (i + (unsigned)round * N),
                                      .kind = LINK_STREAM};
    put_data(LINK_CHANNEL_ROOT, 1, d, N);
    send_out();
    iov = (struct iovec){text, 1};
    fdset_init(&fds);
    assert_int_equal(sock_recv_iov(user, &iov, 1, 1, &fds, &truncated), 1);
    assert_int_equal(fds.n, N);
    for (unsigned i = 0; i < N; i++)
      put_data(d[i].id, i + 1, NULL, 0);
    send_out();
    for (int i = 0; i < N; i++)
      assert_int_equal(read(fds.fd[i], text, sizeof text), i + 1 < 8 ? i + 1 : 8);
    fdset_close(&fds);
    drain();
  }
  assert_int_equal(mux.nchannels, 1);
}

/* Returns the other end of what it sends. */
static int send_descriptor(void) {
  struct iovec iov = {(void *)(uintptr_t) "x", 1};
  int pair[2];
  assert_int_equal(sock_pair(pair, 0), 0);
  assert_int_equal(sock_send(user, &iov, 1, pair, 1), 1);
  close(pair[0]);
  return pair[1];
}

/* While descriptors are few, one that is sent waits in its socket until others are closed,
 * or for a beat; bytes alone are read as ever. */
static void test_descriptors_wait_for_room(void **state) {
  struct link_descriptor d = {.id = 3, .kind = LINK_STREAM};
  struct fdset fds;
  char text[8];
  struct iovec iov = {text, 1};
  int truncated, ends[3];
  put_data(LINK_CHANNEL_ROOT, 1, &d, 1); /* a channel for bytes alone */
  send_out();
  fdset_init(&fds);
  assert_int_equal(sock_recv_iov(user, &iov, 1, 1, &fds, &truncated), 1);
  assert_int_equal(fds.n, 1);
  mux.fd_limit = 1;
  ends[0] = send_descriptor();
  assert_int_equal(receive().ndescriptors, 1); /* the last one for which there is room */
  drain();
  ends[1] = send_descriptor();
  assert_int_equal(receive().type, 0);
  assert_int_equal(write(fds.fd[0], "bytes", 5), 5);
  struct link_frame f = receive();
  assert_int_equal(f.type, LINK_DATA);
  assert_int_equal(f.channel, 3);
  link_put(&out, LINK_END, 4, NULL, 0); /* the first descriptor's channel */
  link_put(&out, LINK_RESET, 4, NULL, 0);
  send_out();
  f = receive();
  assert_int_equal(f.channel, LINK_CHANNEL_ROOT);
  assert_int_equal(f.ndescriptors, 1);
  drain();
  ends[2] = send_descriptor();
  assert_int_equal(receive().type, 0);
  mux_make_room(&mux);
  assert_int_equal(receive().ndescriptors, 1);
  drain();
  fdset_close(&fds);
  for (int i = 0; i < 3; i++)
    close(ends[i]);
  assert_int_equal(ended, 0);
}

#ifdef __linux__
static int system_is_full;

/* In the place of the one of the C library: more descriptors are under way than the system
 * takes. */
ssize_t sendmsg(int fd, const struct msghdr *m, int flags) {
  if (system_is_full && m->msg_controllen > 0) {
    errno = ETOOMANYREFS;
    return -1;
  }
  return syscall(SYS_sendmsg, fd, m, flags);
}

/* One channel waits for both at once, with descriptors in each direction: for others to be
 * closed here, and for the system to take what came. Both go on, in any order. */
static void test_a_channel_waits_for_both_kinds_of_room(void **state) {
  struct fdset fds[2];
  int ends[2];
  for (unsigned round = 0; round < 2; round++) {
    struct link_descriptor d = {.id = 3 + 2 * round, .kind = LINK_STREAM};
    char text[8];
    struct iovec iov = {text, 1};
    int truncated;
    system_is_full = 1;
    put_data(LINK_CHANNEL_ROOT, 1, &d, 1);
    send_out();
    system_is_full = 0;
    mux.is_crowded = 1;
    ends[round] = send_descriptor();
    assert_int_equal(receive().type, 0);
    for (unsigned i = 0; i < 2; i++)
      if (i == round)
        mux_retry(&mux);
      else
        mux_make_room(&mux);
    fdset_init(&fds[round]);
    assert_int_equal(sock_recv_iov(user, &iov, 1, 1, &fds[round], &truncated), 1);
    assert_int_equal(fds[round].n, 1);
    assert_int_equal(receive().ndescriptors, 1);
    drain();
  }
  assert_int_equal(ended, 0);
  for (int i = 0; i < 2; i++) {
    fdset_close(&fds[i]);
    close(ends[i]);
  }
}
#endif

static void test_the_stream_ends(void **state) {
  shutdown(peer, SHUT_RDWR);
  turn();
  assert_int_equal(ended, 1);
  assert_string_equal(why, "end of stream");
}

int main(void) {
  struct CMUnitTest tests[40] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
      T(test_bytes_go_both_ways),
      T(test_nothing_is_read_beyond_the_window),
      T(test_a_full_channel_stops_no_other),
      T(test_an_end_comes_after_the_bytes),
      T(test_ends_come_after_what_is_told),
      T(test_a_socket_is_made_when_it_is_needed),
      T(test_forks_that_can_not_go),
      T(test_nobody_reads_any_more),
      T(test_quiet_comes_behind_the_bytes),
      T(test_quiet_goes_with_bytes_and_end),
      T(test_quiet_does_not_wait_for_a_window),
      T(test_bytes_before_an_error_are_sent),
      T(test_unknown_channels_are_ignored),
      T(test_descriptors_for_nobody),
      T(test_what_does_not_fit_waits_in_order),
      T(test_each_channel_has_its_own_pair),
      T(test_descriptors_wait_for_room),
      T(test_the_stream_ends),
#ifdef __linux__
      T(test_a_channel_waits_for_both_kinds_of_room),
#endif
  };
  size_t n = 0;
  while (tests[n].test_func)
    n++;
  for (intptr_t i = 0; i <= 12; i++, n++) {
    tests[n] = (struct CMUnitTest)T(test_hostile_frames);
    tests[n].initial_state = (void *)i;
  }
  return _cmocka_run_group_tests("mux", tests, n, NULL, NULL);
}
