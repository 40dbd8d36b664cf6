/* A stream that the program writes to, too (link_early.h): what the near end does for it. A
 * claim is held while a frame of the near end's may stand in the stream in part, or bytes
 * wait for it; all else goes in whole. The agent has its stream for itself. */
#include "remote/mux_channel.h"

#include "os/sock.h"
#include "wire/link_early.h"
#include <limits.h>

/* ---- sockets whose bytes the program writes, too ---- */

void channel_note_direct(const struct mux_channel *c) {
  if (!c->place)
    return;
  atomic_store(&c->mux->page->direct[c->place - 1].limit,
               (uint32_t)(c->nsent + c->credit));
  c->mux->direct_is_news = 1;
}

void channel_end_direct(struct mux_channel *c) {
  if (!c->place)
    return;
  atomic_store(&c->mux->page->direct[c->place - 1].ticket, 0);
  c->mux->direct[c->place - 1] = NULL;
  c->place = 0;
}

/* All bytes that were read from them stand in the stream. The ticket is valid with that. */
static void tell_passed(struct mux *m) {
  if (!m->direct_is_news)
    return;
  m->direct_is_news = 0;
  for (unsigned i = 0; i < LINK_DIRECT_MAX; i++) {
    const struct mux_channel *c = m->direct[i];
    struct link_direct *d = &m->page->direct[i];
    if (!c)
      continue;
    atomic_store(&d->npassed, (uint32_t)(c->nsent - c->nwritten));
    atomic_store(&d->ticket, c->ticket);
  }
}

static struct mux_channel *by_cookie(struct mux *m, uint64_t cookie) {
  list_each(it, &m->channels) {
    struct mux_channel *c = list_entry(it, struct mux_channel, link);
    if (!c->cookie && c->local.is_socket)
      c->cookie = sock_cookie(c->local.fd);
    if (c->cookie == cookie)
      return c;
  }
  return NULL;
}

void mux_direct(struct mux *m, uint32_t place, uint32_t ticket, uint64_t cookie) {
  if (m->direct[place])
    channel_end_direct(m->direct[place]);
  struct mux_channel *c = cookie && m->page ? by_cookie(m, cookie) : NULL;
  if (!c || !c->sends || c->place || c->id == LINK_CHANNEL_ROOT)
    return;
  c->place = place + 1;
  c->ticket = ticket;
  m->direct[place] = c;
  atomic_store(&m->page->direct[place].channel, c->id);
  channel_note_direct(c);
}

/* Of one that is gone, or sends nothing any more, nothing is to be counted. */
static void count(struct mux *m, const struct link_early *e) {
  struct mux_channel *c = channel_find(m, e->channel);
  if (!c || !c->place)
    return;
  if (e->size > c->credit) {
    mux_break(m, "the parent does not keep to the protocol");
    return;
  }
  c->nwritten += e->size;
  channel_count_sent(c, e->size);
}

/* ---- the claim ---- */

void mux_share(struct mux *m, struct link_page *page) {
  m->page = page;
  mux_claim(m);
}

int mux_claim(struct mux *m) {
  if (m->page && !m->has_claim)
    m->has_claim = link_claim(m->page);
  m->has_asked = 1;
  m->is_waiting = m->page && !m->has_claim;
  return !m->is_waiting;
}

void mux_release(struct mux *m) {
  if (!m->page || mux_backlog(m) > 0)
    return;
  tell_passed(m);
  if (!m->has_asked || m->is_waiting)
    return;
  link_release(m->page);
  m->has_asked = m->has_claim = 0;
}

/* Whole frames at the beginning of n bytes that go into the stream at once. */
static size_t whole_frames(const unsigned char *bytes, size_t n) {
  size_t whole = 0;
  while (n - whole >= LINK_HEADER_SIZE) {
    size_t frame = LINK_HEADER_SIZE + link_body_length(bytes + whole);
    if (frame > PIPE_BUF - whole)
      break;
    whole += frame;
  }
  return whole;
}

/* Without a claim nothing is ever written in part. */
size_t mux_writable(struct mux *m) {
  size_t n = buf_size(&m->out);
  if (!m->page || m->has_claim || n <= PIPE_BUF || mux_claim(m))
    return n;
  return whole_frames(buf_peek(&m->out), n);
}

/* Past what waits for a program that is stopped. */
int mux_ping(struct mux *m) {
  unsigned char ping[LINK_HEADER_SIZE];
  int r = link_put(&m->out, LINK_PING, 0, NULL, 0);
  if (r == 0)
    mux_flush(m);
  if (r == 0 && m->is_waiting && buf_size(&m->out) > 0) {
    link_put_header(ping, LINK_PING, 0, 0, 0);
    (void)local_write(&m->to, ping, sizeof ping, NULL, 0);
  }
  return r;
}

/* ---- what it has written ---- */

static int is_fit(const struct mux *m, const struct link_early *e) {
  return e->token && link_channel_is_early(e->channel) && e->size <= LINK_FORK_MAX &&
         m->nchannels < LINK_CHANNELS_MAX && !channel_find(m, e->channel);
}

static void add_fork(struct mux *m, const struct link_early *e) {
  struct mux_channel *root = channel_find(m, LINK_CHANNEL_ROOT);
  struct mux_channel *c = is_fit(m, e) ? channel_new(m, e->channel) : NULL;
  if (!c) {
    mux_break(m, "the parent does not keep to the protocol, or memory is short");
    return;
  }
  c->token = e->token;
  list_push(&m->unmade, &c->unmade);
  if (root)
    channel_count_sent(root, e->size);
}

static void add(struct mux *m, const struct link_early *e) {
  if (e->token)
    add_fork(m, e);
  else
    count(m, e);
}

void mux_import(struct mux *m) {
  struct link_early e;
  while (m->page && !m->over && link_early_take(m->page, &m->nearly, &e))
    add(m, &e);
}

/* The agent has read it, and answered before the program said that it wrote: that can only
 * be the next one. */
void channel_hear_early(struct mux *m, uint32_t channel) {
  struct link_early e;
  if (m->page && !m->over && link_early_hear(m->page, &m->nearly, channel, &e))
    add(m, &e);
}

struct mux_channel *channel_of(struct mux *m, const struct link_frame *f) {
  struct mux_channel *c = channel_find(m, f->channel);
  if (c || !m->page || !link_channel_is_early(f->channel))
    return c;
  channel_hear_early(m, f->channel);
  return channel_find(m, f->channel);
}

/* While it is read the program writes nothing: neither overtakes the other, and both count
 * what they use of the window. */
int channel_begin_shared(struct mux_channel *c) {
  struct mux *m = c->mux;
  if (!mux_claim(m)) {
    c->is_paused = 1;
    list_push(&m->paused, &c->waits);
    channel_watch(c);
    return 0;
  }
  mux_import(m);
  if (c->id == LINK_CHANNEL_ROOT && m->ops->before_root)
    m->ops->before_root(m);
  return 1;
}
