/* A thread and its asker share a measure; whoever comes last to the state frees it, as in
 * socket/resolve.c:
 *
 *   RUNNING -> DONE       (thread)  the asker is woken, joins and frees
 *   RUNNING -> ABANDONED  (asker)   the thread frees when it is done
 */
#include "os/measure.h"

#include "os/fd.h"
#include "os/thread.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { RUNNING, DONE, ABANDONED };
enum { STACK_SIZE = 128 * 1024 };

struct measure {
  pid_t pid;
  pthread_t thread;
  int wait_fd, wake_fd; /* wake_fd is the thread's: a byte there says that it is done (an
                  end of file would wait for copies that a fork has made of it) */
  int result;
  struct proc_memory memory;
  atomic_int state;
};

static void measure_free(struct measure *m) {
  fd_close(&m->wait_fd);
  fd_close(&m->wake_fd);
  free(m);
}

static void *measure_main(void *arg) {
  struct measure *m = arg;
  m->result = proc_memory(m->pid, &m->memory);
  int wake_fd = m->wake_fd;
  m->wake_fd = -1;
  if (atomic_exchange(&m->state, DONE) == ABANDONED)
    measure_free(m);
  while (write(wake_fd, "", 1) < 0 && errno == EINTR)
    ; /* SIGPIPE is blocked, as all are */
  fd_close(&wake_fd);
  return NULL;
}

static int open_pipe(struct measure *m) {
  int fd[2];
  if (pipe2(fd, O_CLOEXEC | O_NONBLOCK) != 0)
    return -errno;
  m->wait_fd = fd_raise(fd[0]);
  m->wake_fd = fd_raise(fd[1]);
  return m->wait_fd < 0 ? m->wait_fd : m->wake_fd < 0 ? m->wake_fd : 0;
}

int measure_start(pid_t pid, struct measure **ret) {
  struct measure *m = calloc(1, sizeof *m);
  if (!m)
    return -ENOMEM;
  m->pid = pid;
  m->wait_fd = m->wake_fd = -1;
  int r = open_pipe(m);
  if (r == 0)
    r = thread_start(&m->thread, STACK_SIZE, measure_main, m);
  if (r < 0) {
    measure_free(m);
    return r;
  }
  *ret = m;
  return 0;
}

int measure_fd(const struct measure *m) {
  return m->wait_fd;
}

int measure_end(struct measure *m, struct proc_memory *ret) {
  pthread_join(m->thread, NULL); /* it has said that it is done */
  int r = m->result;
  *ret = m->memory;
  measure_free(m);
  return r;
}

void measure_drop(struct measure *m) {
  pthread_detach(m->thread);
  if (atomic_exchange(&m->state, ABANDONED) == DONE)
    measure_free(m);
}
