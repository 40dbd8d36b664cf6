/* See turn.h. macOS and the BSDs. */
#include "remote/turn.h"

#include "base/list.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>

struct turn_poll {
  uv_poll_t poll;
  struct turn_watch *watch; /* NULL: it is being closed */
};

struct turn_uv {
  uv_check_t check;
  uv_signal_t children;
  struct turn *turn;
  void (*on_child)(void);
};

static void on_check(uv_check_t *check) {
  struct turn *t = list_entry(check, struct turn_uv, check)->turn;
  t->after(t);
}

int turn_init(struct turn *t, uv_loop_t *loop, void (*after)(struct turn *t)) {
  struct turn_uv *u = calloc(1, sizeof *u);
  *t = (struct turn){.loop = loop, .after = after, .impl = u};
  if (!u)
    return -ENOMEM;
  u->turn = t;
  uv_check_init(loop, &u->check);
  uv_signal_init(loop, &u->children);
  return uv_check_start(&u->check, on_check);
}

static void on_check_closed(uv_handle_t *h) {
  free(list_entry(h, struct turn_uv, check));
}

void turn_deinit(struct turn *t) {
  struct turn_uv *u = t->impl;
  if (!u)
    return;
  uv_close((uv_handle_t *)&u->children, NULL);
  uv_close((uv_handle_t *)&u->check, on_check_closed);
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
  return 0;
}

_Static_assert((int)TURN_READ == (int)UV_READABLE && (int)TURN_WRITE == (int)UV_WRITABLE,
               "they are passed as they are");

int turn_watch(struct turn *t, struct turn_watch *w, int fd, int events) {
  struct turn_poll *p = w->impl;
  if (events == w->events)
    return 0;
  if (!events) {
    p->watch = w->impl = NULL;
    w->events = 0;
    uv_close((uv_handle_t *)&p->poll, free_poll);
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

int turn_look(struct turn *t, void (*visit)(struct turn_watch *w, int events)) {
  return -EAGAIN;
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
}

void turn_run(struct turn *t) {
  for (;;)
    turn_once(t, 1);
}
