/* libFuzzer: arbitrary bytes, descriptors and orders of reading against the reader of
 * messages. The descriptors are numbers that name nothing. What must hold: no crash; a
 * message is as long as its parts and within the limit; no byte is invented or lost;
 * memory only for what came.
 *
 * The input is a script: the first byte chooses the options (bit 0: descriptors only with
 * their frame; bit 1: none in any message; bit 2: memory for bodies in small pieces);
 * then each byte says how a read goes, the next how long it is. bits 0-2  so many
 * descriptors come with this read bit 3     the read was cut (MSG_CTRUNC) bit 4 messages
 * are not taken after this read bits 5-7  a factor: reads of up to 64 KiB
 */
#undef NDEBUG /* its asserts are the test */
#include "base/result.h"
#include "wire/message.h"
#include "wire/rpc_proto.h"
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BODY_MAX = 256 * 1024, FDS_MAX = 100 };

struct script {
  const uint8_t *p, *end;
  size_t fed, delivered; /* bytes */
  size_t nfds_fed, nfds_delivered;
};

struct owner {
  struct message_store store;
  unsigned char *body; /* exactly as large as what was asked for */
  size_t length, room, piece;
};

static struct owner *owner_of(struct message_store *s) {
  return (struct owner *)(void *)((char *)s - offsetof(struct owner, store));
}

static void begin_body(struct message_store *s) {
  assert(owner_of(s)->length == 0);
}

static void *body_room(struct message_store *s, size_t n, size_t *ret_n) {
  struct owner *o = owner_of(s);
  assert(n > 0);
  *ret_n = n < o->piece ? n : o->piece;
  o->room = *ret_n;
  o->body = realloc(o->body, o->length + *ret_n);
  assert(o->body);
  return o->body + o->length;
}

static void commit_body(struct message_store *s, size_t n) {
  struct owner *o = owner_of(s);
  assert(n <= o->room);
  o->length += n;
  o->room = 0;
  assert(o->length <= BODY_MAX);
}

static const void *body(struct message_store *s) {
  return owner_of(s)->body ? owner_of(s)->body : (const void *)"";
}

static const unsigned char rules[RPC_REQUEST_LAST - RPC_CALL + 1] = {
    [RPC_CALL - RPC_CALL] = MESSAGE_NUMBERED | MESSAGE_PARTS | MESSAGE_HANDLES,
    [RPC_GRANT - RPC_CALL] = MESSAGE_HANDLES | MESSAGE_AHEAD,
    [RPC_END - RPC_CALL] = MESSAGE_EMPTY,
    [RPC_CHUNK - RPC_CALL] = MESSAGE_NUMBERED | MESSAGE_PARTS | MESSAGE_HANDLES,
};

static unsigned next_byte(struct script *s) {
  return s->p < s->end ? *s->p++ : 0;
}

/* 0, or negative: the connection would end. */
static int take(struct message_reader *r, struct owner *o, struct script *s) {
  struct message m;
  int rc;
  while ((rc = message_next(r, &m)) == 0) {
    volatile unsigned sum = 0; /* every byte can be read */
    assert(m.type >= RPC_CALL && m.type <= RPC_REQUEST_LAST && m.type != RPC_GRANT);
    assert(!(rules[m.type - RPC_CALL] & MESSAGE_NUMBERED) == !m.id);
    assert(m.length <= BODY_MAX && m.nfds <= FDS_MAX);
    assert(!m.stored || (m.length == o->length && m.body == body(&o->store)));
    for (size_t i = 0; i < m.length; i++)
      sum = sum + ((const unsigned char *)m.body)[i];
    (void)sum;
    s->delivered += FRAME_HEADER_SIZE + m.length;
    s->nfds_delivered += m.nfds;
    if (m.stored)
      o->length = 0;
  }
  assert(s->delivered <= s->fed && s->nfds_delivered <= s->nfds_fed);
  assert(rc == MF_AGAIN || (rc == -EPROTO && r->wrong));
  return rc < 0 ? rc : 0;
}

static int feed(struct message_reader *r, struct owner *o, struct script *s) {
  unsigned how = next_byte(s);
  size_t n = (next_byte(s) + 1) * (size_t)(1 + (how >> 5) * 36), went = 0;
  struct iovec iov[2];
  struct fdset fds;
  int niov = message_rooms(r, iov);
  if (niov == 0)
    return take(r, o, s); /* messages are in the way */
  if (n > (size_t)(s->end - s->p))
    n = (size_t)(s->end - s->p);
  for (int i = 0; i < niov && went < n; i++) {
    size_t some = iov[i].iov_len < n - went ? iov[i].iov_len : n - went;
    memcpy(iov[i].iov_base, s->p + went, some);
    went += some;
  }
  s->p += went;
  s->fed += went;
  fdset_init(&fds);
  for (unsigned i = how & 7; i > 0; i--, s->nfds_fed++)
    fdset_push(&fds, -1);
  int rc = message_fed(r, went, &fds);
  assert(fds.n == 0);
  if (rc == 0 && (how & 8))
    rc = message_cut(r);
  return rc < 0 || (how & 16) ? rc : take(r, o, s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct script script = {.p = data, .end = data + size};
  unsigned how = next_byte(&script);
  struct owner o = {.store = {begin_body, body_room, commit_body, body},
                    .piece = how & 4 ? 100 : SIZE_MAX};
  struct message_options options = {.first_type = RPC_CALL,
                                    .last_type = RPC_REQUEST_LAST,
                                    .rules = rules,
                                    .body_max = BODY_MAX,
                                    .fds_max = FDS_MAX,
                                    .exact_fds = how & 1,
                                    .no_handles = (how & 2) != 0,
                                    .store = &o.store};
  struct message_reader reader;
  message_init(&reader, &options);
  while (script.p < script.end && feed(&reader, &o, &script) == 0)
    ;
  message_deinit(&reader);
  free(o.body);
  return 0;
}
