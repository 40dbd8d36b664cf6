/* The descriptors that a backend watches, on its libuv loop. Runs in the parent, on the
 * loop's thread. poller_epoll.c (Linux): an epoll of the library's behind one uv_poll. So
 * watching costs one system call where uv_poll needs four, and a turn of the loop handles
 * a bounded number of events however many come at once. But each event costs an
 * epoll_wait more, so what lasts has a uv_poll of its own. poller_uv.c: a uv_poll for
 * each.
 */
#ifndef PARENT_LOOP_POLLER_H
#define PARENT_LOOP_POLLER_H

#include "parent/loop/backend.h"

struct poller;

/* on_closed: a handle's close callback has come. NULL: no memory. */
struct poller *poller_new(struct uv_loop_s *loop, void (*on_closed)(void *owner),
                          void *owner);
/* Nothing is watched while it is stopped. 0 or -errno. */
int poller_start(struct poller *p);
void poller_stop(struct poller *p);
void poller_turn(struct poller *p); /* a turn of the loop begins */
int poller_watch(struct poller *p, struct watch *w, int fd,
                 unsigned events); /* backend.h */
size_t
poller_nclosing(const struct poller *p); /* handles whose close callback has not come */
/* In a forked copy: lets go of descriptors that are the original's. */
void poller_forked(struct poller *p);
void poller_free(struct poller *p); /* a stopped one without closing handles */

#endif
