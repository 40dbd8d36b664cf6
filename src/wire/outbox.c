/* Frames and descriptors in; "send these bytes with those descriptors" out; "n went"
 * back. Runs in every process; the only system call is the closing of descriptors.
 *
 * The queue is a list of segments of two kinds:
 *
 *   copied    | frame | frame | frame ... | free |   whole frames, gathered while they fit
 *   borrowed  | header of the part under way |       and the body, which stays where it is
 *
 * Descriptors belong to a segment's first byte, so a frame that has some begins a new
 * one. A borrowed body is longer than a frame may be as a rule: its parts get their
 * headers one after the other, in place, so that a message of 4 GiB costs one small
 * block. A body in pieces is a borrowed segment for each, and a part never has bytes of
 * two: more follow says that a piece is not the last. */
#include "wire/outbox.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL_SEGMENT = 1024 }; /* block size; holds two dozen answers or a fused spawn */

struct outbox_segment {
  struct list link;
  int borrowed;
  int nfds; /* to go with the first byte; 0 once they went */
  int fds[FRAME_FDS_MAX];
  union {
    struct {
      size_t cap, size, sent;
      unsigned char *data; /* behind this struct */
    } copied;
    struct {
      const unsigned char *body; /* what is left, the part under way included */
      size_t left;
      size_t part, part_sent; /* of header and body together */
      unsigned char header[FRAME_HEADER_SIZE];
      uint8_t type;
      int more_follow; /* pieces of the same body */
      void (*release)(void *);
      void *release_data;
    } ref;
  } u;
};

#define segment_of(it) list_entry(it, struct outbox_segment, link)

void outbox_init(struct outbox *o) {
  list_init(&o->segments);
  o->nbytes = 0;
  o->spare = NULL;
}

int outbox_empty(const struct outbox *o) {
  return list_empty(&o->segments);
}

/* ---- segments ---- */

static void close_fds(struct outbox_segment *s) {
  for (int i = 0; i < s->nfds; i++)
    fd_close(&s->fds[i]);
  s->nfds = 0;
}

static void move_fds(struct outbox_segment *s, struct fdset *fds) {
  for (int i = 0; fds && i < fds->n; i++)
    s->fds[s->nfds++] = fdset_steal(fds, i);
}

static int is_small(const struct outbox_segment *s) {
  return !s->borrowed && sizeof *s + s->u.copied.cap == SMALL_SEGMENT;
}

/* The segment is off the list before its release runs, which may put further frames. */
static void end_segment(struct outbox *o, struct outbox_segment *s) {
  list_remove(&s->link);
  close_fds(s);
  if (s->borrowed && s->u.ref.release)
    s->u.ref.release(s->u.ref.release_data);
  if (is_small(s) && !o->spare)
    o->spare = s;
  else
    free(s);
}

void outbox_deinit_some(struct outbox *o, int n, struct list *rest) {
  o->nbytes = 0;
  while (!list_empty(&o->segments)) {
    struct outbox_segment *s = segment_of(o->segments.next);
    int slow = s->nfds > 0 && !s->borrowed; /* what is borrowed is released now */
    if (slow && n == 0) {
      list_remove(&s->link);
      list_push(rest, &s->link);
      continue;
    }
    n -= slow;
    end_segment(o, s);
  }
  free(o->spare);
  o->spare = NULL;
}

void outbox_deinit(struct outbox *o) {
  outbox_deinit_some(o, INT_MAX, NULL);
}

void outbox_drop_rest(struct list *rest) {
  struct outbox_segment *s = segment_of(rest->next);
  list_remove(&s->link);
  close_fds(s);
  free(s);
}

static struct outbox_segment *new_copied(struct outbox *o, size_t need) {
  size_t cap = SMALL_SEGMENT - sizeof(struct outbox_segment);
  if (need > cap)
    cap = need;
  int small = cap == SMALL_SEGMENT - sizeof(struct outbox_segment);
  struct outbox_segment *s = small ? o->spare : NULL;
  if (s)
    o->spare = NULL;
  else if (!(s = malloc(sizeof *s + cap)))
    return NULL;
  list_init(&s->link);
  s->borrowed = s->nfds = 0;
  s->u.copied.cap = cap;
  s->u.copied.size = s->u.copied.sent = 0;
  s->u.copied.data = (unsigned char *)(s + 1);
  return s;
}

/* The last segment when the frame may follow in it, else a new one on the list. */
static struct outbox_segment *segment_for(struct outbox *o, size_t need, int nfds) {
  if (!list_empty(&o->segments) && nfds == 0) {
    struct outbox_segment *last = segment_of(o->segments.prev);
    if (!last->borrowed && last->u.copied.cap - last->u.copied.size >= need)
      return last;
  }
  struct outbox_segment *s = new_copied(o, need);
  if (s)
    list_push(&o->segments, &s->link);
  return s;
}

/* ---- put ---- */

/* Writes the header of the part that begins at body. Its id and descriptors are the first
 * part's alone. */
static void begin_part(struct outbox_segment *s, uint64_t id) {
  size_t length = s->u.ref.left < FRAME_BODY_MAX ? s->u.ref.left : FRAME_BODY_MAX;
  struct frame f = {.length = (uint32_t)length,
                    .type = s->u.ref.type,
                    .nfds = (uint8_t)s->nfds,
                    .flags =
                        length < s->u.ref.left || s->u.ref.more_follow ? FRAME_MORE : 0,
                    .id = id};
  frame_encode(s->u.ref.header, &f);
  s->u.ref.part = FRAME_HEADER_SIZE + length;
  s->u.ref.part_sent = 0;
}

static size_t bytes_in_parts(size_t length) {
  size_t parts = length ? (length - 1) / FRAME_BODY_MAX + 1 : 1;
  return length + parts * FRAME_HEADER_SIZE;
}

/* Without a release so far, and not in the outbox. NULL: no memory. */
static struct outbox_segment *new_borrowed(unsigned type, const void *body,
                                           size_t length) {
  struct outbox_segment *s = malloc(sizeof *s);
  if (!s)
    return NULL;
  list_init(&s->link);
  s->borrowed = 1;
  s->nfds = s->u.ref.more_follow = 0;
  s->u.ref.body = body;
  s->u.ref.left = length;
  s->u.ref.type = (uint8_t)type;
  s->u.ref.release = NULL;
  return s;
}

static int put_ref(struct outbox *o, unsigned type, uint64_t id, const void *body,
                   size_t length, void (*release)(void *), void *release_data,
                   struct fdset *fds) {
  struct outbox_segment *s = new_borrowed(type, body, length);
  if (!s) {
    if (release)
      release(release_data);
    return -ENOMEM;
  }
  move_fds(s, fds);
  s->u.ref.release = release;
  s->u.ref.release_data = release_data;
  begin_part(s, id);
  list_push(&o->segments, &s->link);
  o->nbytes += bytes_in_parts(length);
  return 0;
}

/* A segment for each piece. 0: no memory for all. */
static int new_segments(struct list *to, unsigned type, const struct iovec *pieces,
                        size_t n) {
  for (size_t i = 0; i < n; i++) {
    struct outbox_segment *s = new_borrowed(type, pieces[i].iov_base, pieces[i].iov_len);
    if (!s)
      return 0;
    s->u.ref.more_follow = i + 1 < n;
    list_push(to, &s->link);
  }
  return 1;
}

static void free_segments(struct list *l) {
  while (!list_empty(l)) {
    struct outbox_segment *s = segment_of(l->next);
    list_remove(&s->link);
    free(s);
  }
}

int outbox_put_pieces(struct outbox *o, unsigned type, uint64_t id,
                      const struct iovec *pieces, size_t n, struct fdset *fds,
                      void (*release)(void *), void *release_data) {
  struct list segments;
  list_init(&segments);
  if (!new_segments(&segments, type, pieces, n)) {
    free_segments(&segments);
    if (fds)
      fdset_close(fds);
    if (release)
      release(release_data);
    return -ENOMEM;
  }
  move_fds(segment_of(segments.next), fds);
  if (fds)
    fdset_close(fds);
  for (size_t i = 0; i < n; i++) {
    struct outbox_segment *s = segment_of(segments.next);
    begin_part(s, i == 0 ? id : 0);
    o->nbytes += bytes_in_parts(s->u.ref.left);
    list_remove(&s->link);
    list_push(&o->segments, &s->link);
  }
  struct outbox_segment *last = segment_of(o->segments.prev);
  last->u.ref.release = release;
  last->u.ref.release_data = release_data;
  return 0;
}

int outbox_put_ref(struct outbox *o, unsigned type, uint64_t id, const void *body,
                   size_t length, void (*release)(void *), void *release_data) {
  return put_ref(o, type, id, body, length, release, release_data, NULL);
}

void outbox_move(struct outbox *o, const void *body, size_t length, void *to) {
  if (list_empty(&o->segments))
    return;
  struct outbox_segment *s = segment_of(o->segments.prev);
  uintptr_t at = s->borrowed ? (uintptr_t)s->u.ref.body : 0;
  if (!at || at < (uintptr_t)body || at - (uintptr_t)body > length)
    return;
  memcpy(to, s->u.ref.body, s->u.ref.left);
  s->u.ref.body = to;
}

/* Too long for one frame: one copy of our own, which then goes as a borrowed body does.
 */
static int put_long(struct outbox *o, unsigned type, uint64_t id, const void *body,
                    size_t length, struct fdset *fds) {
  void *copy = malloc(length);
  if (!copy)
    return -ENOMEM;
  memcpy(copy, body, length);
  return put_ref(o, type, id, copy, length, free, copy, fds);
}

static int put_short(struct outbox *o, unsigned type, uint64_t id, const void *body,
                     size_t length, struct fdset *fds) {
  int nfds = fds ? fds->n : 0;
  size_t need = FRAME_HEADER_SIZE + length;
  struct outbox_segment *s = segment_for(o, need, nfds);
  if (!s)
    return -ENOMEM;
  struct frame f = {
      .length = (uint32_t)length, .type = (uint8_t)type, .nfds = (uint8_t)nfds, .id = id};
  unsigned char *at = s->u.copied.data + s->u.copied.size;
  frame_encode(at, &f);
  if (length > 0)
    memcpy(at + FRAME_HEADER_SIZE, body, length);
  move_fds(s, fds);
  s->u.copied.size += need;
  o->nbytes += need;
  return 0;
}

int outbox_put(struct outbox *o, unsigned type, uint64_t id, const void *body,
               size_t length, struct fdset *fds) {
  assert(!fds || fds->n <= FRAME_FDS_MAX);
  int r = length > FRAME_BODY_MAX ? put_long(o, type, id, body, length, fds)
                                  : put_short(o, type, id, body, length, fds);
  if (fds)
    fdset_close(fds);
  return r;
}

/* ---- send ---- */

static void add_iov(struct iovec *iov, int *n, const unsigned char *p, size_t length) {
  if (length > 0)
    iov[(*n)++] = (struct iovec){(void *)(uintptr_t)p, length};
}

/* The rest of the header, and the rest of the part of the body that it announces. */
static void add_part(const struct outbox_segment *s, struct iovec *iov, int *n) {
  size_t sent = s->u.ref.part_sent;
  size_t of_header = sent < FRAME_HEADER_SIZE ? sent : FRAME_HEADER_SIZE;
  size_t of_body = sent - of_header;
  add_iov(iov, n, s->u.ref.header + of_header, FRAME_HEADER_SIZE - of_header);
  add_iov(iov, n, s->u.ref.body + of_body, s->u.ref.part - FRAME_HEADER_SIZE - of_body);
}

static int is_last_part(const struct outbox_segment *s) {
  return s->u.ref.part - FRAME_HEADER_SIZE == s->u.ref.left;
}

int outbox_next(struct outbox *o, struct iovec *iov, const int **ret_fds, int *ret_nfds) {
  int n = 0;
  *ret_fds = NULL;
  *ret_nfds = 0;
  list_each(it, &o->segments) {
    struct outbox_segment *s = segment_of(it);
    if (n > OUTBOX_IOV_MAX - 2 || (n > 0 && s->nfds > 0))
      break;
    if (s->nfds > 0) {
      *ret_fds = s->fds;
      *ret_nfds = s->nfds;
    }
    if (!s->borrowed) {
      add_iov(iov, &n, s->u.copied.data + s->u.copied.sent,
              s->u.copied.size - s->u.copied.sent);
      continue;
    }
    add_part(s, iov, &n);
    if (!is_last_part(s))
      break; /* the next header does not exist yet */
  }
  return n;
}

/* Both give the bytes of n that were this segment's, and end it with the last one. */

static size_t sent_copied(struct outbox *o, struct outbox_segment *s, size_t n) {
  size_t left = s->u.copied.size - s->u.copied.sent;
  size_t mine = n < left ? n : left;
  s->u.copied.sent += mine;
  o->nbytes -= mine;
  if (s->u.copied.sent == s->u.copied.size)
    end_segment(o, s);
  return mine;
}

static size_t sent_ref(struct outbox *o, struct outbox_segment *s, size_t n) {
  size_t left = s->u.ref.part - s->u.ref.part_sent;
  size_t mine = n < left ? n : left;
  s->u.ref.part_sent += mine;
  o->nbytes -= mine;
  if (mine < left)
    return mine;
  if (is_last_part(s)) {
    end_segment(o, s);
    return mine;
  }
  s->u.ref.body += FRAME_BODY_MAX;
  s->u.ref.left -= FRAME_BODY_MAX;
  begin_part(s, 0);
  return mine;
}

void outbox_sent(struct outbox *o, size_t n) {
  assert(n <= o->nbytes);
  while (n > 0) {
    struct outbox_segment *s = segment_of(o->segments.next);
    close_fds(s);
    n -= s->borrowed ? sent_ref(o, s, n) : sent_copied(o, s, n);
  }
}
