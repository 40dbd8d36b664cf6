/* The leash pipe: one for the process, whatever its loops; and one for each thread that has
 * descriptors of its own, which ends with them. Runs in the parent.
 *
 * The leash's write end must exist nowhere but here: a forked copy of the parent closes
 * it first thing (pthread_atfork), else clones would outlive a parent that left a copy
 * behind. */
#include "base/result.h"
#include "os/fd.h"
#include "os/proc.h"
#include "parent/common/fork_watch.h"
#include "parent/private.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int leash[2] = {-1, -1};
static _Thread_local int own_leash[2] = {-1, -1};

/* Only calls that are safe after a fork of a threaded process. What is kept in lists is
 * the parent's; it is left alone. */
static void in_forked_copy(void) {
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  for (int i = 0; i < 2; i++) {
    fd_close(&leash[i]);
    fd_close(&own_leash[i]);
  }
  lock = fresh;
}

/* Its reading end, made where it is not there yet; or -errno. */
static int reading_end(int ends[2]) {
  int pair[2];
  if (ends[0] >= 0)
    return ends[0];
  if (pipe2(pair, O_CLOEXEC) < 0)
    return -errno;
  ends[0] = fd_raise(pair[0]);
  ends[1] = fd_raise(pair[1]);
  if (ends[0] >= 0 && ends[1] >= 0)
    return ends[0];
  int r = ends[0] < 0 ? ends[0] : ends[1];
  fd_close(&ends[0]);
  fd_close(&ends[1]);
  return r;
}

int mf_leash_fd(void) {
  static struct fork_hook hook = {.in_copy = in_forked_copy};
  pthread_mutex_lock(&lock);
  fork_watch(&hook);
  int r = proc_has_own_fds() ? reading_end(own_leash) : reading_end(leash);
  pthread_mutex_unlock(&lock);
  return r;
}
