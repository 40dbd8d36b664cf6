/* See poller.h. Linux. */
#include "parent/loop/poller.h"

#include "os/fd.h"
#include "parent/loop/uvpolls.h"
#include "parent/trace/trace.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <uv.h>

/* libuv lets go of a handle in its close callback only; until then a restart needs
 * another. */
struct gate {
  uv_poll_t poll; /* of the epoll */
  struct poller *poller;
};

struct poller {
  uv_loop_t *loop;
  void (*on_closed)(void *owner);
  void *owner;
  struct gate *gate; /* NULL: stopped */
  int epoll;
  size_t nclosing;
  struct uvpolls lasting;
  struct epoll_event batch[POLL_BATCH]; /* what of the turn is left: from `next` on */
  int next, nbatch;
};

struct poller *poller_new(uv_loop_t *loop, void (*on_closed)(void *owner), void *owner) {
  struct poller *p = calloc(1, sizeof *p);
  if (!p)
    return NULL;
  *p = (struct poller){.loop = loop, .on_closed = on_closed, .owner = owner, .epoll = -1};
  uvpolls_init(&p->lasting, loop, on_closed, owner);
  return p;
}

static void tell(const struct epoll_event *e) {
  struct watch *w = e->data.ptr;
  unsigned ready = 0;
  if (!w)
    return;
  if (e->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
    ready |= WATCH_READ;
  if (e->events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
    ready |= w->events & WATCH_WRITE;
  w->on_ready(w, ready);
}

/* Level-triggered: what a batch leaves is readable in the next turn. */
static void on_ready(uv_poll_t *handle, int status, int events) {
  struct gate *gate = handle->data;
  struct poller *p = gate->poller;
  (void)status, (void)events;
  if (p->gate != gate || p->next < p->nbatch) /* stopped; or a callback turns the loop */
    return;
  int n = epoll_wait(p->epoll, p->batch, POLL_BATCH, 0);
  p->nbatch = n > 0 ? n : 0;
  for (p->next = 0; p->next < p->nbatch;)
    tell(&p->batch[p->next++]);
  trace_rest();
}

int poller_start(struct poller *p) {
  struct gate *gate = calloc(1, sizeof *gate);
  if (!gate)
    return -ENOMEM;
  int fd = epoll_create1(EPOLL_CLOEXEC), r = fd < 0 ? -errno : 0;
  if (fd >= 0)
    r = fd = fd_raise(fd);
  if (r >= 0)
    r = uv_poll_init(p->loop, &gate->poll, fd);
  if (r < 0) {
    fd_close(&fd);
    free(gate);
    return r;
  }
  gate->poll.data = gate;
  gate->poller = p;
  fd_label_loop(fd);
  uv_poll_start(&gate->poll, UV_READABLE, on_ready); /* it can't fail then */
  uv_unref((uv_handle_t *)&gate->poll);
  p->gate = gate;
  p->epoll = fd;
  return 0;
}

static void on_gate_closed(uv_handle_t *handle) {
  struct gate *gate = handle->data;
  struct poller *p = gate->poller;
  free(gate);
  p->nclosing--;
  p->on_closed(p->owner);
}

void poller_stop(struct poller *p) {
  if (!p->gate)
    return;
  uv_close((uv_handle_t *)&p->gate->poll, on_gate_closed);
  p->nclosing++;
  p->gate = NULL;
  p->nbatch = 0;
  fd_close(&p->epoll);
}

void poller_turn(struct poller *p) {
  uvpolls_turn(&p->lasting);
}

static void unwatch(struct poller *p, struct watch *w) {
  struct epoll_event unused = {0};
  if (!w->impl)
    return;
  /* Explicitly, even where the descriptor will be closed: a forked process may have it,
   * too. */
  epoll_ctl(p->epoll, EPOLL_CTL_DEL, w->fd, &unused);
  w->impl = NULL;
  w->events = 0;
  for (int i = p->next; i < p->nbatch; i++)
    if (p->batch[i].data.ptr == w)
      p->batch[i].data.ptr = NULL;
}

int poller_watch(struct poller *p, struct watch *w, int fd, unsigned events) {
  struct epoll_event e = {.data.ptr = w};
  if (w->lasts)
    return uvpolls_watch(&p->lasting, w, fd, events);
  if (!events) {
    unwatch(p, w);
    return 0;
  }
  if (w->impl && w->events == events)
    return 0;
  e.events =
      (events & WATCH_READ ? EPOLLIN : 0u) | (events & WATCH_WRITE ? EPOLLOUT : 0u);
  if (epoll_ctl(p->epoll, w->impl ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &e) < 0) {
    int r = -errno;
    unwatch(p, w);
    return r;
  }
  w->impl = p;
  w->fd = fd;
  w->events = events;
  return 0;
}

size_t poller_nclosing(const struct poller *p) {
  return p->nclosing + p->lasting.nclosing;
}

void poller_forked(struct poller *p) {
  fd_close(&p->epoll);
}

void poller_free(struct poller *p) {
  free(p);
}
