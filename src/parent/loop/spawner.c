#include "parent/loop/spawner.h"

#include "os/thread.h"
#include "parent/common/fork_watch.h"
#include <errno.h>
#include <pthread.h>

enum { STACK_SIZE = 64 * 1024 }; /* posix_spawn(3) has a stack of its own for the child */

static struct {
  pthread_mutex_t lock;
  pthread_cond_t asked, answered;
  int running;
  const struct proc_spawn *spawn; /* NULL: nothing is asked */
  pid_t *ret_pid;
  int result, done;
} spawner = {.lock = PTHREAD_MUTEX_INITIALIZER,
             .asked = PTHREAD_COND_INITIALIZER,
             .answered = PTHREAD_COND_INITIALIZER};

static void *serve(void *arg) {
  pthread_mutex_lock(&spawner.lock);
  for (;;) {
    while (!spawner.spawn)
      pthread_cond_wait(&spawner.asked, &spawner.lock);
    spawner.result = proc_spawn(spawner.spawn, spawner.ret_pid);
    spawner.spawn = NULL;
    spawner.done = 1;
    pthread_cond_broadcast(&spawner.answered);
  }
  return NULL;
}

/* A forked copy has no such thread. */
static void in_copy(void) {
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
  spawner.lock = lock;
  spawner.asked = spawner.answered = cond;
  spawner.running = spawner.done = 0;
  spawner.spawn = NULL;
}

/* With the lock. 1: it runs. */
static int have_thread(void) {
  static struct fork_hook hook = {.in_copy = in_copy};
  pthread_t thread;
  fork_watch(&hook);
  if (!spawner.running && thread_start(&thread, STACK_SIZE, serve, NULL) == 0) {
    pthread_detach(thread);
    spawner.running = 1;
  }
  return spawner.running;
}

/* A thread with descriptors of its own is the parent itself: what it starts ends with it,
 * and other threads don't have what is to be inherited. */
static int starts_itself(void) {
  return proc_is_main_thread() || proc_has_own_fds();
}

int spawner_lasts(int forks) {
  if (starts_itself())
    return 1;
  if (forks)
    return 0;
  pthread_mutex_lock(&spawner.lock);
  int lasts = have_thread();
  pthread_mutex_unlock(&spawner.lock);
  return lasts;
}

/* Several threads may ask: each waits for its turn, then for its answer. */
int spawner_start(const struct proc_spawn *s, pid_t *ret_pid) {
  if (starts_itself())
    return proc_spawn(s, ret_pid);
  pthread_mutex_lock(&spawner.lock);
  if (!have_thread()) {
    pthread_mutex_unlock(&spawner.lock);
    return proc_spawn(s, ret_pid);
  }
  while (spawner.spawn || spawner.done)
    pthread_cond_wait(&spawner.answered, &spawner.lock);
  spawner.spawn = s;
  spawner.ret_pid = ret_pid;
  pthread_cond_signal(&spawner.asked);
  while (!spawner.done)
    pthread_cond_wait(&spawner.answered, &spawner.lock);
  int r = spawner.result;
  spawner.done = 0;
  pthread_cond_broadcast(&spawner.answered);
  pthread_mutex_unlock(&spawner.lock);
  return r;
}
