/* libFuzzer: arbitrary bytes, descriptors and orders of reading against the inbox. One
 * process; the descriptors are numbers that name nothing, so millions of runs cost no
 * kernel. What must hold: no crash, no byte invented or lost, room within bounds, never
 * more descriptors than came.
 *
 * The input is a script: a byte says what to do, the next how much.
 *   bit 0   exact mode from here on (else bulk)
 *   bits 1-3  so many descriptors come with this read
 *   bit 4   the read was cut (MSG_CTRUNC)
 *   bit 5   frames are not taken after this read
 *   bit 6   a long body is opened, and read elsewhere
 */
#undef NDEBUG /* its asserts are the test */
#include "base/result.h"
#include "wire/inbox.h"
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct script {
  const uint8_t *p, *end;
  size_t fed, delivered; /* bytes */
  size_t nfds_fed, nfds_taken;
  size_t body_at, body_length; /* of the open frame */
};

static unsigned char body[FRAME_BODY_MAX];

static unsigned next_byte(struct script *s) {
  return s->p < s->end ? *s->p++ : 0;
}

/* 0, or negative: the connection would end. */
static int take_frames(struct inbox *in, struct script *s) {
  struct frame f;
  int r;
  while ((r = inbox_next(in, &f)) == 0) {
    volatile unsigned sum = 0;
    assert(f.length <= FRAME_BODY_MAX && f.nfds <= FRAME_FDS_MAX);
    assert(f.type >= CMD_SETUP && f.type <= CMD_LAST);
    for (size_t i = 0; i < f.length; i++)
      sum += f.body[i]; /* all of it is there to be read */
    int present = f.nfds - inbox_lost_fds(in);
    assert(present >= 0);
    for (int i = 0; i < present && sum % 3 != 0; i++, s->nfds_taken++)
      assert(inbox_take_fd(in) == -1);
    s->delivered += FRAME_HEADER_SIZE + f.length;
  }
  assert(r == MF_AGAIN || r == -EPROTO);
  assert(s->nfds_taken <= s->nfds_fed);
  assert(s->fed == s->delivered + inbox_pending(in));
  return r < 0 ? r : 0;
}

static void take_some_fds(struct inbox *in, const struct frame *f, struct script *s) {
  int present = f->nfds - inbox_lost_fds(in);
  for (int i = 0; i < present; i += 2, s->nfds_taken++)
    assert(inbox_take_fd(in) == -1);
}

/* 0, or -EPROTO: a long frame without its descriptors. */
static int open_body(struct inbox *in, struct script *s) {
  struct frame f;
  size_t have;
  int r = inbox_open(in, &f, &have);
  assert(r == 0 || r == MF_AGAIN || r == -EPROTO);
  if (r != 0)
    return r < 0 ? r : 0;
  assert(have + INBOX_OPEN_MIN <= f.length && f.length <= FRAME_BODY_MAX);
  assert(inbox_open_left(in) == f.length - have);
  memcpy(body, f.body, have);
  take_some_fds(in, &f, s);
  s->delivered += FRAME_HEADER_SIZE + have;
  s->body_at = have;
  s->body_length = f.length;
  return 0;
}

/* As much of the body as the script wants, and what comes behind. */
static int feed_body(struct inbox *in, struct script *s, size_t n) {
  size_t left = inbox_open_left(in), room = 0;
  struct iovec iov[2];
  int niov = inbox_rooms(in, body + s->body_at, n < left ? n : left, iov);
  assert(s->body_at + left == s->body_length);
  if (niov == 0)
    return -1;
  for (int i = 0; i < niov && n > room; i++) {
    size_t here = n - room < iov[i].iov_len ? n - room : iov[i].iov_len;
    memcpy(iov[i].iov_base, s->p + room, here);
    room += here;
  }
  s->p += room;
  s->fed += room;
  size_t taken = inbox_took(in, room);
  s->body_at += taken;
  s->delivered += taken;
  assert(inbox_open_left(in) == left - taken);
  assert(taken == room || inbox_open_left(in) == 0);
  return inbox_fed(in, room - taken, NULL);
}

/* One read as the script says. 0, or not: the connection would end. */
static int feed(struct inbox *in, struct script *s) {
  unsigned how = next_byte(s), wanted = next_byte(s) + 1;
  struct fdset fds;
  size_t room;
  if (how & 64) { /* runs of such reads are longer */
    wanted *= 64;
    int r = inbox_open_left(in) == 0 ? open_body(in, s) : 0;
    if (r < 0)
      return r;
  }
  if (inbox_open_left(in) > 0) {
    size_t left = (size_t)(s->end - s->p);
    int r = left == 0 ? -1 : feed_body(in, s, wanted < left ? wanted : left);
    return r < 0 ? r : take_frames(in, s);
  }
  inbox_set_exact(in, how & 1);
  unsigned char *to = inbox_room(in, &room);
  if (!to)
    return take_frames(in, s); /* frames in the way */
  assert(room > 0 && room <= INBOX_MAX);
  size_t n = (size_t)(s->end - s->p);
  if (n > wanted)
    n = wanted;
  if (n > room)
    n = room;
  memcpy(to, s->p, n);
  s->p += n;
  s->fed += n;
  fdset_init(&fds);
  for (unsigned i = (how >> 1) & 7; i > 0; i--, s->nfds_fed++)
    fdset_push(&fds, -1);
  int r = inbox_fed(in, n, &fds);
  assert(fds.n == 0);
  if (r == 0 && (how & 16))
    r = inbox_cut(in);
  return r < 0 || (how & 32) ? r : take_frames(in, s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct script script = {.p = data, .end = data + size};
  struct inbox in;
  inbox_init(&in, CMD_SETUP, CMD_LAST);
  while (script.p < script.end && feed(&in, &script) == 0)
    ;
  inbox_deinit(&in);
  return 0;
}
