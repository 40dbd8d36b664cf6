/* The inbox: frames however the bytes and descriptors come. The tables have whole
 * streams that are fed in every granularity, torn at every byte, with the descriptors
 * early, late or one by one. */
#include "unit/unit.h"

#include "base/result.h"
#include "os/sock.h"
#include "wire/inbox.h"
#include "wire/outbox.h"
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int is_open(int fd) {
  return fcntl(fd, F_GETFD) >= 0;
}

/* Five frames: 16 + 19 + 16 + 18 + 17 bytes, with 0, 2, 1, 0, 3 descriptors. */
enum { STREAM_SIZE = 86, STREAM_FDS = 6, STREAM_FRAMES = 5 };
static const struct expected {
  unsigned type, nfds, flags;
  uint64_t id;
  const char *body;
} stream[STREAM_FRAMES] = {
    {CMD_CLOSE, 0, 0, 1, ""},        {CMD_FORK, 2, 0, 2, "abc"},
    {CMD_FD, 1, 0, 3, ""},           {CMD_ARG, 0, FRAME_MORE, 0, "xy"},
    {CMD_FD, 3, 0, UINT64_MAX, "z"},
};

static void write_stream(unsigned char out[STREAM_SIZE]) {
  size_t at = 0;
  for (int i = 0; i < STREAM_FRAMES; i++) {
    struct frame f = {.length = (uint32_t)strlen(stream[i].body),
                      .type = (uint8_t)stream[i].type,
                      .nfds = (uint8_t)stream[i].nfds,
                      .flags = (uint16_t)stream[i].flags,
                      .id = stream[i].id};
    frame_encode(out + at, &f);
    memcpy(out + at + FRAME_HEADER_SIZE, stream[i].body, f.length);
    at += FRAME_HEADER_SIZE + f.length;
  }
  assert_int_equal(at, STREAM_SIZE);
}

/* Feeds n bytes, in as many rooms as it takes, and fds with the first of them. */
static int feed(struct inbox *in, const unsigned char *bytes, size_t n,
                struct fdset *fds) {
  int r = 0;
  do {
    size_t room;
    unsigned char *to = inbox_room(in, &room);
    if (!to)
      return -errno;
    if (room > n)
      room = n;
    if (room > 0)
      memcpy(to, bytes, room);
    r = inbox_fed(in, room, fds);
    fds = NULL;
    bytes += room;
    n -= room;
  } while (r == 0 && n > 0);
  return r;
}

struct walk {
  int frames, fds;
  int numbers[STREAM_FDS]; /* the descriptors in the order sent */
};

/* Takes what is whole now and compares it with the stream. */
static void take_frames(struct inbox *in, struct walk *walk) {
  struct frame f;
  int r;
  while ((r = inbox_next(in, &f)) == 0) {
    assert_true(walk->frames < STREAM_FRAMES);
    const struct expected *e = &stream[walk->frames++];
    assert_int_equal(f.type, e->type);
    assert_int_equal(f.nfds, e->nfds);
    assert_int_equal(f.flags, e->flags);
    assert_true(f.id == e->id);
    assert_int_equal(f.length, strlen(e->body));
    assert_memory_equal(f.body, e->body, f.length);
    assert_int_equal(inbox_lost_fds(in), 0);
    for (unsigned i = 0; i < e->nfds; i++) {
      int fd = inbox_take_fd(in);
      assert_int_equal(fd, walk->numbers[walk->fds++]);
      fd_close(&fd);
    }
  }
  assert_int_equal(r, MF_AGAIN);
}

/* The byte with whose reading the i-th descriptor comes in each manner. */
static size_t fd_offset_in_time(int i) {
  return i < 2 ? 16 : i < 3 ? 35 : 69;
}
static size_t fd_offset_early(int i) {
  return 0;
}
static size_t fd_offset_scattered(int i) {
  return (size_t)(i * 16 + 5);
}

static void feed_stream(size_t step, size_t (*fd_offset)(int)) {
  unsigned char bytes[STREAM_SIZE];
  struct walk walk = {0};
  struct inbox in;
  write_stream(bytes);
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  for (int i = 0; i < STREAM_FDS; i++)
    walk.numbers[i] = fd_open_null();
  int next_fd = 0;
  for (size_t at = 0; at < STREAM_SIZE; at += step) {
    size_t n = at + step <= STREAM_SIZE ? step : STREAM_SIZE - at;
    struct fdset fds;
    fdset_init(&fds);
    while (next_fd < STREAM_FDS && fd_offset(next_fd) < at + n)
      fdset_push(&fds, walk.numbers[next_fd++]);
    assert_int_equal(feed(&in, bytes + at, n, &fds), 0);
    assert_int_equal(fds.n, 0);
    take_frames(&in, &walk);
  }
  assert_int_equal(walk.frames, STREAM_FRAMES);
  assert_int_equal(walk.fds, STREAM_FDS);
  assert_int_equal(inbox_pending(&in), 0);
  inbox_deinit(&in);
}

static void test_frames_in_every_step(void **state) {
  for (size_t step = 1; step <= STREAM_SIZE; step++)
    feed_stream(step, fd_offset_in_time);
}

static void test_descriptors_may_come_early(void **state) {
  for (size_t step = 1; step <= STREAM_SIZE; step++)
    feed_stream(step, fd_offset_early);
}

static void test_descriptors_may_come_one_by_one(void **state) {
  for (size_t step = 1; step <= STREAM_SIZE; step++)
    feed_stream(step, fd_offset_scattered);
}

static void test_torn_at_every_byte(void **state) {
  for (size_t first = 0; first <= STREAM_SIZE; first++) {
    unsigned char bytes[STREAM_SIZE];
    struct walk walk = {0};
    struct inbox in;
    struct fdset fds;
    write_stream(bytes);
    fdset_init(&fds);
    for (int i = 0; i < STREAM_FDS; i++)
      fdset_push(&fds, walk.numbers[i] = fd_open_null());
    inbox_init(&in, CMD_SETUP, CMD_LAST);
    assert_int_equal(feed(&in, bytes, first, &fds), 0);
    take_frames(&in, &walk);
    size_t held = inbox_pending(&in);
    assert_true(held < 19);
    assert_int_equal(feed(&in, bytes + first, STREAM_SIZE - first, NULL), 0);
    take_frames(&in, &walk);
    assert_int_equal(walk.frames, STREAM_FRAMES);
    inbox_deinit(&in);
  }
}

static void test_end_within_a_frame_is_seen(void **state) {
  unsigned char bytes[STREAM_SIZE];
  struct frame f;
  struct inbox in;
  write_stream(bytes);
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  assert_int_equal(feed(&in, bytes, 18, NULL), 0);
  assert_int_equal(inbox_next(&in, &f), 0);
  assert_int_equal(inbox_pending(&in), 2);
  assert_int_equal(inbox_next(&in, &f), MF_AGAIN);
  assert_int_equal(inbox_pending(&in), 2);
  inbox_deinit(&in);
}

static void test_untaken_descriptors_are_closed(void **state) {
  unsigned char bytes[STREAM_SIZE];
  struct frame f;
  struct inbox in;
  struct fdset fds;
  int numbers[STREAM_FDS];
  write_stream(bytes);
  fdset_init(&fds);
  for (int i = 0; i < STREAM_FDS; i++)
    fdset_push(&fds, numbers[i] = fd_open_null());
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  assert_int_equal(feed(&in, bytes, STREAM_SIZE, &fds), 0);
  assert_int_equal(inbox_next(&in, &f), 0);
  assert_int_equal(inbox_next(&in, &f), 0); /* two descriptors, one is taken */
  int taken = inbox_take_fd(&in);
  assert_int_equal(taken, numbers[0]);
  assert_int_equal(inbox_next(&in, &f), 0);
  assert_true(is_open(numbers[0]));
  assert_false(is_open(numbers[1]));
  assert_int_equal(inbox_take_fd(&in), numbers[2]);
  fd_close(&numbers[2]);
  fd_close(&taken);
  inbox_deinit(&in); /* closes the last three */
  for (int i = 3; i < STREAM_FDS; i++)
    assert_false(is_open(numbers[i]));
}

static void test_bad_header_is_refused_at_its_last_byte(void **state) {
  static const unsigned char bad[][FRAME_HEADER_SIZE] = {
      {1, 0, 4, 0, CMD_ARG},
      {255, 255, 255, 255, CMD_ARG},
      {0, 0, 0, 0, 0},
      {0, 0, 0, 0, CMD_LAST + 1},
      {0, 0, 0, 0, CMD_ARG, 17},
      {0, 0, 0, 0, CMD_ARG, 0, 2},
      {0, 0, 0, 0, CMD_ARG, 0, 0, 1},
  };
  for (size_t i = 0; i < COUNT(bad); i++) {
    struct frame f;
    struct inbox in;
    inbox_init(&in, CMD_SETUP, CMD_LAST);
    for (size_t at = 0; at < FRAME_HEADER_SIZE; at++) {
      assert_int_equal(inbox_next(&in, &f), MF_AGAIN);
      assert_int_equal(feed(&in, bad[i] + at, 1, NULL), 0);
    }
    assert_int_equal(inbox_next(&in, &f), -EPROTO);
    assert_int_equal(inbox_next(&in, &f), -EPROTO); /* and so it stays */
    inbox_deinit(&in);
  }
}

static void test_claimed_length_allocates_nothing(void **state) {
  static const unsigned char header[FRAME_HEADER_SIZE] = {0, 0, 4, 0, CMD_ARG};
  struct frame f;
  struct inbox in;
  size_t room;
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  assert_int_equal(feed(&in, header, sizeof header, NULL), 0);
  assert_int_equal(inbox_next(&in, &f), MF_AGAIN);
  assert_non_null(inbox_room(&in, &room));
  assert_true(in.bytes.cap <= 2 * INBOX_ROOM_MIN);
  inbox_deinit(&in);
}

static void test_room_grows_with_what_comes(void **state) {
  struct inbox in;
  struct frame f;
  size_t room, greatest = 0;
  static unsigned char body[FRAME_BODY_MAX];
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame head = {.length = FRAME_BODY_MAX, .type = CMD_ARG};
  frame_encode(header, &head);
  memset(body, 'q', sizeof body);
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  assert_non_null(inbox_room(&in, &room));
  assert_true(room >= INBOX_ROOM_MIN && room <= INBOX_ROOM_MAX);
  for (int i = 0; i < 3; i++) {
    assert_int_equal(feed(&in, header, sizeof header, NULL), 0);
    for (size_t at = 0; at < sizeof body; at += room) {
      unsigned char *to = inbox_room(&in, &room);
      assert_non_null(to);
      assert_true(room >= INBOX_ROOM_MIN);
      if (room > greatest)
        greatest = room;
      if (room > sizeof body - at)
        room = sizeof body - at;
      memcpy(to, body + at, room);
      assert_int_equal(inbox_fed(&in, room, NULL), 0);
    }
    assert_int_equal(inbox_next(&in, &f), 0);
    assert_int_equal(f.length, sizeof body);
    assert_memory_equal(f.body, body, sizeof body);
    assert_true(in.bytes.cap <= INBOX_MAX);
  }
  assert_true(greatest >= INBOX_ROOM_MAX);
  inbox_deinit(&in);
}

static void test_a_reader_that_does_not_take_is_stopped(void **state) {
  static unsigned char zeros[65536];
  struct inbox in;
  size_t room, total = 0;
  unsigned char *to;
  inbox_init(&in, 0, 255);
  while ((to = inbox_room(&in, &room))) {
    if (room > sizeof zeros)
      room = sizeof zeros;
    memset(to, 0, room);
    assert_int_equal(inbox_fed(&in, room, NULL), 0);
    total += room;
  }
  assert_int_equal(errno, ENOBUFS);
  assert_int_equal(total, INBOX_MAX);
  inbox_deinit(&in);
}

static void test_exact_never_reads_past_a_frame(void **state) {
  unsigned char bytes[STREAM_SIZE];
  struct walk walk = {0};
  struct inbox in;
  write_stream(bytes);
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  inbox_set_exact(&in, 1);
  static const size_t rooms[] = {16, 16, 3, 16, 16, 2, 16, 1};
  static const int fds_with[] = {0, 2, 0, 1, 0, 0, 3, 0};
  size_t at = 0;
  for (size_t i = 0; i < COUNT(rooms); i++) {
    size_t room;
    struct fdset fds;
    unsigned char *to = inbox_room(&in, &room);
    assert_int_equal(room, rooms[i]);
    fdset_init(&fds);
    for (int k = 0; k < fds_with[i]; k++) {
      int fd = fd_open_null();
      walk.numbers[walk.fds + k] = fd;
      fdset_push(&fds, fd);
    }
    memcpy(to, bytes + at, room);
    at += room;
    assert_int_equal(inbox_fed(&in, room, &fds), 0);
    take_frames(&in, &walk);
  }
  assert_int_equal(walk.frames, STREAM_FRAMES);
  inbox_deinit(&in);
}

static void test_exact_torn_within_header_and_body(void **state) {
  unsigned char bytes[STREAM_SIZE];
  struct frame f;
  struct inbox in;
  size_t room;
  write_stream(bytes);
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  inbox_set_exact(&in, 1);
  /* CMD_ARG "xy" begins at 51; every byte alone. */
  for (size_t i = 0; i < 18; i++) {
    assert_int_equal(inbox_next(&in, &f), MF_AGAIN);
    unsigned char *to = inbox_room(&in, &room);
    assert_int_equal(room, i < 16 ? 16 - i : 18 - i);
    *to = bytes[51 + i];
    assert_int_equal(inbox_fed(&in, 1, NULL), 0);
  }
  assert_null(inbox_room(&in, &room)); /* take the whole frame first */
  assert_int_equal(errno, ENOBUFS);
  assert_int_equal(inbox_next(&in, &f), 0);
  assert_int_equal(inbox_next(&in, &f), MF_AGAIN);
  inbox_deinit(&in);
}

static void test_exact_without_its_descriptors_is_an_error(void **state) {
  static const unsigned char bytes[FRAME_HEADER_SIZE] = {0, 0, 0, 0, CMD_FD, 1};
  struct frame f;
  struct inbox in;
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  inbox_set_exact(&in, 1);
  assert_int_equal(feed(&in, bytes, sizeof bytes, NULL), 0);
  assert_int_equal(inbox_next(&in, &f), -EPROTO);
  inbox_deinit(&in);
}

/* Once such a frame was waited for until the inbox was full: a process that sent one made
 * its parent deaf to it. */
static void test_a_whole_frame_without_its_descriptors_is_an_error(void **state) {
  static const unsigned char bytes[FRAME_HEADER_SIZE + 2] = {2, 0, 0, 0, CMD_FD, 1};
  struct frame f;
  struct inbox in;
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  assert_int_equal(feed(&in, bytes, sizeof bytes - 1, NULL), 0);
  assert_int_equal(inbox_next(&in, &f), MF_AGAIN);
  assert_int_equal(feed(&in, bytes + sizeof bytes - 1, 1, NULL), 0);
  assert_int_equal(inbox_next(&in, &f), -EPROTO);
  inbox_deinit(&in);
}

/* The numbers fed here name nothing (-1), so that no limit of open files is met. */
static void test_too_many_unclaimed_descriptors(void **state) {
  struct inbox in;
  int fed = 0, r = 0;
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  while (r == 0) {
    struct fdset fds;
    fdset_init(&fds);
    for (int i = 0; i < 100; i++)
      fdset_push(&fds, -1);
    r = feed(&in, (const unsigned char *)"", 1, &fds);
    fed += 100;
  }
  assert_int_equal(r, -EPROTO);
  assert_int_equal(fed, 1100);
  inbox_deinit(&in);
}

static void test_as_many_unclaimed_descriptors_as_there_may_be(void **state) {
  struct inbox in;
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  for (int i = 0; i <= INBOX_FDS_MAX; i++) {
    struct fdset fds;
    fdset_init(&fds);
    fdset_push(&fds, -1);
    assert_int_equal(feed(&in, (const unsigned char *)"", 1, &fds),
                     i < INBOX_FDS_MAX ? 0 : -EPROTO);
  }
  inbox_deinit(&in);
}

static void test_cut_descriptors_are_charged_to_their_frame(void **state) {
  unsigned char bytes[STREAM_SIZE];
  struct inbox in;
  struct frame f;
  struct fdset fds;
  write_stream(bytes);
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  fdset_init(&fds);
  fdset_push(&fds, fd_open_null()); /* one of two */
  assert_int_equal(feed(&in, bytes, 35, &fds), 0);
  assert_int_equal(inbox_cut(&in), 0);
  int third = fd_open_null();
  fdset_push(&fds, third);
  assert_int_equal(feed(&in, bytes + 35, 16, &fds), 0);
  assert_int_equal(inbox_next(&in, &f), 0);
  assert_int_equal(inbox_lost_fds(&in), 0);
  assert_int_equal(inbox_next(&in, &f), 0);
  assert_int_equal(f.nfds, 2);
  assert_int_equal(inbox_lost_fds(&in), 1);
  int got = inbox_take_fd(&in);
  assert_true(is_open(got));
  fd_close(&got);
  assert_int_equal(inbox_next(&in, &f), 0); /* the next frame has its own again */
  assert_int_equal(inbox_lost_fds(&in), 0);
  assert_int_equal(inbox_take_fd(&in), third);
  fd_close(&third);
  inbox_deinit(&in);
}

/* ---- both ends on a real socket ---- */

static void flush(struct outbox *o, int fd) {
  struct iovec iov[OUTBOX_IOV_MAX];
  const int *fds;
  int nfds, niov;
  while ((niov = outbox_next(o, iov, &fds, &nfds)) > 0) {
    ssize_t n = sock_send(fd, iov, niov, fds, nfds);
    assert_true(n >= 0);
    if (n == 0)
      return;
    outbox_sent(o, (size_t)n);
  }
}

static void test_outbox_to_inbox_through_a_socket(void **state) {
  enum { ROUNDS = 400 };
  int ends[2], received = 0, nfds_sent = 0, nfds_got = 0;
  static char body[FRAME_BODY_MAX];
  struct outbox o;
  struct inbox in;
  struct frame f;
  outbox_init(&o);
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  assert_int_equal(sock_pair(ends, 1), 0);
  srand(7);
  for (int i = 0; received < ROUNDS; i++) {
    if (i < ROUNDS) {
      struct fdset fds;
      fdset_init(&fds);
      for (int k = rand() % 10 < 3 ? 1 + rand() % 5 : 0; k > 0; k--, nfds_sent++)
        fdset_push(&fds, fd_dup(ends[0]));
      size_t length =
          rand() % 8 == 0 ? (size_t)rand() % sizeof body : (size_t)rand() % 50;
      memset(body, i & 255, length);
      assert_int_equal(outbox_put(&o, CMD_ARG, (uint64_t)i, body, length, &fds), 0);
    }
    flush(&o, ends[0]);
    size_t room;
    int truncated;
    struct fdset fds;
    fdset_init(&fds);
    unsigned char *to = inbox_room(&in, &room);
    ssize_t n = sock_recv(ends[1], to, room, 0, &fds, &truncated);
    if (n == -EAGAIN)
      continue;
    assert_true(n > 0 && !truncated);
    assert_int_equal(inbox_fed(&in, (size_t)n, &fds), 0);
    while (inbox_next(&in, &f) == 0) {
      assert_int_equal(f.id, received++);
      for (size_t k = 0; k < f.length; k++)
        assert_int_equal(f.body[k], f.id & 255);
      for (int k = 0; k < f.nfds; k++, nfds_got++) {
        int fd = inbox_take_fd(&in);
        assert_true(fd_same(fd, ends[0]));
        fd_close(&fd);
      }
    }
  }
  assert_int_equal(nfds_got, nfds_sent);
  assert_true(outbox_empty(&o));
  fd_close(&ends[0]);
  fd_close(&ends[1]);
  outbox_deinit(&o);
  inbox_deinit(&in);
}

/* ---- bodies elsewhere ---- */

enum { LONG = 40000 };

static void put_header(unsigned char *at, size_t length, unsigned nfds) {
  struct frame f = {.length = (uint32_t)length, .type = CMD_ARG, .nfds = (uint8_t)nfds};
  frame_encode(at, &f);
}

static void test_a_long_body_is_read_elsewhere(void **state) {
  static unsigned char bytes[2 * (FRAME_HEADER_SIZE + LONG)], body[LONG];
  size_t first = FRAME_HEADER_SIZE + 100, have;
  struct iovec iov[2];
  struct inbox in;
  struct frame f;
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  memset(bytes, 'a', sizeof bytes);
  put_header(bytes, LONG, 0);
  put_header(bytes + FRAME_HEADER_SIZE + LONG, 7, 0);
  assert_int_equal(inbox_open(&in, &f, &have), MF_AGAIN);
  assert_int_equal(feed(&in, bytes, first, NULL), 0);
  assert_int_equal(inbox_next(&in, &f), MF_AGAIN);
  assert_int_equal(inbox_open(&in, &f, &have), 0);
  assert_int_equal(f.length, LONG);
  assert_int_equal(have, 100);
  assert_memory_equal(f.body, bytes + FRAME_HEADER_SIZE, 100);
  assert_int_equal(inbox_open_left(&in), LONG - 100);
  assert_int_equal(inbox_next(&in, &f), MF_AGAIN);
  assert_int_equal(inbox_open(&in, &f, &have), MF_AGAIN);
  assert_int_equal(inbox_rooms(&in, body, 1000, iov), 1); /* not behind a part of it */
  assert_int_equal(inbox_took(&in, 900), 900);
  assert_int_equal(inbox_fed(&in, 0, NULL), 0);
  assert_int_equal(inbox_rooms(&in, body, LONG - 1000, iov), 2);
  assert_ptr_equal(iov[0].iov_base, body);
  assert_int_equal(iov[0].iov_len, LONG - 1000);
  assert_true(iov[1].iov_len <= INBOX_ROOM_MIN);
  memcpy(iov[1].iov_base, bytes + FRAME_HEADER_SIZE + LONG, FRAME_HEADER_SIZE + 7);
  assert_int_equal(inbox_took(&in, LONG - 1000 + FRAME_HEADER_SIZE + 7), LONG - 1000);
  assert_int_equal(inbox_fed(&in, FRAME_HEADER_SIZE + 7, NULL), 0);
  assert_int_equal(inbox_open_left(&in), 0);
  assert_int_equal(inbox_next(&in, &f), 0);
  assert_int_equal(f.length, 7);
  assert_int_equal(inbox_next(&in, &f), MF_AGAIN);
  assert_int_equal(inbox_pending(&in), 0);
  inbox_deinit(&in);
}

static void test_a_body_that_is_nearly_there_is_awaited(void **state) {
  static unsigned char bytes[FRAME_HEADER_SIZE + LONG];
  struct inbox in;
  struct frame f;
  size_t have;
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  put_header(bytes, LONG, 0);
  assert_int_equal(feed(&in, bytes, FRAME_HEADER_SIZE - 1, NULL), 0);
  assert_int_equal(inbox_open(&in, &f, &have), MF_AGAIN);
  assert_int_equal(
      feed(&in, bytes + FRAME_HEADER_SIZE - 1, LONG - INBOX_OPEN_MIN + 2, NULL), 0);
  assert_int_equal(inbox_open(&in, &f, &have), MF_AGAIN);
  assert_int_equal(feed(&in, bytes, INBOX_OPEN_MIN - 1, NULL), 0);
  assert_int_equal(inbox_next(&in, &f), 0);
  assert_int_equal(f.length, LONG);
  inbox_deinit(&in);
}

static void test_descriptors_of_an_open_frame(void **state) {
  unsigned char header[FRAME_HEADER_SIZE];
  struct iovec iov[2];
  struct inbox in;
  struct frame f;
  struct fdset fds;
  static unsigned char body[LONG];
  size_t have;
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  put_header(header, LONG, 2);
  assert_int_equal(feed(&in, header, sizeof header, NULL), 0);
  assert_int_equal(inbox_open(&in, &f, &have),
                   -EPROTO); /* they came with the header, or never */
  inbox_deinit(&in);
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  fdset_init(&fds);
  fdset_push(&fds, fd_open_null());
  fdset_push(&fds, fd_open_null());
  assert_int_equal(feed(&in, header, sizeof header, &fds), 0);
  assert_int_equal(feed(&in, body, 1, NULL), 0);
  assert_int_equal(inbox_open(&in, &f, &have), 0);
  int fd = inbox_take_fd(&in);
  fd_close(&fd);
  assert_int_equal(inbox_rooms(&in, body, LONG - 1, iov), 2); /* closes the other */
  assert_int_equal(inbox_took(&in, LONG - 1), LONG - 1);
  assert_int_equal(inbox_fed(&in, 0, NULL), 0);
  assert_int_equal(inbox_next(&in, &f), MF_AGAIN);
  inbox_deinit(&in);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_frames_in_every_step),
      census_test(test_descriptors_may_come_early),
      census_test(test_descriptors_may_come_one_by_one),
      census_test(test_torn_at_every_byte),
      census_test(test_end_within_a_frame_is_seen),
      census_test(test_untaken_descriptors_are_closed),
      census_test(test_bad_header_is_refused_at_its_last_byte),
      census_test(test_claimed_length_allocates_nothing),
      census_test(test_room_grows_with_what_comes),
      census_test(test_a_reader_that_does_not_take_is_stopped),
      census_test(test_exact_never_reads_past_a_frame),
      census_test(test_exact_torn_within_header_and_body),
      census_test(test_exact_without_its_descriptors_is_an_error),
      census_test(test_a_whole_frame_without_its_descriptors_is_an_error),
      census_test(test_too_many_unclaimed_descriptors),
      census_test(test_as_many_unclaimed_descriptors_as_there_may_be),
      census_test(test_cut_descriptors_are_charged_to_their_frame),
      census_test(test_a_long_body_is_read_elsewhere),
      census_test(test_a_body_that_is_nearly_there_is_awaited),
      census_test(test_descriptors_of_an_open_frame),
      census_test(test_outbox_to_inbox_through_a_socket),
  };
  return cmocka_run_group_tests_name("inbox", tests, NULL, NULL);
}
