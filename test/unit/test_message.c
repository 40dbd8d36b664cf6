/* Whole messages from frames, torn at every byte: parts, handles ahead, long bodies read
 * to the owner's memory; and what breaks the protocol. */
#include "unit/unit.h"

#include "base/buf.h"
#include "base/result.h"
#include "wire/message.h"
#include "wire/outbox.h"
#include "wire/rpc_proto.h"
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { BODY_MAX = 100000, FDS_MAX = 8 };

/* The owner: a buffer for long bodies, and how many were begun. */
struct owner {
  struct message_store store;
  struct message_reader reader;
  struct buf body;
  int begun, fail;
  const char *refusal;
};

static struct owner *owner_of(struct message_store *s) {
  return (struct owner *)(void *)((char *)s - offsetof(struct owner, store));
}

static void begin_body(struct message_store *s) {
  struct owner *o = owner_of(s);
  assert_int_equal(buf_size(&o->body), 0);
  o->begun++;
}

/* Less than what is asked for, so that the reader has to ask again. */
static void *body_room(struct message_store *s, size_t n, size_t *ret_n) {
  struct owner *o = owner_of(s);
  assert_true(n > 0);
  *ret_n = n < 1000 ? n : 1000;
  return o->fail ? NULL : buf_reserve(&o->body, *ret_n);
}

static void commit_body(struct message_store *s, size_t n) {
  buf_commit(&owner_of(s)->body, n);
}

static const void *body(struct message_store *s) {
  return buf_peek(&owner_of(s)->body);
}

static const char *refuse(void *owner, unsigned type) {
  return ((struct owner *)owner)->refusal;
}

static const unsigned char rules[] = {
    [RPC_CALL - RPC_CALL] = MESSAGE_NUMBERED | MESSAGE_PARTS | MESSAGE_HANDLES,
    [RPC_GRANT - RPC_CALL] = MESSAGE_HANDLES | MESSAGE_AHEAD,
    [RPC_END - RPC_CALL] = MESSAGE_EMPTY,
};

static struct owner *owner_new(int exact_fds, int no_handles) {
  struct owner *o = calloc(1, sizeof *o);
  struct message_options options = {.first_type = RPC_CALL,
                                    .last_type = RPC_REQUEST_LAST,
                                    .rules = rules,
                                    .body_max = BODY_MAX,
                                    .fds_max = FDS_MAX,
                                    .no_handles = no_handles,
                                    .exact_fds = exact_fds,
                                    .store = &o->store,
                                    .refuse = refuse,
                                    .owner = o};
  assert_non_null(o);
  o->store = (struct message_store){begin_body, body_room, commit_body, body};
  buf_init(&o->body, BODY_MAX);
  message_init(&o->reader, &options);
  return o;
}

static void owner_free(struct owner *o) {
  message_deinit(&o->reader);
  buf_deinit(&o->body);
  free(o);
}

/* Feeds n bytes in as many rooms as it takes, descriptors with the first of them. */
static int feed(struct owner *o, const unsigned char *bytes, size_t n,
                struct fdset *fds) {
  int r = 0;
  while (n > 0 && r == 0) {
    struct iovec iov[2];
    size_t went = 0;
    int niov = message_rooms(&o->reader, iov);
    if (niov == 0)
      return -errno;
    for (int i = 0; i < niov && went < n; i++) {
      size_t some = iov[i].iov_len < n - went ? iov[i].iov_len : n - went;
      memcpy(iov[i].iov_base, bytes + went, some);
      went += some;
    }
    r = message_fed(&o->reader, went, fds);
    fds = NULL;
    bytes += went;
    n -= went;
  }
  return r;
}

static unsigned char *put(unsigned char *to, unsigned type, unsigned flags, uint64_t id,
                          unsigned nfds, const unsigned char *from, size_t n) {
  struct frame f = {.length = (uint32_t)n,
                    .type = (uint8_t)type,
                    .nfds = (uint8_t)nfds,
                    .flags = (uint16_t)flags,
                    .id = id};
  frame_encode(to, &f);
  if (n > 0)
    memcpy(to + FRAME_HEADER_SIZE, from, n);
  return to + FRAME_HEADER_SIZE + n;
}

static const unsigned char *text(void) {
  static unsigned char t[40000];
  for (size_t i = 0; i < sizeof t; i++)
    t[i] = (unsigned char)(i * 7 + i / 251);
  return t;
}

/* A short message, one in parts (one of them empty), a long one, one in long parts, the
 * end. */
static size_t write_stream(unsigned char *out) {
  unsigned char *at = put(out, RPC_CALL, 0, 5, 0, text(), 10);
  at = put(at, RPC_CALL, FRAME_MORE, 6, 0, text(), 3);
  at = put(at, RPC_CALL, FRAME_MORE, 0, 0, NULL, 0);
  at = put(at, RPC_CALL, 0, 0, 0, text() + 3, 9);
  at = put(at, RPC_CALL, 0, 7, 0, text(), 17000);
  at = put(at, RPC_CALL, FRAME_MORE, 8, 0, text(), 16500);
  at = put(at, RPC_CALL, 0, 0, 0, text() + 16500, 16800);
  at = put(at, RPC_END, 0, 0, 0, NULL, 0);
  return (size_t)(at - out);
}

static const struct expected {
  unsigned type;
  uint64_t id;
  size_t length;
} expected[] = {{RPC_CALL, 5, 10},
                {RPC_CALL, 6, 12},
                {RPC_CALL, 7, 17000},
                {RPC_CALL, 8, 33300},
                {RPC_END, 0, 0}};
enum { NEXPECTED = sizeof expected / sizeof expected[0] };

/* Takes what is whole. How many messages were taken in all. */
static size_t take(struct owner *o, size_t n) {
  struct message m;
  int r;
  while ((r = message_next(&o->reader, &m)) == 0) {
    const struct expected *e = &expected[n++];
    assert_true(n <= NEXPECTED);
    assert_int_equal(m.type, e->type);
    assert_int_equal(m.id, e->id);
    assert_int_equal(m.length, e->length);
    assert_int_equal(m.nfds, 0);
    assert_memory_equal(m.body, text(), m.length);
    if (m.stored)
      buf_consume(&o->body, buf_size(&o->body));
  }
  assert_int_equal(r, MF_AGAIN);
  return n;
}

static void run_torn(const unsigned char *stream, size_t size, size_t at, size_t step) {
  struct owner *o = owner_new(1, 0);
  size_t n = 0;
  assert_int_equal(feed(o, stream, at, NULL), 0);
  n = take(o, n);
  for (size_t from = at; from < size; from += step) {
    assert_int_equal(
        feed(o, stream + from, size - from < step ? size - from : step, NULL), 0);
    n = take(o, n);
    if (from + step < size)
      assert_true(n < NEXPECTED);
  }
  assert_int_equal(n, NEXPECTED);
  assert_false(message_is_partial(&o->reader));
  owner_free(o);
}

/* Within a frame's header, or some bytes from its ends: in the middle of a long body all
 * places are alike. */
static int is_near_an_edge(const unsigned char *stream, size_t at) {
  for (size_t from = 0;;) {
    struct frame f;
    assert_int_equal(frame_decode(&f, stream + from, RPC_CALL, RPC_REQUEST_LAST), 0);
    size_t next = from + FRAME_HEADER_SIZE + f.length;
    if (at < next)
      return at < from + 100 || at + 100 >= next;
    from = next;
  }
}

static void test_torn_at_every_byte(void **state) {
  (void)state;
  unsigned char *stream = malloc(100000);
  size_t size = write_stream(stream);
  for (size_t at = 1; at < size; at += is_near_an_edge(stream, at) ? 1 : 61)
    run_torn(stream, size, at, size);
  for (size_t step = 1; step < 40; step += step < 20 ? 1 : 7)
    run_torn(stream, size, 0, step);
  run_torn(stream, size, 0, 4096);
  free(stream);
}

static void test_an_end_in_the_middle_is_seen(void **state) {
  (void)state;
  unsigned char *stream = malloc(100000);
  size_t ends[] = {26, 26 + 19 + 16 + 25, 0, 0, 0}, size = write_stream(stream);
  ends[2] = ends[1] + 17016;
  ends[3] = ends[2] + 16516 + 16816;
  ends[4] = size;
  for (size_t n = 1, i = 0; n <= size; n += n < 100 ? 1 : 97) {
    struct owner *o = owner_new(1, 0);
    while (ends[i] < n)
      i++;
    feed(o, stream, n, NULL);
    take(o, 0);
    assert_int_equal(message_is_partial(&o->reader), ends[i] != n);
    owner_free(o);
  }
  free(stream);
}

static struct fdset some_fds(int n) {
  struct fdset set;
  fdset_init(&set);
  for (int i = 0; i < n; i++)
    fdset_push(&set, fd_open_null());
  return set;
}

static void test_handles_ahead_go_with_the_next_message(void **state) {
  (void)state;
  unsigned char stream[200];
  struct message m;
  for (int exact = 0; exact < 2; exact++) {
    struct owner *o = owner_new(exact, 0);
    unsigned char *second = put(stream, RPC_GRANT, 0, 0, 3, NULL, 0);
    unsigned char *end = put(second, RPC_CALL, 0, 1, 2, text(), 5);
    struct fdset fds = some_fds(3), more = some_fds(2);
    assert_int_equal(feed(o, stream, (size_t)(second - stream), &fds), 0);
    assert_int_equal(message_next(&o->reader, &m), MF_AGAIN);
    assert_int_equal(feed(o, second, (size_t)(end - second), &more), 0);
    assert_int_equal(message_next(&o->reader, &m), 0);
    assert_int_equal(m.nfds, 5);
    int taken = m.fds[1], left = m.fds[4];
    m.fds[1] = -1;
    assert_int_equal(message_next(&o->reader, &m), MF_AGAIN);
    assert_true(fcntl(taken, F_GETFD) >= 0); /* the caller's */
    assert_true(fcntl(left, F_GETFD) < 0);
    close(taken);
    owner_free(o);
  }
}

static void test_handles_of_no_message_are_closed(void **state) {
  (void)state; /* the census looks */
  unsigned char stream[100];
  struct message m;
  struct owner *o = owner_new(1, 0);
  struct fdset fds = some_fds(3);
  unsigned char *end = put(stream, RPC_GRANT, 0, 0, 3, NULL, 0);
  feed(o, stream, (size_t)(end - stream), &fds);
  assert_int_equal(message_next(&o->reader, &m), MF_AGAIN);
  owner_free(o);
}

/* Two frames at most, descriptors with the first byte, and what is said of them. */
static const struct {
  const char *wrong;
  struct {
    unsigned type, flags, nfds;
    uint64_t id;
    size_t length;
  } frames[2];
  int nfds, no_handles;
  const char *refusal;
} breaches[] = {
    {"reply without an id", {{RPC_CALL, 0, 0, 0, 1}}, 0, 0, NULL},
    {"id on a message that has none", {{RPC_END, 0, 0, 1, 0}}, 0, 0, NULL},
    {"message type not allowed in parts", {{RPC_END, FRAME_MORE, 0, 0, 0}}, 0, 0, NULL},
    {"unexpected handles (the option handles is off, or this message takes none)",
     {{RPC_END, 0, 1, 0, 0}},
     1,
     0,
     NULL},
    {"unexpected handles (the option handles is off, or this message takes none)",
     {{RPC_CALL, 0, 1, 1, 0}},
     1,
     1,
     NULL},
    {"malformed handles frame", {{RPC_GRANT, 0, 0, 0, 0}}, 0, 0, NULL},
    {"malformed handles frame", {{RPC_GRANT, 0, 1, 0, 2}}, 1, 0, NULL},
    {"body on a message that has none", {{RPC_END, 0, 0, 0, 1}}, 0, 0, NULL},
    {"handles without a message",
     {{RPC_GRANT, 0, 1, 0, 0}, {RPC_END, 0, 0, 0, 0}},
     1,
     0,
     NULL},
    {"another message inside a message in parts",
     {{RPC_CALL, FRAME_MORE, 0, 1, 4}, {RPC_END, 0, 0, 0, 0}},
     0,
     0,
     NULL},
    {"message part with its own id or handles",
     {{RPC_CALL, FRAME_MORE, 0, 1, 4}, {RPC_CALL, 0, 0, 1, 4}},
     0,
     0,
     NULL},
    {"too many handles for one message",
     {{RPC_CALL, 0, FDS_MAX + 1, 1, 0}},
     FDS_MAX + 1,
     0,
     NULL},
    {"message longer than message_max", {{RPC_CALL, 0, 0, 1, BODY_MAX + 1}}, 0, 0, NULL},
    {"handles without a matching frame", {{RPC_CALL, 0, 1, 1, 100}}, 2, 0, NULL},
    {"malformed frame", {{RPC_REQUEST_LAST + 1, 0, 0, 1, 0}}, 0, 0, NULL},
    {"malformed frame", {{RPC_CALL, 0, 2, 1, 0}}, 1, 0, NULL},
    {"not now", {{RPC_CALL, 0, 0, 1, 1}}, 0, 0, "not now"},
};

static void test_breaches(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof breaches / sizeof breaches[0]; i++) {
    unsigned char stream[100] = {0}, *at = stream;
    struct message m;
    struct owner *o = owner_new(1, breaches[i].no_handles);
    struct fdset fds = some_fds(breaches[i].nfds);
    o->refusal = breaches[i].refusal;
    for (int k = 0; k < 2 && breaches[i].frames[k].type; k++) {
      size_t length = breaches[i].frames[k].length, short_of = length < 5 ? length : 0;
      unsigned char *body_at =
          put(at, breaches[i].frames[k].type, breaches[i].frames[k].flags,
              breaches[i].frames[k].id, breaches[i].frames[k].nfds, text(), 0);
      struct frame f = {.length = (uint32_t)length,
                        .type = (uint8_t)breaches[i].frames[k].type,
                        .nfds = (uint8_t)breaches[i].frames[k].nfds,
                        .flags = (uint16_t)breaches[i].frames[k].flags,
                        .id = breaches[i].frames[k].id};
      frame_encode(at, &f); /* of a long body nothing comes */
      at = body_at + short_of;
    }
    feed(o, stream, (size_t)(at - stream), &fds);
    fdset_close(&fds);
    int r = message_next(&o->reader, &m);
    assert_int_equal(r, -EPROTO);
    assert_string_equal(o->reader.wrong, breaches[i].wrong);
    owner_free(o);
  }
}

static void test_parts_are_no_way_around_the_limit(void **state) {
  (void)state;
  unsigned char *stream = malloc(50000);
  struct owner *o = owner_new(1, 0);
  struct message m;
  unsigned char *end = put(stream, RPC_CALL, FRAME_MORE, 1, 0, text(), 40000);
  size_t fed = 0;
  int r;
  do {
    assert_int_equal(feed(o, stream, (size_t)(end - stream), NULL), 0);
    r = message_next(&o->reader, &m);
    end = put(stream, RPC_CALL, FRAME_MORE, 0, 0, text(), 40000);
    fed += 40000;
  } while (r == MF_AGAIN);
  assert_int_equal(r, -EPROTO);
  assert_true(fed > BODY_MAX && fed <= BODY_MAX + 40000);
  owner_free(o);
  free(stream);
}

static void test_no_memory_for_a_body(void **state) {
  (void)state;
  unsigned char stream[100];
  struct owner *o = owner_new(1, 0);
  struct message m;
  unsigned char *end = put(stream, RPC_CALL, FRAME_MORE, 1, 0, text(), 4);
  o->fail = 1;
  assert_int_equal(feed(o, stream, (size_t)(end - stream), NULL), 0);
  assert_int_equal(message_next(&o->reader, &m), -ENOMEM);
  owner_free(o);
}

/* Where the kernel dropped some: the message comes, and says so. */
static void test_lost_descriptors(void **state) {
  (void)state;
  unsigned char stream[100];
  struct owner *o = owner_new(0, 0);
  struct message m;
  struct fdset fds = some_fds(1);
  unsigned char *end = put(stream, RPC_CALL, 0, 1, 3, text(), 4);
  assert_int_equal(feed(o, stream, (size_t)(end - stream), &fds), 0);
  assert_int_equal(message_cut(&o->reader), 0);
  assert_int_equal(message_next(&o->reader, &m), 0);
  assert_int_equal(m.nfds, 1);
  assert_true(m.lost);
  end = put(stream, RPC_CALL, 0, 2, 0, text(), 4);
  assert_int_equal(feed(o, stream, (size_t)(end - stream), NULL), 0);
  assert_int_equal(message_next(&o->reader, &m), 0);
  assert_false(m.lost);
  owner_free(o);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_torn_at_every_byte),
      census_test(test_an_end_in_the_middle_is_seen),
      census_test(test_handles_ahead_go_with_the_next_message),
      census_test(test_handles_of_no_message_are_closed),
      census_test(test_breaches),
      census_test(test_parts_are_no_way_around_the_limit),
      census_test(test_no_memory_for_a_body),
      census_test(test_lost_descriptors),
  };
  return cmocka_run_group_tests_name("message", tests, NULL, NULL);
}
