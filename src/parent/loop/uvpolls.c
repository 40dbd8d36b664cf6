#include "parent/loop/uvpolls.h"

#include "parent/trace/trace.h"
#include <errno.h>
#include <stdlib.h>
#include <uv.h>

/* libuv lets go of a handle in its close callback only, so it is a block of its own. */
struct poll {
  uv_poll_t handle;
  struct watch *watch; /* NULL: closing */
  struct uvpolls *all;
  struct list due;
  unsigned ready;
};

void uvpolls_init(struct uvpolls *u, uv_loop_t *loop, void (*on_closed)(void *owner),
                  void *owner) {
  *u = (struct uvpolls){
      .loop = loop, .on_closed = on_closed, .owner = owner, .left = POLL_BATCH};
  list_init(&u->due);
}

void uvpolls_turn(struct uvpolls *u) {
  u->left = POLL_BATCH;
}

static int start(struct poll *p);

/* Level-triggered: what is not told now is ready in the next turn. Before p come those
 * that an earlier turn has left. */
static void on_poll(uv_poll_t *handle, int status, int events) {
  struct poll *p = handle->data, *q = NULL;
  struct uvpolls *u = p->all;
  if (!p->watch)
    return;
  /* On POLLERR libuv stops the handle (a reset socket may still hold bytes to read);
   * whoever still wants it has not seen its end yet. */
  if (status < 0)
    start(p);
  p->ready = status < 0 || (events & (UV_READABLE | UV_DISCONNECT)) ? WATCH_READ : 0;
  if (status < 0 || (events & UV_WRITABLE))
    p->ready |= WATCH_WRITE;
  if (list_empty(&p->due))
    list_push(&u->due, &p->due);
  while (q != p && u->left > 0 && !list_empty(&u->due)) {
    q = list_entry(u->due.next, struct poll, due);
    list_remove(&q->due);
    u->left--;
    q->watch->on_ready(q->watch, q->ready & (q->watch->events | WATCH_READ));
    trace_rest();
  }
}

static int start(struct poll *p) {
  unsigned events = p->watch->events;
  return uv_poll_start(&p->handle,
                       (events & (WATCH_READ | WATCH_HANGUP) ? UV_READABLE : 0) |
                           (events & WATCH_WRITE ? UV_WRITABLE : 0),
                       on_poll);
}

static void on_handle_closed(uv_handle_t *handle) {
  struct poll *p = handle->data;
  struct uvpolls *u = p->all;
  free(p);
  u->nclosing--;
  u->on_closed(u->owner);
}

static void drop(struct uvpolls *u, struct watch *w) {
  struct poll *p = w->impl;
  w->impl = NULL;
  w->events = 0;
  if (!p)
    return;
  p->watch = NULL;
  list_remove(&p->due);
  u->nclosing++;
  uv_close((uv_handle_t *)&p->handle, on_handle_closed);
}

static int open_poll(struct uvpolls *u, struct watch *w, int fd) {
  struct poll *p = calloc(1, sizeof *p);
  if (!p)
    return -ENOMEM;
  int r = uv_poll_init(u->loop, &p->handle, fd);
  if (r < 0) {
    free(p);
    return r;
  }
  uv_unref((uv_handle_t *)&p->handle);
  p->handle.data = p;
  p->all = u;
  p->watch = w;
  list_init(&p->due);
  w->impl = p;
  w->fd = fd;
  return 0;
}

int uvpolls_watch(struct uvpolls *u, struct watch *w, int fd, unsigned events) {
  if (!events) {
    drop(u, w);
    return 0;
  }
  if (w->impl && w->events == events)
    return 0;
  int r = w->impl ? 0 : open_poll(u, w, fd);
  if (r < 0)
    return r;
  w->events = events;
  r = start(w->impl);
  if (r < 0)
    drop(u, w);
  return r;
}
