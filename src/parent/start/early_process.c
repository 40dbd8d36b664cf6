#include "parent/start/early_process.h"

#include "base/result.h"
#include "os/fd.h"
#include "os/proc.h"
#include "parent/common/fork_watch.h"
#include "parent/private.h"
#include "parent/process/children.h"
#include <pthread.h>
#include <signal.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int fd_kept = -1, pid_kept;
static unsigned generation;

int mf_adopt_early(int fd, int pid) {
  early_process_drop();
  pthread_mutex_lock(&lock);
  fd_kept = fd;
  pid_kept = pid;
  generation = fork_generation();
  pthread_mutex_unlock(&lock);
  return 0;
}

void early_process_forget(void) {
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  lock = fresh;
  fd_close(&fd_kept);
}

int early_process_take(int *ret_pid) {
  int fd = -1;
  pthread_mutex_lock(&lock);
  if (fd_kept >= 0 && generation == fork_generation()) {
    fd = fd_kept;
    *ret_pid = pid_kept;
    fd_kept = -1;
  }
  pthread_mutex_unlock(&lock);
  return fd;
}

/* It has executed nothing, so the end of its socket ends it, unless somebody stopped it.
 * Without a pidfd it goes by the number, which is its until it is reaped. */
static void continue_it(int pid) {
  int pidfd = proc_pidfd(pid);
  if (proc_peek(pidfd, pid) == MF_AGAIN)
    proc_kill(pidfd, pid, SIGCONT);
  fd_close(&pidfd);
}

void early_process_drop(void) {
  int pid = -1, fd = early_process_take(&pid);
  if (fd < 0)
    return;
  fd_close(&fd);
  continue_it(pid);
  if (children_claim(pid) == 0)
    children_leave(pid);
}
