#include "remote/mux_channel.h"

#include "base/result.h"
#include "os/sock.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
  UNCLOSED_MAX = 16, /* descriptors that are closed a little later */
};

/* Bytes that the local descriptor has not taken yet. */
struct segment {
  struct list link;
  size_t length, sent;
  int nfds;
  int *fds; /* owned, but the mux's stand-ins; behind the bytes */
  unsigned char data[];
};

static int put(struct mux *m, unsigned type, uint32_t channel, const uint32_t *numbers,
               unsigned n) {
  int r = link_put(&m->out, type, channel, numbers, n);
  if (r < 0)
    mux_break(m, "not enough memory for what waits to be sent");
  return r;
}

/* ---- what is read and written now ---- */

static void write_segments(struct mux_channel *c);

/* 0 or -errno. */
int channel_watch(struct mux_channel *c) {
  int events = 0;
  if (c->closing || !c->is_armed)
    return 0;
  if (c->sends && c->credit && !c->is_paused && c->mux->greeted)
    events |= TURN_READ;
  if (!list_empty(&c->segments) && list_empty(&c->stalls))
    events |= TURN_WRITE;
  return turn_watch(c->mux->turn, &c->ready, c->local.fd, events);
}

/* Nothing more is to be waited for from c. */
static void stop_awaiting(struct mux_channel *c) {
  if (!c->awaited)
    return;
  c->awaited = 0;
  c->mux->nawaited--;
}

void mux_look_quiet(struct mux *m) {
  if (!m->awaits_quiet || m->nawaited || m->over)
    return;
  m->awaits_quiet = 0;
  m->ops->on_quiet(m);
}

/* Descriptors that came with bytes, and have been passed on or never will be. */
void channel_close_passed(const struct mux *m, int *fds, int n) {
  for (int i = 0; i < n; i++)
    if (fds[i] != m->dead_fd && fds[i] != m->missing_fd)
      fd_close(&fds[i]);
}

static void free_segment(const struct mux *m, struct segment *s) {
  channel_close_passed(m, s->fds, s->nfds);
  list_remove(&s->link);
  free(s);
}

static void drop_segments(struct mux_channel *c) {
  while (!list_empty(&c->segments))
    free_segment(c->mux, list_entry(c->segments.next, struct segment, link));
  c->queued = 0;
}

static void close_local(struct mux_channel *c) {
  if (c->local.fd < 0)
    return;
  if (c->local.is_own)
    turn_forget(c->mux->turn, &c->ready);
  else
    turn_watch(c->mux->turn, &c->ready, -1, 0);
  local_close(&c->local);
  c->mux->nunclosed--;
}

/* Freed at the end of the turn: its caller may look at it. It is closed then, too, when
 * what somebody waits for has been sent: that takes longer than to send it. */
void channel_drop(struct mux_channel *c) {
  struct mux *m = c->mux;
  if (c->closing)
    return;
  c->closing = 1;
  stop_awaiting(c);
  drop_segments(c);
  list_remove(&c->link);
  channel_leave_number(c);
  list_remove(&c->waits);
  list_remove(&c->stalls);
  list_remove(&c->fresh);
  list_remove(&c->ending);
  list_remove(&c->unmade);
  channel_end_direct(c);
  list_push(&m->gone, &c->link);
  m->nchannels--;
  if (c->local.fd >= 0 && ++m->nunclosed > UNCLOSED_MAX)
    close_local(c);
}

void mux_free_gone(struct mux *m) {
  if (m->is_crowded && !list_empty(&m->gone))
    mux_make_room(m);
  while (!list_empty(&m->gone)) {
    struct mux_channel *c = list_entry(m->gone.next, struct mux_channel, link);
    list_remove(&c->link);
    close_local(c);
    free(c);
  }
}

static void settle(struct mux_channel *c) {
  if (!c->sends) {
    stop_awaiting(c);
    channel_end_direct(c);
  }
  if (!c->sends && !c->receives) {
    channel_drop(c);
    return;
  }
  if (!c->sends && c->ended && c->id > LINK_CHANNEL_OUTPUT)
    channel_leave_number(c); /* the other end has none of that number any more */
  channel_watch(c);
}

/* ---- from here to there ---- */

_Static_assert((int)LINK_STREAM == (int)SOCK_CONNECTED &&
                   (int)LINK_PIPE_READ == (int)SOCK_PIPE_READ &&
                   (int)LINK_PIPE_WRITE == (int)SOCK_PIPE_WRITE,
               "the kinds of sock.h travel as they are");

static enum mux_direction way_here(unsigned kind) {
  return kind == LINK_STREAM      ? MUX_BOTH
         : kind == LINK_PIPE_READ ? MUX_FROM_LOCAL
                                  : MUX_TO_LOCAL;
}

/* A descriptor that came from a local socket: taken. */
static void describe(struct mux *m, int fd, struct link_descriptor *d) {
  *d = (struct link_descriptor){.kind = LINK_REFUSED};
  int kind = sock_stream_kind(fd);
  if (kind != SOCK_CONNECTED && m->ops->classify && m->ops->classify(m, fd, d)) {
    fd_close(&fd);
    return;
  }
  if (kind <= 0) {
    fd_close(&fd);
    return;
  }
  d->kind = (unsigned)kind;
  d->id = channel_next_id(m);
  if (mux_add(m, d->id, fd, way_here(d->kind)) < 0)
    *d = (struct link_descriptor){.kind = LINK_REFUSED};
}

/* The same behind what has to be said before, and with descriptors. The bytes are moved
 * aside: both may write to `out`, too. */
static void put_more(struct mux_channel *c, size_t n, struct fdset *fds) {
  struct mux *m = c->mux;
  size_t list = (size_t)fds->n * LINK_DESCRIPTOR_SIZE;
  unsigned char *copy = malloc(list + n);
  if (!copy) {
    fdset_close(fds);
    mux_break(m, "not enough memory");
    return;
  }
  memcpy(copy + list, m->out.data + m->out.tail + LINK_HEADER_SIZE, n);
  if (fds->n && m->ops->before_descriptors)
    m->ops->before_descriptors(m);
  for (int i = 0; i < fds->n; i++) {
    struct link_descriptor d;
    describe(m, fdset_steal(fds, i), &d);
    link_put_descriptor(copy + (size_t)i * LINK_DESCRIPTOR_SIZE, &d);
  }
  if (m->ops->has_news && m->ops->has_news(m))
    m->ops->put_news(m);
  unsigned char *at = m->over ? NULL : buf_reserve(&m->out, LINK_HEADER_SIZE + list + n);
  if (at) {
    link_put_header(at, LINK_DATA, (unsigned)fds->n, c->id, (uint32_t)(list + n));
    memcpy(at + LINK_HEADER_SIZE, copy, list + n);
    buf_commit(&m->out, LINK_HEADER_SIZE + list + n);
  } else {
    mux_break(m, "not enough memory");
  }
  free(copy);
}

/* The bytes stand in `out`, uncommitted, behind room for a header. */
static void put_data(struct mux_channel *c, size_t n, struct fdset *fds) {
  struct mux *m = c->mux;
  if (fds->n || (m->ops->has_news && m->ops->has_news(m))) {
    put_more(c, n, fds);
    return;
  }
  link_put_header(m->out.data + m->out.tail, LINK_DATA, 0, c->id, (uint32_t)n);
  buf_commit(&m->out, LINK_HEADER_SIZE + n);
}

/* After an END there is nothing to be stopped, and the number may be another's. */
static void stop_receiving(struct mux_channel *c) {
  c->receives = 0;
  drop_segments(c);
  list_remove(&c->stalls);
  if (!c->ended)
    put(c->mux, LINK_RESET, c->id, NULL, 0);
}

/* The local side has ended, or can't be read. */
static void end_sending(struct mux_channel *c) {
  struct mux *m = c->mux;
  if (!c->sends)
    return;
  c->sends = 0;
  if (m->ops->has_news && m->ops->has_news(m))
    m->ops->put_news(m);
  if (m->ops->on_local_end)
    m->ops->on_local_end(m, c->id);
  put(m, LINK_END, c->id, NULL, 0);
  if (c->receives && (c->is_hung_up || local_hung_up(&c->local)))
    stop_receiving(c);
}

static void note_limit(const struct mux_channel *c) {
  if (c->id == LINK_CHANNEL_ROOT)
    c->mux->root_limit = c->mux->root_sent + c->credit;
  channel_note_direct(c);
}

void channel_count_sent(struct mux_channel *c, size_t n) {
  c->credit -= n < c->credit ? n : c->credit;
  c->nsent += n;
  if (c->id == LINK_CHANNEL_ROOT)
    c->mux->root_sent += n;
  note_limit(c);
  if (c->awaited <= n || !c->credit)
    stop_awaiting(c);
  else if (c->awaited)
    c->awaited -= n;
  if (!c->credit)
    channel_watch(c);
}

/* One frame. Whether more bytes are likely to lie there. */
static int read_piece(struct mux_channel *c) {
  struct mux *m = c->mux;
  struct fdset fds;
  if (channel_waits_for_room(c))
    return 0;
  size_t want = c->credit < CHANNEL_PIECE ? (size_t)c->credit : CHANNEL_PIECE;
  size_t sent = c->is_large ? channel_send(c, want) : 0;
  if (sent) {
    if (c->id == LINK_CHANNEL_ROOT)
      m->nroot += sent;
    channel_count_sent(c, sent);
    return c->credit && sent == want;
  }
  unsigned char *at = buf_reserve(&m->out, LINK_HEADER_SIZE + want);
  if (!at) {
    mux_break(m, "not enough memory");
    return 0;
  }
  ssize_t got = local_read(&c->local, at + LINK_HEADER_SIZE, want, &fds);
  if (got == -EAGAIN) {
    c->is_read_out = 1;
    stop_awaiting(c);
    return 0;
  }
  if (got == -EMFILE && m->is_agent) { /* the bytes have gone with them: that one ends */
    stop_receiving(c);
    end_sending(c);
    settle(c);
    return 0;
  }
  if (got == -EMFILE) {
    mux_break(m, "no free descriptor for a handle that was sent (limit nofile)");
    return 0;
  }
  if (got <= 0) {
    end_sending(c);
    settle(c);
    return 0;
  }
  if (c->id == LINK_CHANNEL_ROOT)
    m->nroot += (uint64_t)got;
  put_data(c, (size_t)got, &fds);
  if (m->over)
    return 0;
  c->is_large = (size_t)got >= CHANNEL_MOVED_MIN;
  channel_count_sent(c, (size_t)got);
  return c->credit && ((size_t)got == want || c->is_hung_up); /* its end comes next */
}

/* As much as may be ahead: one write then carries all of it, and wakes the other end
 * once. */
static void read_channel(struct mux_channel *c) {
  struct mux *m = c->mux;
  c->is_read_out = 0;
  if ((c->id == LINK_CHANNEL_ROOT || c->place) && !channel_begin_shared(c))
    return;
  if (c->closing || !c->credit)
    return;
  do {
    if (mux_backlog(m) >= CHANNEL_PIECE)
      mux_flush(m);
    if (mux_backlog(m) >= CHANNEL_AHEAD) {
      c->is_paused = 1;
      list_push(&m->paused, &c->waits);
      channel_watch(c);
      return;
    }
  } while (read_piece(c));
}

void channel_on_ready(struct turn_watch *w, int events) {
  struct mux_channel *c = list_entry(w, struct mux_channel, ready);
  struct mux *m = c->mux;
  if (c->closing)
    return;
  if (m->over) {
    turn_watch(m->turn, w, -1, 0);
    return;
  }
  c->is_hung_up = (events & TURN_HANGUP) != 0;
  if (events & TURN_WRITE)
    write_segments(c);
  if (!c->closing && c->sends && c->credit && (events & TURN_READ))
    read_channel(c);
  if (!m->over)
    mux_look_quiet(m);
}

/* ---- from there to here ---- */

void channel_count_written(struct mux_channel *c, size_t n) {
  struct mux *m = c->mux;
  c->unacked += n;
  if (c->unacked >= m->window / 4 && !c->ended) {
    uint32_t more = (uint32_t)c->unacked;
    c->unacked = 0;
    put(m, LINK_WINDOW_MORE, c->id, &more, 1);
  }
}

static void finish_receiving(struct mux_channel *c) {
  if (!c->ended || !c->receives || !list_empty(&c->segments))
    return;
  c->receives = 0;
  local_end_writing(&c->local);
}

/* The system has no room for descriptors: no poll tells when it has. */
static void stall(struct mux_channel *c) {
  struct mux *m = c->mux;
  if (list_empty(&c->stalls))
    list_push(&m->stalled, &c->stalls);
  channel_watch(c);
}

static void write_segments(struct mux_channel *c) {
  while (!list_empty(&c->segments)) {
    struct segment *s = list_entry(c->segments.next, struct segment, link);
    ssize_t n =
        local_write(&c->local, s->data + s->sent, s->length - s->sent, s->fds, s->nfds);
    if (n == -EAGAIN)
      break;
    if (n == -ENOBUFS) {
      stall(c);
      return;
    }
    if (n < 0) {
      stop_receiving(c);
      break;
    }
    channel_close_passed(c->mux, s->fds, s->nfds);
    s->nfds = 0;
    s->sent += (size_t)n;
    c->queued -= (size_t)n;
    channel_count_written(c, (size_t)n);
    if (s->sent == s->length)
      free_segment(c->mux, s);
  }
  finish_receiving(c);
  settle(c);
}

static int queue(struct mux_channel *c, const unsigned char *data, size_t n,
                 const int *fds, int nfds) {
  struct segment *s = malloc(sizeof *s + n + (size_t)nfds * sizeof(int) + sizeof(int));
  if (!s)
    return -ENOMEM;
  *s = (struct segment){.length = n, .nfds = nfds};
  size_t end = (n + sizeof(int) - 1) / sizeof(int) * sizeof(int);
  s->fds = (int *)(void *)(s->data + end);
  memcpy(s->data, data, n);
  if (nfds)
    memcpy(s->fds, fds, (size_t)nfds * sizeof(int));
  c->queued += n;
  list_push(&c->segments, &s->link);
  return 0;
}

/* What the local descriptor does not take at once is copied and waits. */
int channel_deliver(struct mux_channel *c, const unsigned char *bytes, size_t n,
                    struct fdset *fds) {
  ssize_t sent = 0;
  if (list_empty(&c->segments))
    sent = local_write(&c->local, bytes, n, fds->fd, fds->n);
  if (sent > 0) {
    channel_count_written(c, (size_t)sent);
    channel_close_passed(c->mux, fds->fd, fds->n);
    fds->n = 0;
    if ((size_t)sent == n)
      return 0;
  } else if (sent < 0 && sent != -EAGAIN && sent != -ENOBUFS) {
    stop_receiving(c);
    settle(c);
    return 0;
  }
  size_t done = sent > 0 ? (size_t)sent : 0;
  int r = queue(c, bytes + done, n - done, fds->fd, fds->n);
  if (r < 0)
    return r;
  fds->n = 0;
  if (sent == -ENOBUFS)
    stall(c);
  else
    channel_watch(c);
  return 0;
}

/* Of a frame. A function's descriptors came with the bytes behind its word, if at all. */
static int deliver_words(struct mux_channel *c, const unsigned char *bytes, size_t n,
                         struct fdset *fds) {
  size_t words = opening_pass(&c->opening, bytes, n);
  struct fdset none;
  if (!fds->n || words == n)
    words = 0;
  fdset_init(&none);
  int r = words ? channel_deliver(c, bytes, words, &none) : 0;
  return r < 0 || !c->receives ? r : channel_deliver(c, bytes + words, n - words, fds);
}

/* Nobody here takes that channel. */
void channel_refuse(struct mux *m, uint32_t id) {
  put(m, LINK_RESET, id, NULL, 0);
  put(m, LINK_END, id, NULL, 0);
}

static enum mux_direction way_there(unsigned kind) {
  return kind == LINK_STREAM      ? MUX_BOTH
         : kind == LINK_PIPE_READ ? MUX_TO_LOCAL
                                  : MUX_FROM_LOCAL;
}

/* The descriptor to pass on, or a stand-in: dead_fd of what can't be sent, or was dropped,
 * missing_fd where there is no room. -EPROTO. */
int channel_materialise(struct mux *m, const struct link_descriptor *d,
                        uint32_t channel) {
  int pair[2] = {-1, -1}, fd;
  if (d->kind == LINK_REFUSED)
    return m->dead_fd;
  if (d->kind > LINK_PIPE_WRITE) {
    if (d->kind > LINK_KIND_LAST || !m->ops->materialise)
      return -EPROTO;
    fd = m->ops->materialise(m, d, channel);
    return fd >= 0 || fd == -EPROTO ? fd : fd == -ENOENT ? m->dead_fd : m->missing_fd;
  }
  if (channel_may_come(m, d->id) < 0)
    return -EPROTO;
  channel_has_come(m, d->id);
  if (pairs_take(&m->pairs, d->kind, pair) < 0) {
    channel_refuse(m, d->id);
    return m->missing_fd;
  }
  if (mux_add(m, d->id, pair[0], way_there(d->kind)) < 0) {
    fd_close(&pair[1]);
    channel_refuse(m, d->id);
    return m->missing_fd;
  }
  list_entry(m->channels.prev, struct mux_channel, link)->local.is_own = 1;
  return pair[1];
}

static int take_data(struct mux *m, const struct link_frame *f) {
  struct mux_channel *c = channel_of(m, f);
  struct fdset fds;
  size_t n;
  const unsigned char *bytes = link_bytes(f, &n);
  int r = 0;
  fdset_init(&fds);
  if (f->channel == LINK_CHANNEL_ROOT)
    r = channel_before_command(m);
  if (c && (c->ended || c->is_bare || n > m->window - c->queued))
    return -EPROTO;
  for (unsigned i = 0; i < f->ndescriptors && r >= 0; i++) {
    struct link_descriptor d;
    link_descriptor(f, i, &d);
    r = channel_materialise(m, &d, f->channel);
    if (r >= 0)
      fds.fd[fds.n++] = r;
  }
  if (fds.n)
    m->passed_ms = mux_now_ms(m);
  if (r >= 0 && c && c->token && channel_make_local(c) < 0)
    c = NULL;
  if (r >= 0 && c && c->receives)
    r = deliver_words(c, bytes, n, &fds);
  channel_close_passed(m, fds.fd, fds.n);
  return r < 0 ? r : 0;
}

static int take_window(struct mux *m, const struct link_frame *f) {
  struct mux_channel *c = channel_of(m, f);
  uint32_t more;
  if (link_numbers(f, &more, 1) < 0)
    return -EPROTO;
  if (!c)
    return 0;
  if (c->credit + more > m->window)
    channel_hear_early(m, c->id == LINK_CHANNEL_ROOT ? 0 : c->id);
  if (more > m->window || c->credit + more > m->window)
    return -EPROTO;
  c->credit += more;
  note_limit(c);
  channel_watch(c);
  return 0;
}

static int take_end(struct mux *m, const struct link_frame *f) {
  struct mux_channel *c = channel_of(m, f);
  if (f->length)
    return -EPROTO;
  if (!c)
    return 0;
  if (c->ended)
    return -EPROTO;
  c->ended = 1;
  if (c->receives && list_empty(&c->segments))
    list_push(&m->ending, &c->ending);
  else
    settle(c);
  return 0;
}

static int take_reset(struct mux *m, const struct link_frame *f) {
  struct mux_channel *c = channel_of(m, f);
  if (f->length)
    return -EPROTO;
  if (!c || !c->sends)
    return 0;
  c->sends = 0;
  if (list_empty(&c->ending))
    local_end_reading(&c->local);
  settle(c);
  return 0;
}

static void end_unmade(struct mux *m) {
  list_each_safe(it, next, &m->ending) {
    struct mux_channel *c = list_entry(it, struct mux_channel, ending);
    if (!c->token || c->sends)
      continue;
    m->ops->on_unmade_end(m, c->token);
    channel_drop(c);
  }
}

/* An end is somebody's news, and often comes with others of the same process: those are
 * told first, all at once. */
void mux_end_channels(struct mux *m) {
  end_unmade(m);
  if (channel_pass_forks(m) < 0)
    mux_break(m, "not enough memory");
  if (!list_empty(&m->ending) && m->ops->before_local)
    m->ops->before_local(m);
  while (!list_empty(&m->ending)) {
    struct mux_channel *c = list_entry(m->ending.next, struct mux_channel, ending);
    list_remove(&c->ending);
    if (c->token && channel_make_local(c) < 0)
      continue;
    if (c->sends) {
      finish_receiving(c);
    } else {
      c->receives = 0;
      local_end(&c->local);
    }
    settle(c);
  }
}

int mux_take_frame(struct mux *m, const struct link_frame *f) {
  if (f->type == LINK_DATA && m->ops->before_local)
    m->ops->before_local(m);
  switch (f->type) {
  case LINK_DATA:
    return take_data(m, f);
  case LINK_WINDOW_MORE:
    return take_window(m, f);
  case LINK_END:
    return take_end(m, f);
  case LINK_RESET:
    return take_reset(m, f);
  case LINK_CLONE:
    return m->ops->take_fork ? channel_take_fork(m, f) : -EPROTO;
  case LINK_PING:
    return f->length ? -EPROTO : 0;
  default:
    return m->ops->on_frame(m, f);
  }
}

/* ---- all of them ---- */

void mux_retry(struct mux *m) {
  struct list all;
  list_move(&all, &m->stalled);
  while (!list_empty(&all)) {
    struct mux_channel *c = list_entry(all.next, struct mux_channel, stalls);
    list_remove(&c->stalls);
    write_segments(c);
  }
}

static void await_bytes(struct mux_channel *c) {
  size_t n = c->sends && c->credit ? local_waiting(&c->local) : 0;
  if (n && !c->awaited)
    c->mux->nawaited++;
  if (n)
    c->awaited = n;
}

/* Of channels only: all others are watched with other functions. What lies there is read
 * now, so that it goes in one write with what waits for it. */
static void await_ready(struct turn_watch *w, int events) {
  struct mux_channel *c = list_entry(w, struct mux_channel, ready);
  if (w->on_ready != channel_on_ready || c->closing || c->mux->over)
    return;
  c->is_hung_up = (events & TURN_HANGUP) != 0;
  if (c->sends && c->credit)
    read_channel(c);
  if (!c->closing && !c->is_read_out)
    await_bytes(c);
}

/* Those that have bytes: one look at all that are watched, and those that are not. */
void mux_await_quiet(struct mux *m) {
  int r = turn_look(m->turn, await_ready);
  list_each(it, r < 0 ? &m->channels : &m->fresh) {
    await_bytes(r < 0 ? list_entry(it, struct mux_channel, link)
                      : list_entry(it, struct mux_channel, fresh));
  }
  list_each(it, &m->paused) {
    await_bytes(list_entry(it, struct mux_channel, waits));
  }
  m->awaits_quiet = 1;
  mux_look_quiet(m);
}

void mux_begin_channels(struct mux *m) {
  list_each(it, &m->channels) {
    struct mux_channel *c = list_entry(it, struct mux_channel, link);
    c->credit = m->window;
    note_limit(c);
    channel_watch(c);
  }
}

void mux_drop_all(struct mux *m) {
  pairs_close(&m->pairs);
  list_each_safe(it, next, &m->channels) {
    channel_drop(list_entry(it, struct mux_channel, link));
  }
  list_each(it, &m->gone) {
    close_local(list_entry(it, struct mux_channel, link));
  }
}
