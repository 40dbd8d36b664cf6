/* A stream that the program writes to, too (link_early.h): what the near end does for it. A
 * claim is held while a frame of the near end's may stand in the stream in part, or bytes
 * wait for it; all else goes in whole. The agent has its stream for itself. */
#include "remote/mux_channel.h"

#include "wire/link_early.h"
#include <limits.h>

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
  if (!m->page || !m->has_asked || m->is_waiting || mux_backlog(m) > 0)
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

/* ---- its FORKs ---- */

static int is_fit(const struct mux *m, const struct link_early *e) {
  return e->token && link_channel_is_early(e->channel) && e->size <= LINK_FORK_MAX &&
         m->nchannels < LINK_CHANNELS_MAX && !channel_find(m, e->channel);
}

static void add(struct mux *m, const struct link_early *e) {
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

/* While it is read the program writes no FORK: neither overtakes the other, and both
 * count what they use of the window. */
int channel_begin_root(struct mux_channel *c) {
  struct mux *m = c->mux;
  if (!mux_claim(m)) {
    c->is_paused = 1;
    list_push(&m->paused, &c->waits);
    channel_watch(c);
    return 0;
  }
  mux_import(m);
  if (m->ops->before_root)
    m->ops->before_root(m);
  return 1;
}
