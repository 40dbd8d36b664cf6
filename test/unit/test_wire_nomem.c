/* The wire without memory: the n-th allocation fails, once and for good, for every n.
 * Each time nothing is lost: descriptors closed, releases called once, what was queued
 * before still whole. Linked with malloc and realloc wrapped (unit/meson.build). */
#include "unit/unit.h"

#include "base/result.h"
#include "wire/inbox.h"
#include "wire/outbox.h"

void *__real_malloc(size_t n);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_realloc(void *p, size_t n);

static long fail_at = -1; /* allocations until one fails; negative: none does */
static int for_good;

static int fails(void) {
  if (fail_at < 0)
    return 0;
  if (fail_at > 0) {
    fail_at--;
    return 0;
  }
  if (!for_good)
    fail_at = -1;
  errno = ENOMEM;
  return 1;
}

void *__wrap_malloc(size_t n) {
  return fails() ? NULL : __real_malloc(n);
}

void *__wrap_realloc(void *p, size_t n) {
  return fails() ? NULL : __real_realloc(p, n);
}

static void count_release(void *data) {
  ++*(int *)data;
}

/* Queues four messages with whatever memory there is. Gives the number that failed. */
static int put_four(struct outbox *o, int *released, size_t *ret_accepted) {
  static char body[3 * FRAME_BODY_MAX];
  int failures = 0;
  struct fdset fds;
  fdset_init(&fds);
  *ret_accepted = 0;
  fdset_push(&fds, fd_open_null());
  for (int i = 0; i < 4; i++) {
    size_t length = i == 0 ? 3 : i == 1 ? 5000 : sizeof body;
    int r = i == 2 ? outbox_put_ref(o, CMD_ARG, 1, body, length, count_release, released)
                   : outbox_put(o, CMD_ARG, 1, body, length, &fds);
    assert_true(r == 0 || r == -ENOMEM);
    assert_true(fds.n == 0);
    failures += r < 0;
    *ret_accepted += r < 0 ? 0 : length;
  }
  return failures;
}

static void outbox_survives(long n, int *ret_failures) {
  struct outbox o;
  struct iovec iov[OUTBOX_IOV_MAX];
  const int *fds;
  int nfds, released = 0;
  size_t accepted, sent = 0;
  outbox_init(&o);
  fail_at = n;
  *ret_failures = put_four(&o, &released, &accepted);
  fail_at = -1;
  while (outbox_next(&o, iov, &fds, &nfds) > 0) {
    sent += iov[0].iov_len;
    outbox_sent(&o, iov[0].iov_len);
  }
  assert_true(sent >= accepted);
  assert_int_equal(released, 1);
  assert_int_equal(o.nbytes, 0);
  outbox_deinit(&o);
  assert_int_equal(released, 1);
}

static void test_outbox_with_every_allocation_failing(void **state) {
  for (for_good = 0; for_good < 2; for_good++) {
    int failures = 1;
    for (long n = 0; failures > 0; n++) {
      outbox_survives(n, &failures);
      assert_true(n < 100);
    }
  }
}

/* A message in pieces is queued as a whole or not at all. */
static void test_pieces_with_every_allocation_failing(void **state) {
  static char pieces[3][100];
  const struct iovec iov[] = {{pieces[0], 100}, {pieces[1], 50}, {pieces[2], 1}};
  int r = -ENOMEM;
  for (long n = 0; r < 0; n++) {
    struct outbox o;
    struct fdset fds;
    int released = 0;
    outbox_init(&o);
    fdset_init(&fds);
    fdset_push(&fds, fd_open_null());
    fail_at = n;
    r = outbox_put_pieces(&o, CMD_ARG, 1, iov, COUNT(iov), &fds, count_release,
                          &released);
    fail_at = -1;
    assert_true(r == 0 || r == -ENOMEM);
    assert_int_equal(fds.n, 0);
    assert_int_equal(released, r < 0);
    assert_int_equal(o.nbytes, r < 0 ? 0 : 3 * FRAME_HEADER_SIZE + 151);
    outbox_deinit(&o);
    assert_int_equal(released, 1);
    assert_true(n < 100);
    if (n == 0)
      assert_int_equal(r, -ENOMEM);
  }
}

/* Feeds a frame with descriptors, then a longest one. 0, or -ENOMEM on the way. */
static int feed_two(struct inbox *in) {
  unsigned char header[FRAME_HEADER_SIZE];
  static const struct frame frames[] = {{.type = CMD_FD, .nfds = 16},
                                        {.type = CMD_ARG, .length = FRAME_BODY_MAX}};
  for (size_t i = 0; i < COUNT(frames); i++) {
    size_t left = FRAME_HEADER_SIZE + frames[i].length;
    struct frame f;
    frame_encode(header, &frames[i]);
    for (int first = 1; left > 0; first = 0) {
      size_t room;
      struct fdset fds;
      fdset_init(&fds);
      unsigned char *to = inbox_room(in, &room);
      if (!to)
        return -errno;
      if (first) {
        memcpy(to, header, sizeof header);
        for (int k = 0; k < frames[i].nfds; k++)
          fdset_push(&fds, fd_open_null());
      }
      size_t n = first ? sizeof header : room < left ? room : left;
      int r = inbox_fed(in, n, &fds);
      assert_int_equal(fds.n, 0);
      if (r < 0)
        return r;
      left -= n;
    }
    assert_int_equal(inbox_next(in, &f), 0);
  }
  return 0;
}

static void test_inbox_with_every_allocation_failing(void **state) {
  for (for_good = 0; for_good < 2; for_good++) {
    int r = -ENOMEM;
    for (long n = 0; r < 0; n++) {
      struct inbox in;
      inbox_init(&in, CMD_SETUP, CMD_LAST);
      fail_at = n;
      r = feed_two(&in);
      fail_at = -1;
      assert_true(r == 0 || r == -ENOMEM);
      inbox_deinit(&in);
      assert_true(n < 100);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_outbox_with_every_allocation_failing),
      census_test(test_pieces_with_every_allocation_failing),
      census_test(test_inbox_with_every_allocation_failing),
  };
  return cmocka_run_group_tests_name("wire without memory", tests, NULL, NULL);
}
