/* The leash pipe: one for the process, whatever its loops. Runs in the parent.
 *
 * The leash's write end must exist nowhere but here: a forked copy of the parent closes
 * it first thing (pthread_atfork), else clones would outlive a parent that left a copy
 * behind. */
#include "base/result.h"
#include "os/fd.h"
#include "parent/common/fork_watch.h"
#include "parent/private.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int leash[2] = {-1, -1};

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
}

int mf_leash_fd(void) {
  int pair[2], r = 0;
  static struct fork_hook hook = {.in_copy = in_forked_copy};
  pthread_mutex_lock(&lock);
  fork_watch(&hook);
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
