/* One end of a link whose stream is a pair of pipes: large frames go from a pipe to a
 * socket without a copy, and arrive as any others do, whatever happens halfway. */
#include "mux_kit.h"

#include "os/sock.h"
#include "remote/mux.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LARGE = 128 * 1024, FRAMES = 6, BYTES = FRAMES * LARGE };

static struct mux mux;
static uv_loop_t loop;
static struct turn turns;
static int to_it, from_it, user; /* ends of the pipes; of channel 1's socket */
static int ended;
static char why[128];
static struct buf in;
static unsigned char *bytes;  /* what is sent: each place has its own content */
static size_t granted, heard; /* windows; bytes of channel 1 that came over the stream */
static unsigned nbrought;     /* descriptors that came with them */

static int on_frame(struct mux *m, const struct link_frame *f) {
  return -EPROTO;
}

static void on_end(struct mux *m, const char *text) {
  ended++;
  snprintf(why, sizeof why, "%s", text ? text : "end of stream");
}

static int made;       /* what a fork's user has; -1: nothing yet */
static int make_error; /* of make_socket */
static unsigned nanswered;

static void on_unmade_end(struct mux *m, uint32_t token) {
  nanswered++;
}

static int make_socket(struct mux *m, uint32_t token, uint64_t *ret_cookie) {
  int pair[2];
  if (make_error)
    return make_error;
  assert_int_equal(sock_pair(pair, 0), 0);
  made = pair[0];
  return pair[1];
}

static const struct mux_ops ops = {.on_frame = on_frame,
                                   .on_end = on_end,
                                   .make_socket = make_socket,
                                   .on_unmade_end = on_unmade_end};

static void after(struct turn *t) {
  mux_after(&mux);
}

static int setup(void **state) {
  int down[2], up[2], local[2];
  ended = 0;
  granted = heard = 0;
  nbrought = 0;
  buf_init(&in, SIZE_MAX);
  bytes = malloc(BYTES);
  for (size_t i = 0; i < BYTES; i++)
    bytes[i] = (unsigned char)(i * 2654435761u >> 13);
  assert_int_equal(uv_loop_init(&loop), 0);
  assert_int_equal(turn_init(&turns, &loop, after), 0);
  assert_int_equal(mux_init(&mux, &turns, &ops, NULL, 1), 0);
  assert_int_equal(pipe(down), 0);
  assert_int_equal(pipe(up), 0);
#ifdef F_SETPIPE_SZ
  (void)fcntl(up[0], F_SETPIPE_SZ, 1024 * 1024); /* as the near end's */
#endif
  assert_int_equal(sock_pair(local, 0), 0);
  to_it = down[1];
  from_it = up[0];
  user = local[0];
  assert_int_equal(fcntl(to_it, F_SETFL, O_NONBLOCK), 0);
  assert_int_equal(fcntl(from_it, F_SETFL, O_NONBLOCK), 0);
  assert_int_equal(fcntl(user, F_SETFL, O_NONBLOCK), 0);
  /* Else it is not known that nobody else writes there, and nothing is moved. */
  assert_int_equal(fcntl(local[1], F_SETFL, O_NONBLOCK), 0);
  assert_int_equal(mux_open(&mux, down[0], up[1]), 0);
  assert_int_equal(mux_add(&mux, LINK_CHANNEL_ROOT, local[1], MUX_BOTH), 0);
  mux_begin(&mux, BYTES);
  return 0;
}

static int teardown(void **state) {
  mux_kit_end(&mux, &turns, &loop);
  close(to_it);
  close(from_it);
  if (user >= 0)
    close(user);
  buf_deinit(&in);
  free(bytes);
  return 0;
}

/* The frames that it is sent: FRAMES large ones. */
static unsigned char *make_frames(size_t *ret_n) {
  *ret_n = FRAMES * (LINK_HEADER_SIZE + LARGE);
  unsigned char *frames = malloc(*ret_n), *at = frames;
  for (int i = 0; i < FRAMES; i++) {
    link_put_header(at, LINK_DATA, 0, LINK_CHANNEL_ROOT, LARGE);
    memcpy(at + LINK_HEADER_SIZE, bytes + (size_t)i * LARGE, LARGE);
    at += LINK_HEADER_SIZE + LARGE;
  }
  return frames;
}

static void hear_data(const struct link_frame *f) {
  size_t n;
  const unsigned char *data = link_bytes(f, &n);
  assert_true(heard + n <= BYTES);
  assert_memory_equal(data, bytes + heard, n);
  heard += n;
  nbrought += f->ndescriptors;
}

/* What it has sent, of at most `most` bytes: windows are counted. The last other frame's
 * type. */
static unsigned hear_some(size_t most) {
  struct link_frame f;
  unsigned type = 0;
  unsigned char *at = buf_reserve(&in, most);
  ssize_t n = read(from_it, at, most);
  if (n > 0)
    buf_commit(&in, (size_t)n);
  while (link_next(&in, LINK_LAST, &f) == 0) {
    uint32_t more = 0;
    if (f.type == LINK_DATA)
      hear_data(&f);
    if (f.type == LINK_WINDOW_MORE)
      assert_int_equal(link_numbers(&f, &more, 1), 0);
    else
      type = f.type;
    granted += more;
    link_done(&in, &f);
  }
  return type;
}

static unsigned hear(void) {
  return hear_some(65536);
}

/* Sends frames as far as they fit; takes at most `reads` bytes of the user's in each
 * turn, and compares. Until the user has taken `wanted`, or nothing goes on. */
static size_t play(const unsigned char *frames, size_t n, size_t reads, size_t wanted) {
  static unsigned char got[LARGE];
  size_t sent = 0, taken = 0;
  for (int idle = 0; (taken < wanted || sent < n) && idle < 100; idle++) {
    ssize_t put = sent < n ? write(to_it, frames + sent, n - sent) : 0;
    if (put > 0)
      sent += (size_t)put;
    turn_once(&turns, 0);
    hear();
    ssize_t came = reads ? recv(user, got, reads, 0) : -1;
    if (came > 0) {
      assert_memory_equal(got, bytes + taken, (size_t)came);
      taken += (size_t)came;
    }
    if (put > 0 || came > 0)
      idle = -1;
  }
  return taken;
}

static void test_large_frames_arrive(void **state) {
  size_t n;
  unsigned char *frames = make_frames(&n);
  assert_int_equal(play(frames, n, LARGE, BYTES), BYTES);
  assert_int_equal(ended, 0);
  assert_int_equal(mux.nmoved, 0);
  assert_true(granted > 0 && granted <= BYTES);
  free(frames);
}

/* The socket is full most of the time: what does not fit waits in memory, in order. */
static void test_a_slow_reader_gets_all(void **state) {
  size_t n;
  unsigned char *frames = make_frames(&n);
  assert_int_equal(play(frames, n, 5000, BYTES), BYTES);
  assert_int_equal(ended, 0);
  free(frames);
}

/* Nobody reads the channel: the stream is read on, as far as the window reaches. */
static void test_a_full_socket_does_not_stop_the_stream(void **state) {
  size_t n;
  unsigned char *frames = make_frames(&n);
  play(frames, n, 0, 1);
  assert_int_equal(mux.nmoved, 0);
  assert_int_equal(ended, 0);
  assert_int_equal(play(NULL, 0, LARGE, BYTES), BYTES);
  free(frames);
}

static void test_a_socket_that_is_closed_halfway(void **state) {
  size_t n;
  unsigned type = 0;
  unsigned char *frames = make_frames(&n), header[LINK_HEADER_SIZE];
  play(frames, n - LARGE / 2, LARGE, BYTES - LARGE / 2);
  assert_true(mux.nmoved > 0);
  close(user);
  user = -1;
  link_put_header(header, LINK_PING, 0, 0, 0);
  for (size_t at = n - LARGE / 2; at < n; turn_once(&turns, 0)) {
    ssize_t put = write(to_it, frames + at, n - at);
    at += put > 0 ? (size_t)put : 0;
  }
  assert_int_equal(write(to_it, header, sizeof header), sizeof header);
  for (int i = 0; i < 8; i++) {
    turn_once(&turns, 0);
    unsigned next = hear();
    type = next ? next : type;
  }
  assert_int_equal(mux.nmoved, 0);
  assert_int_equal(ended, 0); /* the next frame is understood */
  assert_true(type == LINK_RESET || type == LINK_END);
  free(frames);
}

/* The first words of a clone that has no socket yet are long, and come in pieces: they
 * were lost, and the clone was said to have ended instead of answering. */
static void test_long_first_words_of_a_fork_arrive(void **state) {
  static unsigned char header[LINK_HEADER_SIZE], got[LARGE];
  size_t sent = 0, taken = 0, before = 20000; /* of the first piece */
  uint32_t id = mux.next_id;
  made = -1;
  const struct link_fork command = {7, 1, 0, (const unsigned char *)"fork", 4};
  assert_int_equal(mux_fork(&mux, &command), 0);
  link_put_header(header, LINK_DATA, 0, id, LARGE);
  assert_int_equal(write(to_it, header, sizeof header), sizeof header);
  for (int i = 0; i < 1000 && taken < LARGE; i++) {
    size_t most = sent < before ? before - sent : LARGE - sent;
    ssize_t put = most ? write(to_it, bytes + sent, most) : 0;
    sent += put > 0 ? (size_t)put : 0;
    turn_once(&turns, 0);
    ssize_t came = made >= 0 ? recv(made, got, sizeof got, MSG_DONTWAIT) : -1;
    if (came > 0) {
      assert_memory_equal(got, bytes + taken, (size_t)came);
      taken += (size_t)came;
    }
  }
  assert_int_equal(taken, LARGE);
  assert_int_equal(ended, 0);
  close(made);
}

/* Each fork is answered once, also where there is no descriptor for its socket. */
static void test_a_socket_that_can_not_be_made(void **state) {
  static unsigned char frame[LINK_HEADER_SIZE + 3];
  uint32_t id = mux.next_id;
  nanswered = 0;
  const struct link_fork command = {6, 1, 0, (const unsigned char *)"fork", 4};
  assert_int_equal(mux_fork(&mux, &command), 0);
  make_error = -EMFILE;
  link_put_header(frame, LINK_DATA, 0, id, 3);
  assert_int_equal(write(to_it, frame, sizeof frame), sizeof frame);
  for (int i = 0; i < 8; i++)
    turn_once(&turns, 0);
  make_error = 0;
  assert_int_equal(nanswered, 1);
  assert_int_equal(mux_has(&mux, id), 0);
  mux_forget_fork(&mux, 6); /* it is over */
  assert_int_equal(nanswered, 1);
  assert_int_equal(ended, 0);
}

static void test_a_stream_that_ends_halfway(void **state) {
  size_t n;
  unsigned char *frames = make_frames(&n);
  play(frames, n - LARGE / 2, LARGE, BYTES - LARGE / 2);
  assert_true(mux.nmoved > 0);
  close(to_it);
  for (int i = 0; i < 8 && !ended; i++)
    turn_once(&turns, 0);
  assert_int_equal(ended, 1);
  assert_string_equal(why, "end of stream");
  to_it = open("/dev/null", O_WRONLY | O_CLOEXEC);
  free(frames);
}

/* Behind a large frame stands one that says more than the window allows. */
static void test_a_window_is_kept_by_large_frames(void **state) {
  size_t n;
  unsigned char *frames = make_frames(&n);
  mux.window = LARGE;
  play(frames, n, 0, 1); /* nobody reads */
  assert_int_equal(ended, 1);
  assert_non_null(strstr(why, "does not keep to the protocol"));
  free(frames);
}

/* The user writes all; what the stream brings is read `most` bytes at a time. with_fds: a
 * descriptor goes with each piece. */
static void write_all(size_t most, int with_fds) {
  size_t sent = 0, pieces = 0;
  for (int idle = 0; heard < BYTES && idle < 100; idle++) {
    size_t before = heard, rest = BYTES - sent;
    struct iovec iov = {bytes + sent, rest < LARGE / 2 ? rest : LARGE / 2};
    ssize_t n = rest ? sock_send(user, &iov, 1, &user, with_fds) : 0;
    if (n > 0) {
      sent += (size_t)n;
      pieces++;
    }
    turn_once(&turns, 0);
    for (int i = 0; i < 4; i++)
      hear_some(most);
    if (n > 0 || heard > before)
      idle = -1;
  }
  assert_int_equal(heard, BYTES);
  assert_int_equal(nbrought, with_fds ? pieces : 0);
  assert_int_equal(ended, 0);
}

static void test_large_pieces_are_sent(void **state) {
  write_all(1 << 20, 0);
#ifdef __linux__
  if (fcntl(from_it, F_GETPIPE_SZ) >= 4 * LARGE && access("/proc/self/fdinfo", R_OK) == 0)
    assert_true(mux.ferry[0] >= 0);
#endif
  assert_int_equal(mux.nferried, 0);
}

/* The stream is full most of the time: what is on its way waits in the pipe, in order. */
static void test_a_slow_stream_gets_all(void **state) {
#ifdef F_SETPIPE_SZ
  (void)fcntl(from_it, F_SETPIPE_SZ, 64 * 1024);
#endif
  write_all(3000, 0);
}

/* The kernel would drop descriptors where it moves bytes. */
static void test_descriptors_come_with_large_pieces(void **state) {
  write_all(1 << 20, 1);
}

static void test_a_stream_that_nobody_reads(void **state) {
#ifdef F_SETPIPE_SZ
  (void)fcntl(from_it, F_SETPIPE_SZ, 64 * 1024);
#endif
  for (int i = 0; i < 20; i++) {
    send(user, bytes, LARGE, 0);
    turn_once(&turns, 0);
  }
  assert_true(mux_backlog(&mux) > 0);
  close(from_it);
  for (int i = 0; i < 20; i++) {
    send(user, bytes, LARGE, 0);
    turn_once(&turns, 0);
  }
  assert_int_equal(mux_backlog(&mux), 0);
  assert_int_equal(ended, 0); /* what the other end has said last may still be read */
  from_it = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      T(test_large_frames_arrive),
      T(test_a_slow_reader_gets_all),
      T(test_a_full_socket_does_not_stop_the_stream),
      T(test_a_socket_that_is_closed_halfway),
      T(test_long_first_words_of_a_fork_arrive),
      T(test_a_socket_that_can_not_be_made),
      T(test_a_stream_that_ends_halfway),
      T(test_a_window_is_kept_by_large_frames),
      T(test_large_pieces_are_sent),
      T(test_a_slow_stream_gets_all),
      T(test_descriptors_come_with_large_pieces),
      T(test_a_stream_that_nobody_reads),
  };
  signal(SIGPIPE, SIG_IGN);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
