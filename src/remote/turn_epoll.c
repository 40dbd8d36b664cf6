/* See turn.h. Linux. */
#include "remote/turn.h"

#include "os/fd.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { BATCH = 256 };

struct turn_epoll {
  int epoll, signals;
  struct epoll_event batch[BATCH], look[BATCH];
  int nbatch; /* of the turn; what is done with has no watch any more */
  int loop_is_due;
  void (*on_child)(void);
  struct turn_watch loop, children;
};

static void on_loop(struct turn_watch *w, int events) {
  struct turn_epoll *e = w->impl;
  e->loop_is_due = 1;
}

/* One read tells of all: SIGCHLD does not queue. */
static void on_signal(struct turn_watch *w, int events) {
  struct turn_epoll *e = w->impl;
  struct signalfd_siginfo si;
  if (read(e->signals, &si, sizeof si) > 0)
    e->on_child();
}

static int add(struct turn_epoll *e, struct turn_watch *w, int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = w};
  w->fd = fd;
  w->events = TURN_READ;
  w->impl = e;
  return epoll_ctl(e->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int turn_init(struct turn *t, uv_loop_t *loop, void (*after)(struct turn *t)) {
  struct turn_epoll *e = calloc(1, sizeof *e);
  *t = (struct turn){.loop = loop, .after = after, .impl = e};
  if (!e)
    return -ENOMEM;
  e->signals = -1;
  e->loop.on_ready = on_loop;
  e->children.on_ready = on_signal;
  e->children.rank = TURN_LAST;
  e->epoll = epoll_create1(EPOLL_CLOEXEC);
  e->epoll = e->epoll < 0 ? -errno : fd_raise_made(e->epoll);
  if (e->epoll < 0)
    return e->epoll;
  return add(e, &e->loop, uv_backend_fd(loop));
}

void turn_deinit(struct turn *t) {
  struct turn_epoll *e = t->impl;
  if (!e)
    return;
  fd_close(&e->signals);
  fd_close(&e->epoll);
  free(e);
  t->impl = NULL;
}

void turn_forget(struct turn *t, struct turn_watch *w) {
  struct turn_epoll *e = t->impl;
  w->events = 0;
  for (int i = 0; i < e->nbatch; i++)
    if (e->batch[i].data.ptr == w)
      e->batch[i].data.ptr = NULL;
}

/* Explicitly, even where fd will be closed: another process may have it, too. */
static void unwatch(struct turn *t, struct turn_watch *w) {
  struct turn_epoll *e = t->impl;
  struct epoll_event unused = {0};
  if (!w->events)
    return;
  epoll_ctl(e->epoll, EPOLL_CTL_DEL, w->fd, &unused);
  turn_forget(t, w);
}

int turn_watch(struct turn *t, struct turn_watch *w, int fd, int events) {
  struct turn_epoll *e = t->impl;
  struct epoll_event event = {.data.ptr = w};
  if (events == w->events)
    return 0;
  if (!events) {
    unwatch(t, w);
    return 0;
  }
  event.events =
      (events & TURN_READ ? EPOLLIN : 0u) | (events & TURN_WRITE ? EPOLLOUT : 0u);
  if (epoll_ctl(e->epoll, w->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) < 0)
    return -errno;
  w->fd = fd;
  w->events = events;
  return 0;
}

static int events_of(const struct epoll_event *event) {
  int events = 0;
  if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR))
    events |= TURN_READ;
  if (event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
    events |= TURN_WRITE;
  return events;
}

/* Hang-ups and errors come unasked, but to nobody who asked for nothing. */
static int events_for(const struct turn_watch *w, const struct epoll_event *event) {
  int events = events_of(event) & w->events;
  return events && (event->events & EPOLLHUP) ? events | TURN_HANGUP : events;
}

int turn_look(struct turn *t, void (*visit)(struct turn_watch *w, int events)) {
  struct turn_epoll *e = t->impl;
  int n = epoll_wait(e->epoll, e->look, BATCH, 0);
  for (int i = 0; i < n; i++) {
    struct turn_watch *w = e->look[i].data.ptr;
    int events = events_for(w, &e->look[i]);
    if (events & TURN_READ)
      visit(w, events);
  }
  return n < 0 || n == BATCH ? -EAGAIN : 0;
}

int turn_watch_children(struct turn *t, void (*on_child)(void)) {
  struct turn_epoll *e = t->impl;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
    return -errno;
  e->on_child = on_child;
  int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  e->signals = fd < 0 ? -errno : fd_raise_made(fd);
  return e->signals < 0 ? e->signals : add(e, &e->children, e->signals);
}

int turn_hear_children(struct turn *t, int hears) {
  struct turn_epoll *e = t->impl;
  return turn_watch(t, &e->children, e->signals, hears ? TURN_READ : 0);
}

/* Until a timer is due, or -1. */
static int patience(const struct turn *t) {
  return uv_loop_alive(t->loop) ? uv_backend_timeout(t->loop) : -1;
}

static void call(struct turn_epoll *e, enum turn_rank rank) {
  for (int i = 0; i < e->nbatch; i++) {
    struct turn_watch *w = e->batch[i].data.ptr;
    if (!w || w->rank != rank)
      continue;
    int events = events_for(w, &e->batch[i]);
    e->batch[i].data.ptr = NULL;
    if (events)
      w->on_ready(w, events);
  }
}

/* The loop is turned when its descriptor or one of its timers is due. */
void turn_once(struct turn *t, int waits) {
  struct turn_epoll *e = t->impl;
  int n = epoll_wait(e->epoll, e->batch, BATCH, waits ? patience(t) : 0);
  uv_update_time(t->loop);
  e->loop_is_due = 0;
  e->nbatch = n > 0 ? n : 0;
  for (int rank = TURN_FIRST; rank <= TURN_LAST; rank++)
    call(e, (enum turn_rank)rank);
  e->nbatch = 0;
  if (e->loop_is_due || patience(t) == 0)
    uv_run(t->loop, UV_RUN_NOWAIT);
  t->after(t);
}

void turn_run(struct turn *t) {
  uv_run(t->loop, UV_RUN_NOWAIT); /* it watches what was begun */
  for (;;)
    turn_once(t, 1);
}
