#include "parent/loop/channel.h"

#include "base/origin.h"
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>

enum { STALLS_MAX = 200 }; /* tries to read without memory, one every few milliseconds */
/* So that one chatty process does not starve the others; and that the reports of
 * thousands of ends, each of which closes descriptors and calls back, don't make one long
 * call. */
enum { READS_A_TURN = 32, FRAMES_A_TURN = 512 };
/* A drain wants what an ended process has left, of which its socket holds 208 KiB as
 * systems come. Whoever else has the socket may go on writing for ever. */
enum { DRAIN_MAX = 2 * FRAME_BODY_MAX };

static void on_ready(struct watch *w, unsigned events);

void channel_init(struct channel *c, const struct channel_events *events) {
  memset(c, 0, sizeof *c);
  c->events = events;
  c->fd = -1;
  c->watch.on_ready = on_ready;
  inbox_init(&c->in, ANS_HELLO, ANS_LAST);
  buf_lend(&c->in.bytes, c->header, sizeof c->header);
  outbox_init(&c->out);
}

static struct channel *from_watch(struct watch *w) {
  return list_entry(w, struct channel, watch);
}

static void rewatch(struct channel *c) {
  unsigned events = 0;
  if (c->fd < 0)
    return;
  if (c->reading && !c->ended && !c->unread && !c->throttled)
    events |= WATCH_READ;
  if (!c->write_closed && !outbox_empty(&c->out))
    events |= WATCH_WRITE;
  if (c->attended && events == WATCH_READ)
    events = 0;
  if (c->backend->ops->watch(c->backend, &c->watch, c->fd, events) < 0)
    c->events->on_stalled(c); /* no memory: once more, later */
}

int channel_open(struct channel *c, struct backend *backend, int fd) {
  int r;
  c->backend = backend;
  c->fd = fd;
  c->is_closed = 0;
  c->reading = 1;
  c->refuses = !c->takes_fds && backend->ops->refuse_fds(backend, fd, 1) == 0;
  r = c->attended ? 0 : backend->ops->watch(backend, &c->watch, fd, WATCH_READ);
  if (r < 0) {
    channel_close(c);
    return r;
  }
  channel_flush(c);
  return 0;
}

int channel_ask_writer(struct channel *c, struct backend *backend, int fd) {
  int r = backend->ops->name_writers(backend, fd, 1);
  c->asks_writer = r == 0;
  return r;
}

static void unwatch(struct channel *c) {
  if (c->backend)
    c->backend->ops->watch(c->backend, &c->watch, c->fd, 0);
}

void channel_close(struct channel *c) {
  if (!c->is_closed) {
    unwatch(c);
    if (c->fd >= 0)
      c->backend->ops->close(c->backend, &c->fd);
    c->reading = 0;
    c->ended = 1;
    c->write_closed = 1;
    inbox_deinit(&c->in);
    c->is_closed = 1;
  }
  c->events->on_unsent(c);
}

int channel_steal(struct channel *c) {
  int fd = c->fd;
  unwatch(c);
  if (c->asks_writer && fd >= 0)
    c->backend->ops->name_writers(c->backend, fd, 0);
  c->asks_writer = 0;
  c->fd = -1;
  channel_close(c);
  return fd;
}

void channel_attend(struct channel *c, int on) {
  if (c->attended == on)
    return;
  c->attended = on;
  rewatch(c);
}

int channel_attended_fd(const struct channel *c) {
  int readable = c->reading && !c->ended && !c->unread && !c->throttled;
  return c->attended && readable ? c->fd : -1;
}

void channel_flush(struct channel *c) {
  struct iovec iov[OUTBOX_IOV_MAX];
  size_t left = OUTBOX_TURN;
  const int *fds;
  int n, nfds;
  ssize_t sent;
  if (c->fd < 0 || c->corked)
    return;
  while (!c->write_closed && (n = outbox_next(&c->out, iov, &fds, &nfds)) > 0) {
    sent = c->backend->ops->send(c->backend, c->fd, iov, n, fds, nfds);
    if (sent > 0) {
      outbox_sent(&c->out, (size_t)sent);
      c->nwritten += (uint64_t)sent;
      if ((size_t)sent >= left)
        break; /* the rest in the next turn */
      left -= (size_t)sent;
      continue;
    }
    if (sent == 0)
      break;
    if (sent == -ETOOMANYREFS || sent == -ENOBUFS || sent == -ENOMEM) {
      c->backend->ops->watch(c->backend, &c->watch, c->fd,
                             c->reading && !c->ended ? WATCH_READ : 0);
      c->events->on_stalled(c);
      return;
    }
    /* The other end is gone. What it wrote before may still be read: that decides. If it
     * is there all the same, it has to know that nothing more comes. */
    channel_stop_writing(c);
  }
  rewatch(c);
}

void channel_stop_writing(struct channel *c) {
  if (c->write_closed)
    return;
  c->write_closed = 1;
  if (c->fd >= 0)
    c->backend->ops->fall_silent(c->backend, c->fd);
  c->events->on_unsent(c);
}

int channel_written(const struct channel *c) {
  return outbox_empty(&c->out);
}

uint64_t channel_end(const struct channel *c) {
  return c->write_closed ? UINT64_MAX : c->nwritten + c->out.nbytes;
}

int channel_put(struct channel *c, unsigned type, uint64_t id, const void *body,
                size_t length, struct fdset *fds) {
  int r;
  if (c->write_closed) {
    if (fds)
      fdset_close(fds);
    return 0;
  }
  r = outbox_put(&c->out, type, id, body, length, fds);
  if (r < 0)
    return r;
  channel_flush(c);
  return 0;
}

int channel_put_ref(struct channel *c, unsigned type, uint64_t id, const void *body,
                    size_t length, void (*release)(void *), void *release_data) {
  int r;
  if (c->write_closed) {
    release(release_data);
    return 0;
  }
  r = outbox_put_ref(&c->out, type, id, body, length, release, release_data);
  if (r < 0)
    return r;
  channel_flush(c);
  return 0;
}

int channel_put_pieces(struct channel *c, unsigned type, uint64_t id,
                       const struct iovec *pieces, size_t n, struct fdset *fds,
                       void (*release)(void *), void *release_data) {
  if (c->write_closed) {
    if (fds)
      fdset_close(fds);
    release(release_data);
    return 0;
  }
  int r = outbox_put_pieces(&c->out, type, id, pieces, n, fds, release, release_data);
  if (r < 0)
    return r;
  channel_flush(c);
  return 0;
}

void channel_exact(struct channel *c) {
  inbox_set_exact(&c->in, 1);
}

void channel_accept_fds(struct channel *c) {
  c->takes_fds = 1;
  if (c->fd >= 0)
    c->backend->ops->refuse_fds(c->backend, c->fd, 0);
}

/* Delivers the frames that are whole, at most *most. 0: more bytes are needed; 1: the
 * channel was closed or stolen meanwhile, or the rest waits; -EPROTO: a broken frame. */
static int deliver(struct channel *c, int *most) {
  struct frame f;
  int r;
  while ((r = inbox_next(&c->in, &f)) == 0) {
    c->events->on_frame(c, &f);
    if (!c->reading)
      return 1;
    if (--*most == 0) {
      c->throttled = 1;
      rewatch(c);
      c->events->on_more(c);
      return 1;
    }
  }
  return r < 0 ? r : 0;
}

static void end_rest(struct channel *c) {
  if (!c->throttled)
    return;
  c->throttled = 0;
  rewatch(c);
}

static void end(struct channel *c, int why) {
  if (c->ended)
    return;
  c->ended = 1;
  rewatch(c);
  c->events->on_end(c, why);
}

/* What is there stays there: once more, later, and not watched meanwhile, which would
 * spin. After a second without memory it is given up, unread. */
static void lack_memory(struct channel *c) {
  c->unread = 1;
  if (++c->nstalls > STALLS_MAX) {
    end(c, -ENOMEM);
    return;
  }
  rewatch(c);
  c->events->on_stalled(c);
}

/* The first word tells who it is; from then on nobody is asked. */
static ssize_t read_bytes(struct channel *c, void *room, size_t n, struct fdset *fds) {
  struct sock_writer writer;
  ssize_t got = c->backend->ops->read_from(c->backend, c->fd, room, n, fds, &writer);
  if (writer.pid <= 0 && writer.pidfd < 0)
    return got;
  if (c->asks_writer)
    c->backend->ops->name_writers(c->backend, c->fd, 0);
  c->asks_writer = 0;
  c->events->on_writer(c, (int)writer.pid, writer.pidfd);
  return got;
}

struct budget { /* of one turn, or of one drain */
  int reads, frames;
  size_t bytes;
  int dry; /* until nothing is there: a short read may end where another writer begins */
};

/* What an earlier turn has left comes first, so the inbox never grows by it. 1: all that
 * was there is read. */
static int read_some(struct channel *c, struct budget left) {
  struct fdset fds;
  unsigned char *room;
  size_t n;
  ssize_t got;
  int r, all = 0;
  if (c->in_drain || c->fd < 0 || c->ended || !c->reading)
    return 1;
  c->in_drain = 1;
  end_rest(c);
  r = deliver(c, &left.frames);
  if (r < 0)
    end(c, r);
  while (!r && left.reads-- > 0 && left.bytes > 0) {
    room = inbox_room(&c->in, &n);
    if (!room) {
      lack_memory(c);
      break;
    }
    if (c->unread) {
      c->unread = 0;
      rewatch(c);
    }
    c->nstalls = 0;
    fdset_init(&fds);
    got = read_bytes(c, room, n, &fds);
    all = got <= 0;
    if (got == -EAGAIN)
      break;
    if (got <= 0) {
      end(c, (int)got);
      break;
    }
    left.bytes -= (size_t)got < left.bytes ? (size_t)got : left.bytes;
    if (fds.n > 0 || inbox_fed(&c->in, (size_t)got, &fds) < 0) {
      fdset_drop(&fds); /* answers have none */
      end(c, ORIGINAL(-EPROTO));
      break;
    }
    r = deliver(c, &left.frames);
    if (r < 0)
      end(c, r);
    if (!left.dry && !c->in.exact && (size_t)got < n)
      break; /* that was all, or the loop says that it was not */
  }
  c->in_drain = 0;
  return all || r != 0;
}

void channel_drain(struct channel *c) {
  struct budget budget = {INT_MAX, INT_MAX, DRAIN_MAX, 1};
  c->undrained = !read_some(c, budget);
}

void channel_ready(struct channel *c, unsigned events) {
  if (events & WATCH_WRITE)
    channel_flush(c);
  if (events & WATCH_READ) {
    struct budget budget = {READS_A_TURN, FRAMES_A_TURN, SIZE_MAX, 0};
    read_some(c, budget);
  }
}

static void on_ready(struct watch *w, unsigned events) {
  struct channel *c = from_watch(w);
  c->events->on_ready(c, events);
}

void channel_park(struct channel *c) {
  unwatch(c);
}

int channel_unpark(struct channel *c) {
  if (c->fd < 0)
    return 0;
  return c->backend->ops->watch(c->backend, &c->watch, c->fd, WATCH_READ);
}
