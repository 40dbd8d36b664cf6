/* Large frames: the kernel moves their bytes between the stream, where that is a pipe,
 * and a socket, without a copy. */
#include "remote/mux_channel.h"

#include "base/result.h"
#include <errno.h>

int mux_begin_move(struct mux *m, const struct link_frame *f, size_t have) {
  struct mux_channel *c = channel_find(m, f->channel);
  struct fdset none;
  if (!c || !c->receives || c->ended || !list_empty(&c->segments) ||
      f->length > m->window)
    return MF_AGAIN; /* it is taken as others are */
  fdset_init(&none);
  int r = have ? channel_deliver(c, f->body, have, &none) : 0;
  if (r < 0)
    return r;
  m->moved_to = f->channel;
  m->nmoved = f->length - have;
  m->is_large = 1;
  return 0;
}

/* As those of any other frame: the socket is full, or there is none any more. */
static ssize_t copy_piece(struct mux *m, struct mux_channel *c) {
  static unsigned char piece[CHANNEL_PIECE];
  struct fdset none;
  ssize_t n = local_read(&m->from, piece,
                         m->nmoved < CHANNEL_PIECE ? m->nmoved : CHANNEL_PIECE, &none);
  int r = n > 0 && c && c->receives ? channel_deliver(c, piece, (size_t)n, &none) : 0;
  return r < 0 ? r : n;
}

int mux_move(struct mux *m) {
  while (m->nmoved > 0 && !m->over) {
    struct mux_channel *c = channel_find(m, m->moved_to);
    ssize_t n = -EINVAL;
    if (c && c->receives && list_empty(&c->segments))
      n = local_move(&m->from, &c->local, m->nmoved);
    if (n > 0)
      channel_count_written(c, (size_t)n);
    else if (n < 0)
      n = copy_piece(m, c);
    if (n == -EAGAIN)
      return MF_AGAIN;
    if (n <= 0)
      return n == -ENOMEM ? -ENOMEM : -EPIPE;
    m->nmoved -= (size_t)n;
    m->heard_ms = mux_now_ms(m);
  }
  return 0;
}
