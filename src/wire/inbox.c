/* Bytes and descriptors in, whole frames out. Runs in every process; the only system
 * call is the closing of descriptors that nobody claims.
 *
 * Bytes lie in one buffer that grows by what has arrived: first 4 KiB are offered, twice
 * as much after every read that filled its room, 64 KiB at most. A header that claims a
 * long body costs nothing until the body comes. Descriptors wait in a queue of their own,
 * and a frame takes the first nfds of it, whichever read brought them.
 *
 * The body of a frame that was opened is read elsewhere; of it only the beginning that
 * came with its header lies here. While long bodies come, the room is kept small, because
 * what is read here is copied once more.
 *
 *   bytes:  | delivered frame (frame_left) | whole or torn frames ... | room |
 *   fds:    | of the delivered one (fds_left) | unclaimed ...
 */
#include "wire/inbox.h"

#include "base/origin.h"
#include "base/result.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void inbox_init(struct inbox *in, unsigned first_type, unsigned last_type) {
  *in = (struct inbox){.first_type = first_type,
                       .last_type = last_type,
                       .want = INBOX_ROOM_MIN,
                       .fd_cap = INBOX_FEW};
  buf_init(&in->bytes, INBOX_MAX);
}

static int *queue(struct inbox *in) {
  return in->fds ? in->fds : in->few;
}

void inbox_drop_fds(struct inbox *in) {
  while (in->fd_head < in->fd_tail)
    fd_drop(
        &queue(in)[in->fd_head++]); /* a mark of the cut is negative: nothing to close */
  in->fd_head = in->fd_tail = in->fds_left = 0;
}

void inbox_close_copies(const struct inbox *in) {
  const int *fds = in->fds ? in->fds : in->few;
  for (size_t i = in->fd_head; i < in->fd_tail; i++) {
    int fd = fds[i];
    fd_close(&fd);
  }
}

void inbox_reset(struct inbox *in) {
  inbox_drop_fds(in);
  buf_consume(&in->bytes, buf_size(&in->bytes));
  in->frame_left = in->open_left = in->open_room = 0;
  in->lost = 0;
}

void inbox_deinit(struct inbox *in) {
  inbox_drop_fds(in);
  free(in->fds);
  buf_deinit(&in->bytes);
  inbox_init(in, in->first_type, in->last_type);
}

void inbox_set_exact(struct inbox *in, int exact) {
  in->exact = exact;
}

size_t inbox_pending(const struct inbox *in) {
  return buf_size(&in->bytes) - in->frame_left;
}

/* ---- descriptors ---- */

static size_t fds_held(const struct inbox *in) {
  return in->fd_tail - in->fd_head;
}

static int pop_fd(struct inbox *in) {
  int fd = queue(in)[in->fd_head++];
  if (in->fd_head == in->fd_tail)
    in->fd_head = in->fd_tail = 0;
  return fd;
}

static int reserve_fds(struct inbox *in, size_t n) {
  size_t held = fds_held(in);
  if (held + n > INBOX_FDS_MAX)
    return ORIGINAL(-EPROTO);
  if (in->fd_tail + n <= in->fd_cap)
    return 0;
  if (in->fd_head > 0)
    memmove(queue(in), queue(in) + in->fd_head, held * sizeof *in->fds);
  in->fd_head = 0;
  in->fd_tail = held;
  if (held + n <= in->fd_cap)
    return 0;
  size_t cap = in->fds ? in->fd_cap * 2 : FRAME_FDS_MAX;
  while (cap < held + n)
    cap *= 2;
  int *grown = realloc(in->fds, cap * sizeof *grown);
  if (!grown)
    return -ENOMEM;
  if (!in->fds)
    memcpy(grown, in->few, held * sizeof *grown);
  in->fds = grown;
  in->fd_cap = cap;
  return 0;
}

static int queue_fds(struct inbox *in, struct fdset *fds) {
  int r = reserve_fds(in, (size_t)fds->n);
  for (int i = 0; r == 0 && i < fds->n; i++)
    queue(in)[in->fd_tail++] = fdset_steal(fds, i);
  fdset_drop(fds);
  return r;
}

/* ---- descriptors that the kernel dropped ----
 * A sender gives each frame's descriptors in one piece, and a receive brings one piece at
 * most. So a piece that was cut belongs to one frame, of which only the header knows how
 * many are missing: FD_CUT in the queue marks where they should have been. */

enum { FD_CUT = -2 };

int inbox_cut(struct inbox *in) {
  int r = reserve_fds(in, 1);
  if (r == 0)
    queue(in)[in->fd_tail++] = FD_CUT;
  return r;
}

int inbox_lost_fds(const struct inbox *in) {
  return in->lost;
}

/* Sees whether the descriptors of a whole frame with nfds are there. They were sent with
 * its first byte, so what is not there will not come. 0 or -EPROTO. */
static int match_fds(struct inbox *in, size_t nfds) {
  in->fds_left = nfds;
  in->lost = 0;
  for (size_t i = 0; i < nfds; i++) {
    if (i == fds_held(in)) {
      in->fds_left = 0;
      return ORIGINAL(-EPROTO);
    }
    int *first = queue(in) + in->fd_head;
    if (first[i] != FD_CUT)
      continue;
    memmove(first + 1, first, i * sizeof *first);
    pop_fd(in);
    in->fds_left = i;
    in->lost = (int)(nfds - i);
    break;
  }
  return 0;
}

int inbox_take_fd(struct inbox *in) {
  assert(in->fds_left > 0);
  in->fds_left--;
  return pop_fd(in);
}

int inbox_fds_are_announced(const struct inbox *in) {
  size_t waiting = fds_held(in), have = inbox_pending(in);
  struct frame f;
  if (have == 0)
    return waiting == 0;
  if (have < FRAME_HEADER_SIZE)
    return waiting <= FRAME_FDS_MAX;
  return frame_decode(&f, buf_peek(&in->bytes), in->first_type, in->last_type) == 0 &&
         waiting == f.nfds;
}

/* ---- bytes ---- */

/* Ends the life of the delivered frame. */
static void drop_delivered(struct inbox *in) {
  for (; in->fds_left > 0; in->fds_left--) {
    int fd = pop_fd(in);
    fd_drop(&fd);
  }
  buf_consume(&in->bytes, in->frame_left);
  in->frame_left = 0;
}

/* Bytes that the frame under way still lacks; 0: it lacks none, or its header is bad. */
static size_t bytes_missing(const struct inbox *in) {
  size_t size = buf_size(&in->bytes);
  struct frame f;
  if (size < FRAME_HEADER_SIZE)
    return FRAME_HEADER_SIZE - size;
  if (frame_decode(&f, buf_peek(&in->bytes), in->first_type, in->last_type) < 0)
    return 0;
  size_t whole = FRAME_HEADER_SIZE + (size_t)f.length;
  return size < whole ? whole - size : 0;
}

static size_t bytes_allowed(const struct inbox *in) {
  return in->exact ? bytes_missing(in) : INBOX_MAX - buf_size(&in->bytes);
}

unsigned char *inbox_room(struct inbox *in, size_t *ret_n) {
  drop_delivered(in);
  size_t allowed = bytes_allowed(in);
  if (allowed == 0) {
    errno = ENOBUFS;
    return NULL;
  }
  size_t least = allowed < in->want ? allowed : in->want;
  unsigned char *room = buf_reserve(&in->bytes, least);
  if (!room)
    return NULL;
  size_t free_bytes = in->opened ? least : in->bytes.cap - in->bytes.tail;
  in->room = free_bytes < allowed ? free_bytes : allowed;
  *ret_n = in->room;
  return room;
}

int inbox_fed(struct inbox *in, size_t n, struct fdset *fds) {
  assert(n <= in->room);
  buf_commit(&in->bytes, n);
  if (n == in->room && n >= in->want && in->want < INBOX_ROOM_MAX)
    in->want *= 2;
  in->room = 0;
  return fds ? queue_fds(in, fds) : 0;
}

int inbox_next(struct inbox *in, struct frame *ret_f) {
  drop_delivered(in);
  if (in->open_left > 0)
    return MF_AGAIN;
  size_t size = buf_size(&in->bytes);
  const unsigned char *header = buf_peek(&in->bytes);
  struct frame f;
  if (size < FRAME_HEADER_SIZE)
    return MF_AGAIN;
  int r = frame_decode(&f, header, in->first_type, in->last_type);
  if (r < 0)
    return r;
  if (size < FRAME_HEADER_SIZE + (size_t)f.length)
    return MF_AGAIN;
  r = match_fds(in, f.nfds);
  if (r < 0)
    return r;
  f.body = header + FRAME_HEADER_SIZE;
  in->frame_left = FRAME_HEADER_SIZE + (size_t)f.length;
  *ret_f = f;
  return 0;
}

/* ---- bodies elsewhere ---- */

int inbox_open(struct inbox *in, struct frame *ret_f, size_t *ret_have) {
  size_t size = buf_size(&in->bytes);
  const unsigned char *header = buf_peek(&in->bytes);
  struct frame f;
  if (in->exact || in->open_left > 0 || in->frame_left > 0 || size < FRAME_HEADER_SIZE ||
      frame_decode(&f, header, in->first_type, in->last_type) < 0)
    return MF_AGAIN;
  size_t have = size - FRAME_HEADER_SIZE;
  if (f.length < have + INBOX_OPEN_MIN)
    return MF_AGAIN;
  int r = match_fds(in, f.nfds);
  if (r < 0)
    return r;
  f.body = header + FRAME_HEADER_SIZE;
  in->frame_left = size;
  in->open_left = f.length - have;
  in->want = INBOX_ROOM_MIN;
  in->opened = 1;
  *ret_f = f;
  *ret_have = have;
  return 0;
}

size_t inbox_open_left(const struct inbox *in) {
  return in->open_left;
}

int inbox_rooms(struct inbox *in, void *body, size_t n, struct iovec iov[2]) {
  int filled = 0;
  assert(n <= in->open_left);
  in->open_room = n;
  if (n > 0)
    iov[filled++] = (struct iovec){body, n};
  if (n == in->open_left) {
    size_t room;
    void *to = inbox_room(in, &room);
    if (!to)
      return 0;
    iov[filled++] = (struct iovec){to, room};
  }
  return filled;
}

size_t inbox_took(struct inbox *in, size_t bytes) {
  size_t taken = bytes < in->open_room ? bytes : in->open_room;
  in->open_left -= taken;
  in->open_room = 0;
  return taken;
}

int inbox_holds_fd(const struct inbox *in, int fd) {
  const int *fds = in->fds ? in->fds : in->few;
  for (size_t i = in->fd_head; i < in->fd_tail; i++)
    if (fds[i] == fd)
      return 1;
  return 0;
}
