/* One message is under way at most:
 *
 *   parts.type 0 --first part--> T, growing in the store --last part--> delivered, 0
 *
 * A part of which many bytes are missing is opened in the inbox (partial), and the
 * missing ones are read to the store. */
#include "wire/message.h"

#include "base/origin.h"
#include "base/result.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void message_init(struct message_reader *r, const struct message_options *o) {
  *r = (struct message_reader){.options = *o};
  inbox_init(&r->in, o->first_type, o->last_type);
}

static void drop_fds(struct message_reader *r) {
  while (r->nfds > 0)
    fd_drop(&r->fds[--r->nfds]);
}

void message_deinit(struct message_reader *r) {
  drop_fds(r);
  free(r->fds);
  inbox_deinit(&r->in);
  *r = (struct message_reader){.options = r->options};
}

void message_drop_fds(struct message_reader *r) {
  inbox_drop_fds(&r->in);
  while (!r->delivered && r->nfds > 0)
    fd_close(&r->fds[--r->nfds]);
}

int message_is_partial(const struct message_reader *r) {
  return r->parts.type != 0 || inbox_pending(&r->in) > 0;
}

/* ---- rules ---- */

static unsigned rules_of(const struct message_reader *r, unsigned type) {
  return r->options.rules[type - r->options.first_type];
}

static size_t body_max(const struct message_reader *r, unsigned type) {
  return rules_of(r, type) & MESSAGE_OWN ? FRAME_BODY_MAX : r->options.body_max;
}

static const char *refuse_first(const struct message_reader *r, const struct frame *f) {
  const struct message_options *o = &r->options;
  unsigned rules = rules_of(r, f->type);
  const char *wrong = o->refuse ? o->refuse(o->owner, f->type) : NULL;
  if (wrong)
    return wrong;
  if (!(rules & MESSAGE_NUMBERED) != !f->id)
    return f->id ? "id on a message that has none" : "reply without an id";
  if ((f->flags & FRAME_MORE) && !(rules & MESSAGE_PARTS))
    return "message type not allowed in parts";
  if (f->nfds && (o->no_handles || !(rules & MESSAGE_HANDLES)))
    return "unexpected handles (the option handles is off, or this message takes none)";
  if ((rules & MESSAGE_AHEAD) && (!f->nfds || f->length))
    return "malformed handles frame";
  if ((rules & MESSAGE_EMPTY) && f->length)
    return "body on a message that has none";
  return r->ahead && !(rules & MESSAGE_HANDLES) ? "handles without a message" : NULL;
}

/* What is wrong with the frame here and now; NULL: nothing. */
static const char *refuse(const struct message_reader *r, const struct frame *f) {
  const char *wrong = r->parts.type ? parts_refuse(&r->parts, f) : refuse_first(r, f);
  if (wrong)
    return wrong;
  if (r->nfds + f->nfds > r->options.fds_max)
    return "too many handles for one message";
  return f->length > body_max(r, f->type) - r->parts.length
             ? "message longer than message_max"
             : NULL;
}

#define broken(r, text) ((r)->wrong = (text), ORIGINAL(-EPROTO))

/* ---- putting together ---- */

static int take_fds(struct message_reader *r, const struct frame *f) {
  int lost = inbox_lost_fds(&r->in);
  size_t need = r->nfds + f->nfds;
  if (need > r->fds_cap) {
    size_t cap = need < FRAME_FDS_MAX ? FRAME_FDS_MAX : need * 2;
    int *fds = realloc(r->fds, cap * sizeof *fds);
    if (!fds)
      return -ENOMEM;
    r->fds = fds;
    r->fds_cap = cap;
  }
  for (int i = 0; i < f->nfds - lost; i++)
    r->fds[r->nfds++] = inbox_take_fd(&r->in);
  r->lost |= lost > 0;
  return 0;
}

static int put(struct message_reader *r, const unsigned char *data, size_t n) {
  struct message_store *s = r->options.store;
  while (n > 0) {
    size_t some;
    void *room = s->room(s, n, &some);
    if (!room)
      return -ENOMEM;
    memcpy(room, data, some);
    s->commit(s, some);
    data += some;
    n -= some;
  }
  return 0;
}

static int deliver(struct message_reader *r, struct message *ret, unsigned type,
                   uint64_t id, const void *body, size_t length) {
  *ret = (struct message){.type = type,
                          .id = id,
                          .body = body,
                          .length = length,
                          .stored = r->parts.type != 0,
                          .lost = r->lost,
                          .fds = r->fds,
                          .nfds = r->nfds};
  parts_end(&r->parts);
  r->lost = r->ahead = 0;
  r->delivered = 1;
  return 0;
}

static int deliver_stored(struct message_reader *r, struct message *ret) {
  struct message_store *s = r->options.store;
  return deliver(r, ret, r->parts.type, r->parts.id, s->body(s), r->parts.length);
}

/* A frame of whose body the first `have` bytes are there. 0: a message is whole. */
static int on_frame(struct message_reader *r, const struct frame *f, size_t have,
                    struct message *ret) {
  const char *wrong = refuse(r, f);
  int more = (f->flags & FRAME_MORE) != 0;
  if (wrong)
    return broken(r, wrong);
  int rc = f->nfds > 0 ? take_fds(r, f) : 0;
  if (rc < 0)
    return rc;
  if (rules_of(r, f->type) & MESSAGE_AHEAD) {
    r->ahead = 1;
    return MF_AGAIN;
  }
  if (!r->parts.type && !more && have == f->length)
    return deliver(r, ret, f->type, f->id, f->body, f->length);
  if (!r->parts.type) {
    parts_begin(&r->parts, f);
    r->options.store->begin(r->options.store);
  }
  rc = put(r, f->body, have);
  if (rc == 0)
    rc = parts_grow(&r->parts, f->length, body_max(r, f->type));
  if (rc < 0)
    return rc;
  r->partial = have < f->length;
  r->more = more;
  return more || r->partial ? MF_AGAIN : deliver_stored(r, ret);
}

static void forget_delivered(struct message_reader *r) {
  if (r->delivered && r->nfds > 0)
    drop_fds(r);
  r->delivered = 0;
}

/* 0: a frame, *ret_have bytes of its body are there; MF_AGAIN, or -EPROTO. */
static int next_frame(struct message_reader *r, struct frame *f, size_t *ret_have) {
  int rc = inbox_next(&r->in, f);
  if (rc == 0) {
    *ret_have = f->length;
    return 0;
  }
  if (rc == MF_AGAIN && r->options.exact_fds && !inbox_fds_are_announced(&r->in))
    return broken(r, "handles without a matching frame");
  if (rc == MF_AGAIN)
    rc = inbox_open(&r->in, f, ret_have); /* a long body is not awaited in the inbox */
  return rc < 0 ? broken(r, "malformed frame") : rc;
}

int message_next(struct message_reader *r, struct message *ret) {
  struct frame f;
  size_t have;
  forget_delivered(r);
  if (r->partial && inbox_open_left(&r->in) == 0) {
    r->partial = 0;
    if (!r->more)
      return deliver_stored(r, ret);
  }
  for (;;) {
    int rc = next_frame(r, &f, &have);
    if (rc != 0)
      return rc;
    rc = on_frame(r, &f, have, ret);
    if (rc <= 0)
      return rc;
  }
}

/* ---- reading ---- */

int message_rooms(struct message_reader *r, struct iovec iov[2]) {
  struct message_store *s = r->options.store;
  size_t left = inbox_open_left(&r->in), n = 0;
  void *room = left > 0 ? s->room(s, left, &n) : NULL;
  if (left > 0 && !room) {
    errno = ENOMEM;
    return 0;
  }
  return inbox_rooms(&r->in, room, n, iov);
}

int message_fed(struct message_reader *r, size_t n, struct fdset *fds) {
  struct message_store *s = r->options.store;
  size_t of_body = inbox_took(&r->in, n);
  if (of_body > 0)
    s->commit(s, of_body);
  return inbox_fed(&r->in, n - of_body, fds);
}

int message_cut(struct message_reader *r) {
  return inbox_cut(&r->in);
}
