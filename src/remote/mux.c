#include "remote/mux.h"

#include "base/result.h"
#include "os/sock.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

enum {
  READ_MAX = 320 * 1024, /* from the stream at a time */
  MOVED_MIN = 16 * 1024,
  LIMIT_ENOUGH = 1024 * 1024, /* descriptors */
  SPARE_MAX = 64,             /* so many are kept free for what comes at once */
  QUEUE_MAX = 64 * 1024 * 1024
};

uint64_t mux_now_ms(const struct mux *m) {
  return uv_now(m->turn->loop);
}

size_t mux_backlog(const struct mux *m) {
  return buf_size(&m->out) + m->nferried;
}

void mux_break(struct mux *m, const char *why) {
  if (m->over)
    return;
  m->over = 1;
  m->ops->on_end(m, why);
}

/* ---- the stream ---- */

/* A large frame of which not all has come: what is still in the stream is moved. */
static void begin_move(struct mux *m) {
  struct link_frame f;
  if (!m->greeted || !m->from.is_pipe || buf_size(&m->in) < LINK_HEADER_SIZE ||
      link_next(&m->in, LINK_LAST, &f) != MF_AGAIN || f.type != LINK_DATA ||
      f.ndescriptors || f.length < MOVED_MIN)
    return;
  int r = mux_begin_move(m, &f, buf_size(&m->in) - LINK_HEADER_SIZE);
  if (r == 0)
    buf_consume(&m->in, buf_size(&m->in));
  else if (r < 0)
    mux_break(m, "not enough memory");
}

static void take_frames(struct mux *m) {
  struct link_frame f;
  int r;
  mux_import(m);
  m->is_large = 0;
  while (!m->over && (r = link_next(&m->in, LINK_LAST, &f)) <= 0) {
    if (r == 0 && !m->greeted && f.type != LINK_HELLO && f.type != LINK_FAILED)
      r = -EPROTO;
    m->is_large = r == 0 && f.length >= MOVED_MIN && m->from.is_pipe;
    if (r == 0)
      r = mux_take_frame(m, &f);
    if (r < 0) {
      char text[128];
      snprintf(text, sizeof text,
               r == -ENOMEM ? "not enough memory"
                            : "the %s does not keep to the protocol (frame of type %u, "
                              "channel %u, %u bytes)",
               m->is_agent ? "near end" : "agent", f.type, (unsigned)f.channel,
               (unsigned)f.length);
      mux_break(m, text);
      return;
    }
    link_done(&m->in, &f);
  }
  mux_end_channels(m);
  if (!m->over)
    begin_move(m);
}

/* 1, or 0: nothing came. */
static int read_some(struct mux *m, size_t n) {
  struct fdset fds;
  unsigned char *at = buf_reserve(&m->in, n);
  if (!at) {
    mux_break(m, "not enough memory");
    return 0;
  }
  ssize_t got = local_read(&m->from, at, n, &fds);
  fdset_close(&fds);
  if (got == -EAGAIN)
    return 0;
  if (got <= 0) {
    turn_watch(m->turn, &m->reader, -1, 0);
    mux_break(m, NULL);
    return 0;
  }
  m->heard_ms = mux_now_ms(m);
  buf_commit(&m->in, (size_t)got);
  return 1;
}

/* What the stream has now of a frame that is moved. */
static void move(struct mux *m) {
  int r = mux_move(m);
  if (r == -EPIPE) {
    turn_watch(m->turn, &m->reader, -1, 0);
    mux_break(m, NULL);
  } else if (r < 0) {
    mux_break(m, "not enough memory");
  }
}

/* Behind a large frame comes perhaps another: its header is read alone. */
void mux_read(struct mux *m) {
  if (!m->over && m->is_large && !m->nmoved && buf_size(&m->in) == 0) {
    if (!read_some(m, LINK_HEADER_SIZE))
      return;
    begin_move(m);
  }
  if (m->over)
    return;
  if (m->nmoved) {
    move(m);
    return;
  }
  int came = read_some(m, READ_MAX);
  if (m->over || buf_size(&m->in) == 0 ||
      (came && !m->greeted && m->ops->on_raw && m->ops->on_raw(m) != 0))
    return;
  take_frames(m);
}

static void on_stream(struct turn_watch *w, int events) {
  mux_read(list_entry(w, struct mux, reader));
}

static void on_writable(struct turn_watch *w, int events) {
  struct mux *m = list_entry(w, struct mux, writer);
  turn_watch(m->turn, w, -1, 0);
  mux_flush(m);
}

void mux_flush(struct mux *m) {
  if (m->to.fd < 0)
    return;
  if (m->nferried && !m->writer.events) {
    int r = mux_ferry(m);
    if (r == MF_AGAIN)
      turn_watch(m->turn, &m->writer, m->to.fd, TURN_WRITE);
    else if (r < 0)
      m->is_deaf = 1;
  }
  if (m->is_deaf)
    buf_consume(&m->out, buf_size(&m->out));
  size_t most;
  while (!m->writer.events && (most = mux_writable(m)) > 0) {
    ssize_t n = local_write(&m->to, buf_peek(&m->out), most, NULL, 0);
    if (n == -EAGAIN || n == -ENOBUFS) {
      turn_watch(m->turn, &m->writer, m->to.fd, TURN_WRITE);
      break;
    }
    if (n < 0) { /* what it has said last may still be read */
      buf_consume(&m->out, buf_size(&m->out));
      m->is_deaf = 1;
      break;
    }
    buf_consume(&m->out, (size_t)n);
  }
  mux_resume(m);
}

static void on_retry(uv_timer_t *t) {
  struct mux *m = list_entry(t, struct mux, retry);
  mux_retry(m);
  m->is_waiting = 0;
  mux_flush(m);
}

void mux_after(struct mux *m) {
  if (mux_backlog(m) > 0)
    mux_flush(m);
  mux_arm(m);
  mux_look_quiet(m);
  if ((!list_empty(&m->stalled) || m->is_waiting) &&
      !uv_is_active((uv_handle_t *)&m->retry))
    uv_timer_start(&m->retry, on_retry, SOCK_PAUSE_MS, 0);
  mux_free_gone(m);
}

/* ---- made ---- */

static int make_dead(void) {
  int pair[2], r = sock_pair(pair, 0);
  if (r < 0)
    return r;
  fd_close(&pair[1]);
  return pair[0];
}

int mux_init(struct mux *m, struct turn *turn, const struct mux_ops *ops, void *owner,
             int is_agent) {
  *m = (struct mux){.turn = turn, .ops = ops, .owner = owner, .is_agent = is_agent};
  m->from.fd = m->to.fd = m->ferry[0] = m->ferry[1] = -1;
  m->next_id = is_agent ? LINK_AGENT_FIRST : LINK_NEAR_FIRST;
  m->window = LINK_WINDOW;
  list_init(&m->channels);
  list_init(&m->fresh);
  list_init(&m->paused);
  list_init(&m->stalled);
  list_init(&m->crowded);
  list_init(&m->ending);
  list_init(&m->unmade);
  list_init(&m->gone);
  m->reader.on_ready = on_stream;
  m->reader.rank = TURN_FIRST; /* what it brings is passed on at once */
  m->writer.on_ready = on_writable;
  buf_init(&m->in, 2 * READ_MAX + LINK_BODY_MAX);
  buf_init(&m->out, QUEUE_MAX);
  m->in.keep = m->out.keep = 4 * READ_MAX;
  m->dead_fd = make_dead();
  m->missing_fd = m->dead_fd < 0 ? m->dead_fd : make_dead();
  if (m->missing_fd < 0)
    return m->missing_fd;
  (void)sock_mark_missing(m->missing_fd);
  m->last_ids[0] = is_agent ? LINK_CHANNEL_ROOT : LINK_CHANNEL_OUTPUT;
  uv_timer_init(turn->loop, &m->retry);
  return mux_grow(m);
}

void mux_raise_limit(struct mux *m) {
  struct rlimit l;
  if (getrlimit(RLIMIT_NOFILE, &l) < 0)
    return;
  l.rlim_cur = l.rlim_max;
  setrlimit(RLIMIT_NOFILE, &l);
  m->nspare = l.rlim_max / 4 < SPARE_MAX ? (int)(l.rlim_max / 4) : SPARE_MAX;
  if (l.rlim_max < LIMIT_ENOUGH)
    m->fd_limit = (int)l.rlim_max - m->nspare;
}

int mux_is_short(const struct mux *m) {
  return m->is_crowded || m->nspare < LINK_FORKS_MAX;
}

int mux_open(struct mux *m, int rfd, int wfd) {
  int r = local_open(&m->from, rfd), r2 = local_open(&m->to, wfd);
  if (r < 0 || r2 < 0)
    return r < 0 ? r : r2;
  m->heard_ms = mux_now_ms(m);
  return turn_watch(m->turn, &m->reader, m->from.fd, TURN_READ);
}

void mux_begin(struct mux *m, uint32_t window) {
  m->greeted = 1;
  m->window = window;
  mux_begin_channels(m);
}

void mux_shut(struct mux *m) {
  m->over = 1;
  mux_drop_all(m);
  turn_watch(m->turn, &m->reader, -1, 0);
  turn_watch(m->turn, &m->writer, -1, 0);
  local_close(&m->from);
  local_close(&m->to);
  m->nferried = 0;
  fd_close(&m->ferry[0]);
  fd_close(&m->ferry[1]);
}

void mux_deinit(struct mux *m) {
  mux_free_gone(m);
  fd_close(&m->dead_fd);
  fd_close(&m->missing_fd);
  buf_deinit(&m->in);
  buf_deinit(&m->out);
  free(m->buckets);
}
