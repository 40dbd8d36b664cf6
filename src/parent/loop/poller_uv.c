/* See poller.h. macOS and the BSDs. */
#include "parent/loop/poller.h"

#include "parent/trace/trace.h"
#include <errno.h>
#include <stdlib.h>
#include <uv.h>

struct poller {
  uv_loop_t *loop;
  void (*on_closed)(void *owner);
  void *owner;
  size_t nclosing;
};

struct poll {
  uv_poll_t poll;
  struct watch *watch; /* NULL: closing */
  struct poller *poller;
};

struct poller *poller_new(uv_loop_t *loop, void (*on_closed)(void *owner), void *owner) {
  struct poller *p = calloc(1, sizeof *p);
  if (!p)
    return NULL;
  *p = (struct poller){.loop = loop, .on_closed = on_closed, .owner = owner};
  return p;
}

int poller_start(struct poller *p) {
  return 0;
}

void poller_stop(struct poller *p) {
}

static void on_poll_closed(uv_handle_t *handle) {
  struct poll *p = handle->data;
  struct poller *u = p->poller;
  free(p);
  u->nclosing--;
  u->on_closed(u->owner);
}

static int poll_start(struct poll *p);

static void on_poll(uv_poll_t *handle, int status, int events) {
  struct poll *p = handle->data;
  unsigned ready = 0;
  if (!p->watch)
    return;
  if (status < 0 || (events & (UV_READABLE | UV_DISCONNECT)))
    ready |= WATCH_READ;
  if (status < 0 || (events & UV_WRITABLE))
    ready |= p->watch->events & WATCH_WRITE;
  p->watch->on_ready(p->watch, ready);
  trace_rest();
  /* On POLLERR libuv stops the handle (a reset socket may still hold bytes to read);
   * whoever still wants it has not seen its end yet. */
  if (status < 0 && p->watch)
    poll_start(p);
}

static int poll_start(struct poll *p) {
  unsigned events = p->watch->events;
  return uv_poll_start(&p->poll,
                       (events & WATCH_READ ? UV_READABLE : 0) |
                           (events & WATCH_WRITE ? UV_WRITABLE : 0),
                       on_poll);
}

static void poll_drop(struct poller *u, struct watch *w) {
  struct poll *p = w->impl;
  w->impl = NULL;
  w->events = 0;
  if (!p)
    return;
  p->watch = NULL;
  uv_poll_stop(&p->poll);
  u->nclosing++;
  uv_close((uv_handle_t *)&p->poll, on_poll_closed);
}

int poller_watch(struct poller *u, struct watch *w, int fd, unsigned events) {
  struct poll *p = w->impl;
  int r;
  if (!events) {
    poll_drop(u, w);
    return 0;
  }
  if (p && w->events == events)
    return 0;
  if (!p) {
    p = calloc(1, sizeof *p);
    if (!p)
      return -ENOMEM;
    r = uv_poll_init(u->loop, &p->poll, fd);
    if (r < 0) {
      free(p);
      return r;
    }
    p->poll.data = p;
    p->poller = u;
    p->watch = w;
    w->impl = p;
    w->fd = fd;
    uv_unref((uv_handle_t *)&p->poll);
  }
  w->events = events;
  r = poll_start(p);
  if (r < 0)
    poll_drop(u, w);
  return r;
}

size_t poller_nclosing(const struct poller *p) {
  return p->nclosing;
}

void poller_forked(struct poller *p) {
}

void poller_free(struct poller *p) {
  free(p);
}
