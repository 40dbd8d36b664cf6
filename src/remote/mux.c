#include "remote/mux.h"

#include "base/result.h"
#include "os/sock.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
  READ_MAX = 320 * 1024, /* from the stream at a time */
  QUEUE_MAX = 64 * 1024 * 1024
};

uint64_t mux_now_ms(const struct mux *m) {
  return uv_now(m->loop);
}

size_t mux_backlog(const struct mux *m) {
  return buf_size(&m->out);
}

void mux_break(struct mux *m, const char *why) {
  if (m->over)
    return;
  m->over = 1;
  m->ops->on_end(m, why);
}

/* ---- the stream ---- */

static void take_frames(struct mux *m) {
  struct link_frame f;
  int r;
  while (!m->over && (r = link_next(&m->in, LINK_LAST, &f)) <= 0) {
    if (r == 0 && !m->greeted && f.type != LINK_HELLO && f.type != LINK_FAILED)
      r = -EPROTO;
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
}

void mux_read(struct mux *m) {
  struct fdset fds;
  if (m->over)
    return;
  unsigned char *at = buf_reserve(&m->in, READ_MAX);
  if (!at) {
    mux_break(m, "not enough memory");
    return;
  }
  ssize_t got = local_read(&m->from, at, READ_MAX, &fds);
  fdset_close(&fds);
  if (got == -EAGAIN)
    return;
  if (got <= 0) {
    uv_poll_stop(&m->reader);
    mux_break(m, NULL);
    return;
  }
  m->heard_ms = mux_now_ms(m);
  buf_commit(&m->in, (size_t)got);
  if (!m->greeted && m->ops->on_raw && m->ops->on_raw(m) != 0)
    return;
  take_frames(m);
}

static void on_stream(uv_poll_t *poll, int status, int events) {
  struct mux *m = list_entry(poll, struct mux, reader);
  mux_read(m);
  if (status < 0 && !m->over) /* libuv has stopped it: what came before is read */
    uv_poll_start(poll, UV_READABLE, on_stream);
}

static void on_writable(uv_poll_t *poll, int status, int events) {
  struct mux *m = list_entry(poll, struct mux, writer);
  uv_poll_stop(poll);
  m->is_watching_out = 0;
  mux_flush(m);
}

void mux_flush(struct mux *m) {
  if (m->to.fd < 0)
    return;
  if (m->is_deaf)
    buf_consume(&m->out, buf_size(&m->out));
  while (buf_size(&m->out) > 0 && !m->is_watching_out) {
    ssize_t n = local_write(&m->to, buf_peek(&m->out), buf_size(&m->out), NULL, 0);
    if (n == -EAGAIN || n == -ENOBUFS) {
      m->is_watching_out = 1;
      uv_poll_start(&m->writer, UV_WRITABLE, on_writable);
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
  mux_retry(list_entry(t, struct mux, retry));
}

static void on_check(uv_check_t *check) {
  struct mux *m = list_entry(check, struct mux, flusher);
  if (buf_size(&m->out) > 0)
    mux_flush(m);
  mux_arm(m);
  mux_look_quiet(m);
  if (!list_empty(&m->stalled) && !uv_is_active((uv_handle_t *)&m->retry))
    uv_timer_start(&m->retry, on_retry, SOCK_PAUSE_MS, 0);
}

/* ---- made ---- */

static int make_dead(void) {
  int pair[2], r = sock_pair(pair, 0);
  if (r < 0)
    return r;
  fd_close(&pair[1]);
  return pair[0];
}

int mux_init(struct mux *m, uv_loop_t *loop, const struct mux_ops *ops, void *owner,
             int is_agent) {
  *m = (struct mux){.loop = loop, .ops = ops, .owner = owner, .is_agent = is_agent};
  m->from.fd = m->to.fd = -1;
  m->next_id = is_agent ? 4 : 3;
  m->window = LINK_WINDOW;
  list_init(&m->channels);
  list_init(&m->fresh);
  list_init(&m->paused);
  list_init(&m->stalled);
  buf_init(&m->in, 2 * READ_MAX + LINK_BODY_MAX);
  buf_init(&m->out, QUEUE_MAX);
  m->in.keep = m->out.keep = 4 * READ_MAX;
  m->dead_fd = make_dead();
  if (m->dead_fd < 0)
    return m->dead_fd;
  m->last_id = is_agent ? LINK_CHANNEL_ROOT : LINK_CHANNEL_OUTPUT;
  uv_timer_init(loop, &m->retry);
  uv_check_init(loop, &m->flusher);
  uv_check_start(&m->flusher, on_check);
  return mux_grow(m);
}

int mux_open(struct mux *m, int rfd, int wfd) {
  int r = local_open(&m->from, rfd), r2 = local_open(&m->to, wfd);
  if (r < 0 || r2 < 0)
    return r < 0 ? r : r2;
  m->heard_ms = mux_now_ms(m);
  r = local_poll(&m->from, m->loop, &m->reader);
  if (!r)
    r = local_poll(&m->to, m->loop, &m->writer);
  return r ? r : uv_poll_start(&m->reader, UV_READABLE, on_stream);
}

void mux_begin(struct mux *m, uint32_t window) {
  m->greeted = 1;
  m->window = window;
  mux_begin_channels(m);
}

void mux_shut(struct mux *m) {
  m->over = 1;
  mux_drop_all(m);
  if (m->from.fd >= 0)
    uv_poll_stop(&m->reader);
  if (m->to.fd >= 0)
    uv_poll_stop(&m->writer);
  uv_check_stop(&m->flusher);
  local_close(&m->from);
  local_close(&m->to);
}

void mux_deinit(struct mux *m) {
  fd_close(&m->dead_fd);
  buf_deinit(&m->in);
  buf_deinit(&m->out);
  free(m->buckets);
}
