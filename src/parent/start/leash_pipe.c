/* What is one per process and not per loop: the leash pipe and the count of forks. Runs
 * in the parent.
 *
 * The leash's write end must exist nowhere but here: a forked copy of the parent closes
 * it first thing (pthread_atfork), else clones would outlive a parent that left a copy
 * behind. */
#include "parent/private.h"
#include "parent/process/children.h"
#include "parent/start/spawner.h"

#include "base/result.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int leash[2] = {-1, -1};
static volatile unsigned generation;

static void in_forked_copy(void) {
  /* Only calls that are safe after a fork of a threaded process. What is kept in lists is
   * the parent's; it is left alone. */
  int i;
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  for (i = 0; i < 2; i++) {
    if (leash[i] >= 0)
      close(leash[i]);
    leash[i] = -1;
  }
  lock = fresh;
  children_forked();
  spawner_forked();
  generation++;
}

static void watch_forks(void) {
  pthread_atfork(NULL, NULL, in_forked_copy);
}

unsigned fork_generation(void) {
  pthread_once(&once, watch_forks);
  return generation;
}

int mf_leash_fd(void) {
  int pair[2], r = 0;
  fork_generation();
  pthread_mutex_lock(&lock);
  if (leash[0] < 0) {
    if (pipe2(pair, O_CLOEXEC) < 0) {
      r = -errno;
    } else {
      leash[0] = fd_raise(pair[0]);
      leash[1] = fd_raise(pair[1]);
      if (leash[0] < 0 || leash[1] < 0) {
        r = leash[0] < 0 ? leash[0] : leash[1];
        fd_close(&leash[0]);
        fd_close(&leash[1]);
      }
    }
  }
  if (!r)
    r = leash[0];
  pthread_mutex_unlock(&lock);
  return r;
}
