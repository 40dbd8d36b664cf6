/* libnats as a whole: it has three threads of its own, which end with the last engine,
 * unless the program opened libnats itself before. Runs in the parent. */
#include "nats/engine_private.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static unsigned users;
static int ours;

/* 0: it can't be told. */
static unsigned count_threads(void) {
  DIR *d = opendir("/proc/self/task");
  unsigned n = 0;
  if (!d)
    return 0;
  while (readdir(d))
    n++;
  closedir(d);
  return n;
}

/* libnats ignores SIGPIPE when it is opened; what the program does with that signal is
 * the program's (engine_quiet_begin). */
static int open_library(void) {
  struct sigaction old;
  sigaction(SIGPIPE, NULL, &old);
  unsigned before = count_threads();
  natsStatus s = nats_Open(-1);
  ours = s == NATS_OK && before > 0 && count_threads() > before;
  sigaction(SIGPIPE, &old, NULL);
  return s == NATS_OK ? 0 : s == NATS_NO_MEMORY ? -ENOMEM : -EAGAIN;
}

int engine_library_open(void) {
  pthread_mutex_lock(&mutex);
  int rc = users > 0 ? 0 : open_library();
  if (rc == 0)
    users++;
  pthread_mutex_unlock(&mutex);
  return rc;
}

void engine_library_close(void) {
  pthread_mutex_lock(&mutex);
  if (--users == 0 && ours)
    nats_CloseAndWait(1000);
  pthread_mutex_unlock(&mutex);
}

/* ---- SIGPIPE ---- */

void engine_quiet_begin(struct engine_quiet *q) {
  sigset_t pipe, pending;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  sigpending(&pending);
  q->was_pending = sigismember(&pending, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe, &q->mask);
}

void engine_quiet_end(const struct engine_quiet *q) {
  static const struct timespec now = {0, 0};
  sigset_t pipe, pending;
  sigpending(&pending);
  if (!q->was_pending && sigismember(&pending, SIGPIPE)) {
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    sigtimedwait(&pipe, NULL, &now);
  }
  pthread_sigmask(SIG_SETMASK, &q->mask, NULL);
}

const char *engine_library_version(void) {
  return nats_GetVersion();
}
