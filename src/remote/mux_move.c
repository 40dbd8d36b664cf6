/* Large frames: the kernel moves their bytes between the stream, where that is a pipe,
 * and a socket, without a copy. */
#include "remote/mux_channel.h"

#include "base/result.h"
#include "os/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int mux_begin_move(struct mux *m, const struct link_frame *f, size_t have) {
  struct mux_channel *c = channel_find(m, f->channel);
  struct fdset none;
  if (!c || !c->receives || c->ended || c->token || c->is_bare || c->opening.is_on ||
      !list_empty(&c->segments) || f->length > m->window)
    return MF_AGAIN; /* it is taken as others are */
  fdset_init(&none);
  int r = f->channel == LINK_CHANNEL_ROOT ? channel_before_command(m) : 0;
  if (r < 0 || !list_empty(&c->segments))
    return r < 0 ? r : MF_AGAIN;
  if (m->ops->before_local)
    m->ops->before_local(m);
  r = have ? channel_deliver(c, f->body, have, &none) : 0;
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

/* ---- from a socket to the stream ---- */

static int open_ferry(struct mux *m) {
  int ends[2];
  if (m->ferry[0] >= 0)
    return 0;
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
    return -errno;
  for (int i = 0; i < 2; i++)
    m->ferry[i] = fd_raise_made(ends[i]);
  if (m->ferry[0] < 0 || m->ferry[1] < 0) {
    fd_close(&m->ferry[0]);
    fd_close(&m->ferry[1]);
    return -EMFILE;
  }
#ifdef F_SETPIPE_SZ
  (void)fcntl(m->ferry[0], F_SETPIPE_SZ, 2 * CHANNEL_PIECE);
#endif
  return 0;
}

int mux_ferry(struct mux *m) {
  while (m->nferried > 0) {
    ssize_t n = local_pass(m->ferry[0], &m->to, m->nferried);
    if (n == -EAGAIN)
      return MF_AGAIN;
    if (n <= 0) { /* nobody reads it */
      m->nferried = 0;
      fd_close(&m->ferry[0]);
      fd_close(&m->ferry[1]);
      return n ? (int)n : -EPIPE;
    }
    m->nferried -= (size_t)n;
  }
  return 0;
}

/* The stream has no room for the header, or something is to be said before: they wait as
 * others do. */
static void put_ferried(struct mux *m, const unsigned char *header, size_t n) {
  unsigned char *at = buf_reserve(&m->out, LINK_HEADER_SIZE + n);
  size_t got = 0;
  while (at && got < n) {
    ssize_t r = read(m->ferry[0], at + LINK_HEADER_SIZE + got, n - got);
    if (r > 0)
      got += (size_t)r;
    else if (r == 0 || errno != EINTR)
      at = NULL;
  }
  if (!at) {
    mux_break(m, "not enough memory");
    return;
  }
  memcpy(at, header, LINK_HEADER_SIZE);
  buf_commit(&m->out, LINK_HEADER_SIZE + n);
}

size_t channel_send(struct mux_channel *c, size_t n) {
  struct mux *m = c->mux;
  unsigned char header[LINK_HEADER_SIZE];
  if (!m->to.is_pipe || !c->local.is_socket)
    return 0;
  if (mux_backlog(m) > 0)
    mux_flush(m);
  if (mux_backlog(m) > 0 || m->is_deaf || !mux_claim(m) || open_ferry(m) < 0)
    return 0;
  size_t waiting = local_waiting(&c->local);
  if (waiting < n)
    n = waiting;
  if (n < CHANNEL_MOVED_MIN || !local_has_bytes_only(&c->local))
    return 0;
  ssize_t got = local_take(&c->local, m->ferry[1], n);
  if (got <= 0)
    return 0;
  link_put_header(header, LINK_DATA, 0, c->id, (uint32_t)got);
  if (m->ops->has_news && m->ops->has_news(m)) {
    m->ops->put_news(m);
    put_ferried(m, header, (size_t)got);
    return (size_t)got;
  }
  if (local_write(&m->to, header, sizeof header, NULL, 0) != (ssize_t)sizeof header) {
    put_ferried(m, header, (size_t)got);
    return (size_t)got;
  }
  m->nferried = (size_t)got;
  mux_flush(m);
  return (size_t)got;
}
