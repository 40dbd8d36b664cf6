/* Watches by a uv_poll of each one's own. Where there is no epoll that is all of them
 * (poller_uv.c); on Linux those that last (poller_epoll.c). A turn of the loop tells a
 * bounded number; the others come next, in the order in which they were ready. Runs in
 * the parent, on the loop's thread. */
#ifndef PARENT_LOOP_UVPOLLS_H
#define PARENT_LOOP_UVPOLLS_H

#include "base/list.h"
#include "parent/loop/backend.h"

/* Events of one turn. An exit with its status and its callbacks takes about 20 us, so the
 * loop is back with its other work after a millisecond or two. */
enum { POLL_BATCH = 64 };

struct uvpolls {
  struct uv_loop_s *loop;
  void (*on_closed)(void *owner); /* a handle's close callback has come */
  void *owner;
  size_t nclosing; /* handles whose close callback has not come */
  struct list due; /* ready, and not told yet */
  int left;        /* of this turn's batch */
};

void uvpolls_init(struct uvpolls *u, struct uv_loop_s *loop,
                  void (*on_closed)(void *owner), void *owner);
/* As backend_ops.watch. */
int uvpolls_watch(struct uvpolls *u, struct watch *w, int fd, unsigned events);
/* A turn of the loop begins. */
void uvpolls_turn(struct uvpolls *u);

#endif
