/* See poller.h. macOS and the BSDs. */
#include "parent/loop/poller.h"

#include "parent/loop/uvpolls.h"
#include <stdlib.h>

struct poller {
  struct uvpolls polls;
};

struct poller *poller_new(struct uv_loop_s *loop, void (*on_closed)(void *owner),
                          void *owner) {
  struct poller *p = calloc(1, sizeof *p);
  if (p)
    uvpolls_init(&p->polls, loop, on_closed, owner);
  return p;
}

int poller_start(struct poller *p) {
  return 0;
}

void poller_stop(struct poller *p) {
}

void poller_turn(struct poller *p) {
  uvpolls_turn(&p->polls);
}

int poller_watch(struct poller *p, struct watch *w, int fd, unsigned events) {
  return uvpolls_watch(&p->polls, w, fd, events);
}

size_t poller_nclosing(const struct poller *p) {
  return p->polls.nclosing;
}

void poller_forked(struct poller *p) {
}

void poller_free(struct poller *p) {
  free(p);
}
