#include "parent/start/early_process.h"

#include "os/fd.h"
#include "parent/common/fork_watch.h"
#include "parent/private.h"
#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int fd_kept = -1, pid_kept;
static unsigned generation;

int mf_adopt_early(int fd, int pid) {
  int old;
  pthread_mutex_lock(&lock);
  old = generation == fork_generation() ? fd_kept : -1;
  fd_kept = fd;
  pid_kept = pid;
  generation = fork_generation();
  pthread_mutex_unlock(&lock);
  fd_close(&old);
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
