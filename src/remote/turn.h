/* The descriptors that an end of a link watches. turn_epoll.c (Linux): an epoll of its
 * own, with libuv's loop as one of them, for timers and signals: a channel that lives as
 * long as one fork costs one system call to be watched, where uv_poll takes six.
 * turn_uv.c: a uv_poll for each. Runs in the near end and the agent. */
#ifndef REMOTE_TURN_H
#define REMOTE_TURN_H

#include <uv.h>

/* TURN_HANGUP comes with one of the others, where the system tells by itself: whoever has
 * the other end has closed it. */
enum { TURN_READ = 1, TURN_WRITE = 2, TURN_HANGUP = 4 };

/* What is ready in the same turn goes in this order. */
enum turn_rank { TURN_USUAL = 0, TURN_FIRST = -1, TURN_LAST = 1 };

/* Belongs to the caller; not watched when it is freed. */
struct turn_watch {
  void (*on_ready)(struct turn_watch *w, int events);
  int fd, events;
  enum turn_rank rank;
  void *impl;
};

struct turn {
  uv_loop_t *loop;
  void (*after)(struct turn *t); /* the end of each turn */
  void *impl;
};

/* 0 or -errno. */
int turn_init(struct turn *t, uv_loop_t *loop, void (*after)(struct turn *t));
/* Of the library's loop nothing is closed. */
void turn_deinit(struct turn *t);
/* on_ready for fd from now on, as long as it can be read or written; events 0: not any
 * more, which comes before fd is closed. It also tells of errors and hang-ups. 0 or
 * -errno; -EPERM: a file, which is always ready. */
int turn_watch(struct turn *t, struct turn_watch *w, int fd, int events);
/* Not any more; its fd, which no other process has, is closed before the next turn. */
void turn_forget(struct turn *t, struct turn_watch *w);
/* Calls visit for each that can be read now. 0, or -EAGAIN: perhaps not for all. */
int turn_look(struct turn *t, void (*visit)(struct turn_watch *w, int events));
/* on_child when children have ended: theirs is to be waited for until there is none. 0 or
 * -errno. */
int turn_watch_children(struct turn *t, void (*on_child)(void));
/* Whether on_child is called from now on. What has ended meanwhile counts. 0 or -errno. */
int turn_hear_children(struct turn *t, int hears);
/* One turn. waits: until there is something to do. */
void turn_once(struct turn *t, int waits);
/* For ever: an end ends with _exit. */
void turn_run(struct turn *t);

#endif
