#include "os/sigpipe.h"

#include <errno.h>
#include <pthread.h>

static void pipe_only(sigset_t *set) {
  sigemptyset(set);
  sigaddset(set, SIGPIPE);
}

static int is_pending(void) {
  sigset_t pending;
  sigpending(&pending);
  return sigismember(&pending, SIGPIPE);
}

void sigpipe_block(struct sigpipe *s) {
  sigset_t set;
  pipe_only(&set);
  s->was_pending = is_pending();
  pthread_sigmask(SIG_BLOCK, &set, &s->before);
}

void sigpipe_restore(const struct sigpipe *s, int error) {
  sigset_t set;
  int signum;
  pipe_only(&set);
  if (error == EPIPE && !s->was_pending && is_pending())
    sigwait(&set, &signum);
  pthread_sigmask(SIG_SETMASK, &s->before, NULL);
}
