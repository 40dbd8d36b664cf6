/* The outbox: bytes and descriptors as a sender would take them, in every granularity.
 * "Sending" here is taking bytes out of the iovecs by hand, so a short write may end
 * anywhere; test_inbox.c has both ends on a real socket. */
#include "unit/unit.h"

#include "base/buf.h"
#include "wire/outbox.h"
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int is_open(int fd) {
  return fcntl(fd, F_GETFD) >= 0;
}

static struct fdset some_fds(int n) {
  struct fdset set;
  fdset_init(&set);
  for (int i = 0; i < n; i++)
    fdset_push(&set, fd_open_null());
  return set;
}

/* One "sendmsg" of at most n bytes: appends them to wire; the descriptors that went with
 * its first byte are counted. Returns the bytes that went, 0: empty. */
struct sent {
  struct buf wire;
  int nfds, messages;
  size_t
      fds_at[64]; /* offset in wire of the byte that each piece of descriptors joined */
  int pieces;
};

static size_t send_some(struct outbox *o, struct sent *sent, size_t n) {
  struct iovec iov[OUTBOX_IOV_MAX];
  const int *fds;
  int nfds;
  int niov = outbox_next(o, iov, &fds, &nfds);
  if (niov == 0)
    return 0;
  assert_true(niov <= OUTBOX_IOV_MAX);
  if (nfds > 0) {
    for (int i = 0; i < nfds; i++)
      assert_true(is_open(fds[i]));
    sent->fds_at[sent->pieces++] = buf_size(&sent->wire);
  }
  sent->nfds += nfds;
  sent->messages++;
  size_t went = 0;
  for (int i = 0; i < niov && went < n; i++) {
    size_t part = iov[i].iov_len < n - went ? iov[i].iov_len : n - went;
    assert_true(iov[i].iov_len > 0);
    assert_int_equal(buf_put(&sent->wire, iov[i].iov_base, part), 0);
    went += part;
  }
  outbox_sent(o, went);
  return went;
}

static void send_all(struct outbox *o, struct sent *sent, size_t step) {
  memset(sent, 0, sizeof *sent);
  buf_init(&sent->wire, SIZE_MAX);
  while (send_some(o, sent, step) > 0)
    ;
  assert_true(outbox_empty(o));
  assert_int_equal(o->nbytes, 0);
}

static void count_release(void *data) {
  ++*(int *)data;
}

static void test_frame_goes_as_header_and_body(void **state) {
  static const unsigned char expected[] = {3, 0, 0, 0, CMD_REQUIRE, 0, 0,   0,   9,  0,
                                           0, 0, 0, 0, 0,           0, 'a', 'b', 'c'};
  struct outbox o;
  struct sent sent;
  outbox_init(&o);
  assert_true(outbox_empty(&o));
  assert_int_equal(outbox_put(&o, CMD_REQUIRE, 9, "abc", 3, NULL), 0);
  assert_false(outbox_empty(&o));
  assert_int_equal(o.nbytes, sizeof expected);
  send_all(&o, &sent, SIZE_MAX);
  assert_int_equal(buf_size(&sent.wire), sizeof expected);
  assert_memory_equal(buf_peek(&sent.wire), expected, sizeof expected);
  assert_int_equal(sent.messages, 1);
  buf_deinit(&sent.wire);
  outbox_deinit(&o);
}

static void test_small_frames_share_one_message(void **state) {
  struct outbox o;
  struct sent sent;
  outbox_init(&o);
  for (int i = 0; i < 100; i++)
    assert_int_equal(outbox_put(&o, ANS_DONE, (uint64_t)i, NULL, 0, NULL), 0);
  send_all(&o, &sent, SIZE_MAX);
  assert_int_equal(sent.messages, 1);
  assert_int_equal(buf_size(&sent.wire), 1600);
  for (unsigned i = 0; i < 100; i++)
    assert_int_equal(buf_peek(&sent.wire)[16 * i + 8], i);
  buf_deinit(&sent.wire);
  outbox_deinit(&o);
}

static void test_more_frames_than_iovecs_still_go(void **state) {
  static char body[2000];
  struct outbox o;
  struct sent sent;
  int released = 0;
  outbox_init(&o);
  for (int i = 0; i < 20; i++) {
    assert_int_equal(outbox_put(&o, CMD_ARG, 0, body, sizeof body, NULL), 0);
    assert_int_equal(
        outbox_put_ref(&o, CMD_ARG, 0, body, sizeof body, count_release, &released), 0);
  }
  send_all(&o, &sent, SIZE_MAX);
  assert_int_equal(buf_size(&sent.wire), 40 * 2016);
  assert_int_equal(released, 20);
  buf_deinit(&sent.wire);
  outbox_deinit(&o);
}

static void test_outbox_sends_fds_once(void **state) {
  struct outbox o;
  struct sent sent;
  outbox_init(&o);
  struct fdset fds = some_fds(3);
  int numbers[3] = {fds.fd[0], fds.fd[1], fds.fd[2]};
  assert_int_equal(outbox_put(&o, CMD_FD, 0, NULL, 0, &fds), 0);
  assert_int_equal(fds.n, 0);
  send_all(&o, &sent, 1); /* sixteen short writes */
  assert_int_equal(sent.messages, 16);
  assert_int_equal(sent.pieces, 1);
  assert_int_equal(sent.nfds, 3);
  for (int i = 0; i < 3; i++)
    assert_false(is_open(numbers[i]));
  buf_deinit(&sent.wire);
  outbox_deinit(&o);
}

static void test_fds_begin_a_message_of_their_own(void **state) {
  struct outbox o;
  struct sent sent;
  outbox_init(&o);
  for (int i = 0; i < 4; i++) {
    struct fdset fds = some_fds(i % 2); /* none, one, none, one */
    assert_int_equal(outbox_put(&o, CMD_FD, 0, "xy", 2, &fds), 0);
  }
  assert_int_equal(outbox_put(&o, CMD_ARG, 0, "xy", 2, NULL), 0);
  send_all(&o, &sent, SIZE_MAX);
  assert_int_equal(sent.messages, 3); /* 0 | 1 2 | 3 4 */
  assert_int_equal(sent.pieces, 2);
  assert_int_equal(sent.fds_at[0], 18);
  assert_int_equal(sent.fds_at[1], 54);
  buf_deinit(&sent.wire);
  outbox_deinit(&o);
}

static void test_every_short_write_gives_the_same_bytes(void **state) {
  struct sent whole = {0};
  for (size_t step = 0; step <= 130; step++) {
    static const char lent[] = "borrowed bytes";
    struct outbox o;
    struct sent sent;
    int released = 0;
    outbox_init(&o);
    struct fdset one = some_fds(1), two = some_fds(2);
    outbox_put(&o, CMD_ARG, 1, "first", 5, NULL);
    outbox_put(&o, CMD_FD, 2, NULL, 0, &one);
    outbox_put_ref(&o, CMD_ARG, 3, lent, sizeof lent, count_release, &released);
    outbox_put(&o, CMD_FD, 4, "b", 1, &two);
    outbox_put(&o, CMD_ARG, 5, NULL, 0, NULL);
    send_all(&o, &sent, step ? step : SIZE_MAX);
    assert_int_equal(released, 1);
    assert_int_equal(sent.nfds, 3);
    assert_int_equal(sent.pieces, 2);
    if (step == 0) {
      whole = sent;
    } else {
      assert_int_equal(buf_size(&sent.wire), buf_size(&whole.wire));
      assert_memory_equal(buf_peek(&sent.wire), buf_peek(&whole.wire),
                          buf_size(&whole.wire));
      assert_int_equal(sent.fds_at[0], whole.fds_at[0]);
      assert_int_equal(sent.fds_at[1], whole.fds_at[1]);
      buf_deinit(&sent.wire);
    }
    outbox_deinit(&o);
  }
  buf_deinit(&whole.wire);
}

/* Reads the parts of one body back out of wire; gives the number of parts. */
static int check_parts(const struct buf *wire, unsigned type, uint64_t id, int nfds,
                       const unsigned char *body, size_t length) {
  const unsigned char *p = buf_peek(wire), *end = p + buf_size(wire);
  size_t done = 0;
  for (int part = 1;; part++) {
    struct frame f;
    assert_true(end - p >= FRAME_HEADER_SIZE);
    assert_int_equal(frame_decode(&f, p, CMD_SETUP, ANS_LAST), 0);
    p += FRAME_HEADER_SIZE;
    assert_int_equal(f.type, type);
    assert_true(f.id == (part == 1 ? id : 0));
    assert_int_equal(f.nfds, part == 1 ? nfds : 0);
    assert_true((size_t)(end - p) >= f.length && length - done >= f.length);
    assert_memory_equal(p, body + done, f.length);
    p += f.length;
    done += f.length;
    if (f.flags & FRAME_MORE)
      continue;
    assert_true(done == length && p == end);
    return part;
  }
}

static void test_long_bodies_go_in_parts(void **state) {
  static const size_t lengths[] = {FRAME_BODY_MAX - 1,     FRAME_BODY_MAX,
                                   FRAME_BODY_MAX + 1,     2 * FRAME_BODY_MAX,
                                   2 * FRAME_BODY_MAX + 1, 5 * FRAME_BODY_MAX + 12345};
  static const int parts[] = {1, 1, 2, 2, 3, 6};
  static const size_t steps[] = {SIZE_MAX, 65536, 4099};
  for (size_t i = 0; i < COUNT(lengths); i++) {
    unsigned char *body = malloc(lengths[i]);
    assert_non_null(body);
    for (size_t k = 0; k < lengths[i]; k++)
      body[k] = (unsigned char)(k * 7 + (k >> 11));
    for (size_t k = 0; k < 2 * COUNT(steps); k++) {
      struct outbox o;
      struct sent sent;
      int released = 0, by_ref = k >= COUNT(steps);
      outbox_init(&o);
      struct fdset fds = some_fds(1);
      if (by_ref)
        outbox_put_ref(&o, CMD_ARG, 7, body, lengths[i], count_release, &released);
      else
        outbox_put(&o, CMD_FORK, 7, body, lengths[i], &fds);
      fdset_close(&fds);
      assert_int_equal(o.nbytes, lengths[i] + (size_t)parts[i] * FRAME_HEADER_SIZE);
      send_all(&o, &sent, steps[k % COUNT(steps)]);
      assert_int_equal(released, by_ref);
      assert_int_equal(check_parts(&sent.wire, by_ref ? CMD_ARG : CMD_FORK, 7, !by_ref,
                                   body, lengths[i]),
                       parts[i]);
      buf_deinit(&sent.wire);
      outbox_deinit(&o);
    }
    free(body);
  }
}

static void test_borrowed_body_is_not_copied(void **state) {
  static char body[100];
  struct outbox o;
  struct iovec iov[OUTBOX_IOV_MAX];
  const int *fds;
  int nfds, released = 0;
  outbox_init(&o);
  assert_int_equal(
      outbox_put_ref(&o, CMD_ARG, 0, body, sizeof body, count_release, &released), 0);
  assert_int_equal(outbox_next(&o, iov, &fds, &nfds), 2);
  assert_ptr_equal(iov[1].iov_base, body);
  outbox_sent(&o, 115);
  assert_int_equal(released, 0); /* the last byte has not gone */
  outbox_sent(&o, 1);
  assert_int_equal(released, 1);
  outbox_deinit(&o);
  assert_int_equal(released, 1);
}

/* A part never has bytes of two pieces; the last one's last part has no FRAME_MORE. */
static void test_pieces_are_one_body(void **state) {
  enum { LONG = FRAME_BODY_MAX + 10 };
  unsigned char *body = malloc(LONG);
  for (size_t i = 0; i < LONG; i++)
    body[i] = (unsigned char)i;
  const struct iovec pieces[] = {
      {body, 5}, {body + 5, LONG - 20}, {body + LONG - 15, 1}, {body + LONG - 14, 14}};
  for (size_t step = 1; step < LONG * 2; step = step * 3 + 1) {
    struct outbox o;
    struct sent sent;
    struct fdset fds = some_fds(2);
    int released = 0;
    outbox_init(&o);
    assert_int_equal(
        outbox_put_pieces(&o, CMD_ARG, 0, pieces, 4, &fds, count_release, &released), 0);
    assert_int_equal(fds.n, 0);
    assert_int_equal(o.nbytes, LONG + 4 * FRAME_HEADER_SIZE);
    outbox_put(&o, CMD_ARG, 0, "z", 1, NULL);
    send_all(&o, &sent, step);
    assert_int_equal(released, 1);
    assert_int_equal(sent.nfds, 2);
    assert_int_equal(sent.fds_at[0], 0);
    const unsigned char *at = buf_peek(&sent.wire);
    size_t n = 0;
    for (int i = 0; i < 4; i++) {
      struct frame f;
      assert_int_equal(frame_decode(&f, at, CMD_SETUP, CMD_LAST), 0);
      assert_int_equal(f.type, CMD_ARG);
      assert_int_equal(f.length, pieces[i].iov_len);
      assert_int_equal(f.nfds, i == 0 ? 2 : 0);
      assert_int_equal(f.flags, i < 3 ? FRAME_MORE : 0);
      assert_memory_equal(at + FRAME_HEADER_SIZE, body + n, f.length);
      n += f.length;
      at += FRAME_HEADER_SIZE + f.length;
    }
    assert_int_equal(n, LONG);
    buf_deinit(&sent.wire);
    outbox_deinit(&o);
  }
  free(body);
}

static void test_pieces_that_are_dropped_are_released_once(void **state) {
  const struct iovec pieces[] = {{(void *)(uintptr_t) "ab", 2},
                                 {(void *)(uintptr_t) "c", 1}};
  for (size_t step = 0; step < 3 + 2 * FRAME_HEADER_SIZE; step++) {
    struct outbox o;
    struct sent sent = {0};
    int released = 0;
    buf_init(&sent.wire, SIZE_MAX);
    outbox_init(&o);
    outbox_put_pieces(&o, CMD_ARG, 0, pieces, 2, NULL, count_release, &released);
    if (step > 0)
      send_some(&o, &sent, step);
    assert_int_equal(released, 0);
    outbox_deinit(&o);
    assert_int_equal(released, 1);
    buf_deinit(&sent.wire);
  }
}

static void test_what_is_left_of_a_borrowed_body_moves(void **state) {
  static const size_t gone[] = {
      0, 1, 16, 17, 5000, FRAME_BODY_MAX + 16, FRAME_BODY_MAX + 40};
  enum { N = FRAME_BODY_MAX + 3000 };
  static unsigned char body[N], to[N];
  for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) {
    struct outbox o;
    struct sent sent = {0};
    outbox_init(&o);
    buf_init(&sent.wire, SIZE_MAX);
    outbox_move(&o, body, N, to);
    assert_int_equal(outbox_put(&o, ANS_DONE, 1, NULL, 0, NULL), 0);
    outbox_move(&o, body, N, to); /* not a borrowed one */
    memset(body, 'a', N);
    assert_int_equal(outbox_put_ref(&o, CMD_ARG, 2, body, N, NULL, NULL), 0);
    for (size_t left = 16 + gone[i]; left > 0;)
      left -= send_some(&o, &sent, left);
    outbox_move(&o, to, N, body); /* nor one that lies elsewhere */
    outbox_move(&o, body, N, to);
    memset(body, '!', N);
    while (send_some(&o, &sent, 100000) > 0)
      ;
    assert_int_equal(buf_size(&sent.wire), 16 + N + 32);
    for (size_t k = 0; k < N; k++)
      assert_int_equal(buf_peek(&sent.wire)[32 + k + (k >= FRAME_BODY_MAX ? 16 : 0)],
                       'a');
    outbox_move(&o, body, N, to); /* all of it has gone */
    buf_deinit(&sent.wire);
    outbox_deinit(&o);
  }
}

static void test_empty_borrowed_body_is_one_frame(void **state) {
  struct outbox o;
  struct sent sent;
  int released = 0;
  outbox_init(&o);
  assert_int_equal(outbox_put_ref(&o, CMD_ARG, 3, "", 0, count_release, &released), 0);
  send_all(&o, &sent, SIZE_MAX);
  assert_int_equal(released, 1);
  assert_int_equal(check_parts(&sent.wire, CMD_ARG, 3, 0, (const unsigned char *)"", 0),
                   1);
  buf_deinit(&sent.wire);
  outbox_deinit(&o);
}

static void test_deinit_closes_and_releases_what_is_left(void **state) {
  static char body[3 * FRAME_BODY_MAX];
  for (size_t gone = 0; gone < 100; gone += 33) {
    struct outbox o;
    struct sent sent = {0};
    int released = 0;
    outbox_init(&o);
    buf_init(&sent.wire, SIZE_MAX);
    struct fdset one = some_fds(1), two = some_fds(2);
    outbox_put(&o, CMD_FD, 0, NULL, 0, &one);
    outbox_put_ref(&o, CMD_ARG, 0, body, sizeof body, count_release, &released);
    outbox_put(&o, CMD_FD, 0, body, sizeof body, &two);
    if (gone > 0)
      send_some(&o, &sent, gone);
    assert_int_equal(released, 0);
    outbox_deinit(&o);
    assert_int_equal(released, 1);
    assert_true(outbox_empty(&o));
    buf_deinit(&sent.wire);
  }
}

static void test_failed_put_takes_descriptors_and_releases(void **state) {
  struct outbox o;
  outbox_init(&o);
  struct fdset fds = some_fds(2);
  int number = fds.fd[0];
  /* A length that no allocator can give; the body is never read. */
  assert_int_equal(outbox_put(&o, CMD_ARG, 0, &o, SIZE_MAX / 2 + 4096, &fds), -ENOMEM);
  assert_false(is_open(number));
  assert_int_equal(fds.n, 0);
  assert_true(outbox_empty(&o));
  assert_int_equal(o.nbytes, 0);
  outbox_deinit(&o);
}

static struct outbox *chained;

static void put_another(void *data) {
  outbox_put(chained, CMD_ARG, 2, "next", 4, NULL);
}

static void test_release_may_put_more(void **state) {
  struct outbox o;
  struct sent sent;
  outbox_init(&o);
  chained = &o;
  outbox_put_ref(&o, CMD_ARG, 1, "body", 4, put_another, NULL);
  send_all(&o, &sent, SIZE_MAX);
  assert_int_equal(buf_size(&sent.wire), 40);
  buf_deinit(&sent.wire);
  outbox_deinit(&o);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_frame_goes_as_header_and_body),
      census_test(test_small_frames_share_one_message),
      census_test(test_more_frames_than_iovecs_still_go),
      census_test(test_outbox_sends_fds_once),
      census_test(test_fds_begin_a_message_of_their_own),
      census_test(test_every_short_write_gives_the_same_bytes),
      census_test(test_long_bodies_go_in_parts),
      census_test(test_borrowed_body_is_not_copied),
      census_test(test_pieces_are_one_body),
      census_test(test_pieces_that_are_dropped_are_released_once),
      census_test(test_what_is_left_of_a_borrowed_body_moves),
      census_test(test_empty_borrowed_body_is_one_frame),
      census_test(test_deinit_closes_and_releases_what_is_left),
      census_test(test_failed_put_takes_descriptors_and_releases),
      census_test(test_release_may_put_more),
  };
  return cmocka_run_group_tests_name("outbox", tests, NULL, NULL);
}
