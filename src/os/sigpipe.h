/* Writing without SIGPIPE, whatever the disposition is: it is blocked in this thread
 * meanwhile, and the one that the write itself caused is taken off again. One that was
 * pending before stays. Runs in every process. */
#ifndef OS_SIGPIPE_H
#define OS_SIGPIPE_H

#include <signal.h>

struct sigpipe {
  sigset_t before;
  int was_pending;
};

void sigpipe_block(struct sigpipe *s);
/* error: what the write ended with, 0 or an errno. */
void sigpipe_restore(const struct sigpipe *s, int error);

#endif
