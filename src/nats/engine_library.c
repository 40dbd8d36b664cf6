/* libnats as a whole: it has three threads of its own, which end with the last engine,
 * unless the program opened libnats itself before. Runs in the parent.
 *
 * A process may exit while an attempt to connect is under way: the thread of an engine
 * that was aborted goes on, and a program need not close an engine. But libnats and
 * OpenSSL free what all their threads use from functions that they give to atexit, the
 * former whenever its count of users is 0, which it is a moment before its last thread
 * has done its work. So exit waits here first: until nobody is closing libnats, after
 * which nobody does, and until no attempt uses TLS. Handshakes are cut for that; an
 * attempt that waits for a server's first word ends after CONNECT_MS for each server at
 * the latest, and exit waits for EXIT_MS at most.
 *
 * A copy that the program has forked itself has none of the threads, and perhaps mutexes
 * of libnats and OpenSSL that one of them held: those functions wait for them for ever,
 * once in some thousand copies. Nothing gives the mutexes back, so exit has a time limit
 * in a copy. */
#include "nats/engine_private.h"

#include <dirent.h>
#include <errno.h>
#include <link.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
  EXIT_MS = CONNECT_MS + 500,
  COPY_EXIT_S = 5, /* that exit takes in a forked copy */
  END_MS = 10000,  /* of libnats's threads */
  POSTS_MS = 1000  /* and of what they have to do before */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t secure_over = PTHREAD_COND_INITIALIZER;
static unsigned users, nsecure;
static int ours, is_exiting;
static struct timespec last; /* that exit waits for, once is_exiting */
static pid_t opened_by;

static void put_deadline(struct timespec *t, long ms) {
  clock_gettime(CLOCK_REALTIME, t);
  t->tv_sec += ms / 1000;
  t->tv_nsec += ms % 1000 * 1000000L;
  t->tv_sec += t->tv_nsec / 1000000000L;
  t->tv_nsec %= 1000000000L;
}

/* ---- the end of the process ---- */

#ifdef __GLIBC__

static void *end_late(void *status) {
  sleep(COPY_EXIT_S);
  fflush(NULL);
  _exit((int)(intptr_t)status);
}

static void on_exit_of_copy(int status) {
  static int begun;
  sigset_t all, old;
  pthread_t thread;
  if (begun++)
    return;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  if (pthread_create(&thread, NULL, end_late, (void *)(intptr_t)status) == 0)
    pthread_detach(thread);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}

#endif

/* Called twice (engine_secure_ready): with one time limit. */
static void wait_for_attempts(void) {
  engine_handshake_exit();
  pthread_mutex_lock(&mutex);
  if (!is_exiting)
    put_deadline(&last, EXIT_MS);
  is_exiting = 1;
  while (nsecure > 0 && pthread_cond_timedwait(&secure_over, &mutex, &last) == 0)
    ;
  pthread_mutex_unlock(&mutex);
}

/* Without memory for what is registered here exit does not wait. */

#ifdef __GLIBC__

static void on_exit_of_process(int status, void *data) {
  (void)data;
  if (getpid() == opened_by)
    wait_for_attempts();
  else
    on_exit_of_copy(status);
}

static void watch_exit(void) {
  on_exit(on_exit_of_process, NULL);
}

#else /* the status of an exit is not told */

static void on_exit_of_process(void) {
  if (getpid() == opened_by)
    wait_for_attempts();
}

static void watch_exit(void) {
  atexit(on_exit_of_process);
}

#endif

/* What is given to atexit or on_exit last is called first: libnats's function is there since its
 * first nats_Open, OpenSSL's since the first options with TLS. */
static void watch_exit_plain(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_exit);
}

void engine_secure_ready(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_exit);
}

void engine_secure_begin(void) {
  pthread_mutex_lock(&mutex);
  nsecure++;
  pthread_mutex_unlock(&mutex);
}

/* What OpenSSL has of a thread is freed by the thread, when it ends: that may be after
 * OpenSSL. libnats brings OpenSSL; a build of it without has no such function. */
extern void OPENSSL_thread_stop(void) __attribute__((weak));

void engine_secure_end(void) {
  if (OPENSSL_thread_stop)
    OPENSSL_thread_stop();
  pthread_mutex_lock(&mutex);
  if (--nsecure == 0)
    pthread_cond_broadcast(&secure_over);
  pthread_mutex_unlock(&mutex);
}

/* ---- other copies ---- */

/* A host in C may have libmoonfork-nats, and an interpreter with moonfork.nats, each with
 * a record of its own of who uses libnats. */
static int count_copy(struct dl_phdr_info *info, size_t size, void *data) {
  static const char library[] = "libmoonfork-nats.so", module[] = "nats_core.so";
  const char *slash = strrchr(info->dlpi_name, '/');
  const char *name = slash ? slash + 1 : info->dlpi_name;
  (void)size;
  if (strncmp(name, library, sizeof library - 1) == 0 || strcmp(name, module) == 0)
    ++*(unsigned *)data;
  return 0;
}

/* Then libnats stays open: the other may use it. */
static int has_other_copy(void) {
  unsigned n = 0;
  dl_iterate_phdr(count_copy, &n);
  return n > 1;
}

/* ---- opening and closing ---- */

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
  if (s == NATS_OK) {
    opened_by = getpid();
    watch_exit_plain();
  }
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

/* What libnats's threads have not delivered when it is closed it forgets; and with the end
 * of a subscription that, its connection and the post. They need microseconds for it. The
 * mutex is not the one that is held while libnats is closed, which waits for them. */
static pthread_mutex_t posts_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t posts_over = PTHREAD_COND_INITIALIZER;
static unsigned nposts;

void engine_post_begin(void) {
  pthread_mutex_lock(&posts_mutex);
  nposts++;
  pthread_mutex_unlock(&posts_mutex);
}

void engine_post_end(void) {
  pthread_mutex_lock(&posts_mutex);
  if (--nposts == 0)
    pthread_cond_broadcast(&posts_over);
  pthread_mutex_unlock(&posts_mutex);
}

static void wait_for_posts(void) {
  struct timespec late;
  put_deadline(&late, POSTS_MS);
  pthread_mutex_lock(&posts_mutex);
  while (nposts > 0 && pthread_cond_timedwait(&posts_over, &posts_mutex, &late) == 0)
    ;
  pthread_mutex_unlock(&posts_mutex);
}

void engine_library_close(void) {
  pthread_mutex_lock(&mutex);
  if (--users == 0 && ours && !is_exiting && !has_other_copy()) {
    wait_for_posts();
    nats_CloseAndWait(END_MS);
  }
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
