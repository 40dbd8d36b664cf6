/* See turn.h. macOS and the BSDs. */
#include "remote/turn.h"

#include "base/list.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>

struct turn_poll {
  uv_poll_t poll;
  struct turn_watch *watch; /* NULL: it is being closed */
  struct list link;
};

struct turn_uv {
  uv_prepare_t prepare;
  uv_signal_t children;
  int nhandles; /* which are not closed */
  struct turn *turn;
  void (*on_child)(void);
  struct list polls; /* of what is watched */
  size_t npolls;
};

/* libuv calls timers, too, and then waits: what they have left is done between. */
static void on_prepare(uv_prepare_t *prepare) {
  struct turn *t = list_entry(prepare, struct turn_uv, prepare)->turn;
  t->after(t);
}

int turn_init(struct turn *t, uv_loop_t *loop, void (*after)(struct turn *t)) {
  struct turn_uv *u = calloc(1, sizeof *u);
  *t = (struct turn){.loop = loop, .after = after, .impl = u};
  if (!u)
    return -ENOMEM;
  u->turn = t;
  list_init(&u->polls);
  uv_prepare_init(loop, &u->prepare);
  uv_signal_init(loop, &u->children);
  u->prepare.data = u->children.data = u;
  u->nhandles = 2;
  return uv_prepare_start(&u->prepare, on_prepare);
}

static void on_closed(uv_handle_t *h) {
  struct turn_uv *u = h->data;
  if (--u->nhandles == 0)
    free(u);
}

void turn_deinit(struct turn *t) {
  struct turn_uv *u = t->impl;
  if (!u)
    return;
  uv_close((uv_handle_t *)&u->children, on_closed);
  uv_close((uv_handle_t *)&u->prepare, on_closed);
  t->impl = NULL;
}

static void free_poll(uv_handle_t *h) {
  free(list_entry(h, struct turn_poll, poll));
}

static void on_poll(uv_poll_t *poll, int status, int events) {
  struct turn_poll *p = list_entry(poll, struct turn_poll, poll);
  struct turn_watch *w = p->watch;
  int ready = status < 0 ? TURN_READ | TURN_WRITE
                         : (events & UV_READABLE ? TURN_READ : 0) |
                               (events & UV_WRITABLE ? TURN_WRITE : 0);
  if (!w)
    return;
  if (status < 0) /* libuv has stopped it */
    uv_poll_start(poll, w->events, on_poll);
  if (ready & w->events)
    w->on_ready(w, ready & w->events);
}

/* uv_poll_init sets O_NONBLOCK, which other processes share. */
static int make_poll(struct turn *t, struct turn_watch *w, int fd) {
  struct turn_uv *u = t->impl;
  struct turn_poll *p = calloc(1, sizeof *p);
  int flags = fcntl(fd, F_GETFL), r = p ? uv_poll_init(t->loop, &p->poll, fd) : -ENOMEM;
  if (flags >= 0 && !(flags & O_NONBLOCK))
    (void)fcntl(fd, F_SETFL, flags);
  if (r < 0) {
    free(p);
    return r;
  }
  p->watch = w;
  w->impl = p;
  list_push(&u->polls, &p->link);
  u->npolls++;
  return 0;
}

_Static_assert((int)TURN_READ == (int)UV_READABLE && (int)TURN_WRITE == (int)UV_WRITABLE,
               "they are passed as they are");

static void unwatch(struct turn *t, struct turn_watch *w) {
  struct turn_uv *u = t->impl;
  struct turn_poll *p = w->impl;
  p->watch = w->impl = NULL;
  w->events = 0;
  list_remove(&p->link);
  u->npolls--;
  uv_close((uv_handle_t *)&p->poll, free_poll);
}

int turn_watch(struct turn *t, struct turn_watch *w, int fd, int events) {
  struct turn_poll *p = w->impl;
  if (events == w->events)
    return 0;
  if (!events) {
    unwatch(t, w);
    return 0;
  }
  int r = p ? 0 : make_poll(t, w, fd);
  if (r < 0)
    return r;
  w->fd = fd;
  w->events = events;
  return uv_poll_start(&((struct turn_poll *)w->impl)->poll, events, on_poll);
}

void turn_forget(struct turn *t, struct turn_watch *w) {
  turn_watch(t, w, -1, 0);
}

/* What visit ends is closed later, by the loop, and has no watch until then. */
int turn_look(struct turn *t, void (*visit)(struct turn_watch *w, int events)) {
  struct turn_uv *u = t->impl;
  struct turn_poll **polls = calloc(u->npolls + 1, sizeof *polls);
  struct pollfd *fds = calloc(u->npolls + 1, sizeof *fds);
  size_t n = 0;
  int r = -EAGAIN;
  if (polls && fds) {
    list_each(it, &u->polls) {
      polls[n] = list_entry(it, struct turn_poll, link);
      fds[n].fd = polls[n]->watch->fd;
      fds[n].events = polls[n]->watch->events & TURN_READ ? POLLIN : 0;
      n++;
    }
    r = poll(fds, (nfds_t)n, 0) < 0 ? -EAGAIN : 0;
  }
  for (size_t i = 0; !r && i < n; i++) {
    struct turn_watch *w = polls[i]->watch;
    if (w && (w->events & TURN_READ) && fds[i].revents)
      visit(w, TURN_READ | (fds[i].revents & POLLHUP ? TURN_HANGUP : 0));
  }
  free(fds);
  free(polls);
  return r;
}

static void on_signal(uv_signal_t *s, int signum) {
  list_entry(s, struct turn_uv, children)->on_child();
}

int turn_watch_children(struct turn *t, void (*on_child)(void)) {
  struct turn_uv *u = t->impl;
  u->on_child = on_child;
  return uv_signal_start(&u->children, on_signal, SIGCHLD);
}

int turn_hear_children(struct turn *t, int hears) {
  return 0; /* always */
}

void turn_once(struct turn *t, int waits) {
  uv_run(t->loop, waits ? UV_RUN_ONCE : UV_RUN_NOWAIT);
  t->after(t);
}

void turn_run(struct turn *t) {
  for (;;)
    turn_once(t, 1);
}
