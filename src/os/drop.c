/* A queue and a thread that lives as long as there is something in it (drop.h). Where no
 * thread can be had the caller closes, after SO_LINGER is taken off, which only a process
 * that sets it again at the same moment defeats. Runs in every process; has threads in
 * parents only.
 *
 * What is queued is bounded by the table of open files; each message that is refused ends
 * its sender's connection. */
#include "os/drop.h"

#include "os/proc.h"
#include "os/thread.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STACK_SIZE = 64 * 1024, QUEUE_FIRST = 64 };

static struct {
  pthread_mutex_t lock;
  pid_t owner; /* who has a thread for it; 0: nobody */
  int *fds;
  size_t n, cap;
  int running;
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Of all threads: a loop may begin on one and end on another. */
static atomic_int nsent; /* messages with sockets that are under way */
static struct {
  pthread_mutex_t lock;
  int fds[DROP_TOGETHER];
  atomic_int n;
  int below; /* a number from here on is closed at once: half of what there may be */
} ended = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void forget_linger(int fd) {
  static const struct linger off;
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
}

/* 0: the queue is empty, and the thread ends. */
static int take(int *ret_fd) {
  pthread_mutex_lock(&queue.lock);
  int some = queue.n > 0;
  if (some)
    *ret_fd = queue.fds[--queue.n];
  else
    queue.running = 0;
  pthread_mutex_unlock(&queue.lock);
  return some;
}

static void *close_all(void *arg) {
  int fd;
  while (take(&fd)) {
    forget_linger(fd); /* so that others don't wait behind it */
    fd_close(&fd);
  }
  return NULL;
}

static int grow(void) {
  size_t cap = queue.cap ? queue.cap * 2 : QUEUE_FIRST;
  int *fds = realloc(queue.fds, cap * sizeof *fds);
  if (!fds)
    return -ENOMEM;
  queue.fds = fds;
  queue.cap = cap;
  return 0;
}

static int start(void) {
  pthread_t thread;
  int r = thread_start(&thread, STACK_SIZE, close_all, NULL);
  if (r < 0)
    return r;
  pthread_detach(thread);
  queue.running = 1;
  return 0;
}

static int hand_over(int fd) {
  int r = 0;
  pthread_mutex_lock(&queue.lock);
  if (queue.n == queue.cap)
    r = grow();
  if (r == 0 && !queue.running)
    r = start();
  if (r == 0)
    queue.fds[queue.n++] = fd;
  pthread_mutex_unlock(&queue.lock);
  return r;
}

/* A copy has nobody's thread, a lock that may be held for ever, and its own descriptors
 * of what was queued, as of everything that a fork copies. */
static int is_ours(void) {
  return queue.owner != 0 && queue.owner == getpid();
}

void drop_aside(void) {
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  if (is_ours())
    return;
  if (queue.owner != 0) { /* another's */
    queue.lock = fresh;
    queue.n = 0;
    queue.running = 0;
    ended.lock = fresh;
    ended.n = nsent = 0;
  }
  queue.owner = getpid();
}

void fd_drop(int *fd) {
  int saved = errno;
  if (*fd < 0)
    return;
  if (is_ours() && hand_over(*fd) == 0) {
    *fd = -1;
  } else {
    if (is_ours())
      forget_linger(*fd);
    fd_close(fd);
  }
  errno = saved;
}

void fdset_drop(struct fdset *s) {
  for (int i = 0; i < s->n; i++)
    fd_drop(&s->fd[i]);
  s->n = 0;
}

static int is_unix(int fd) {
  struct sockaddr_storage name = {.ss_family = AF_UNSPEC};
  socklen_t size = sizeof name;
  return getsockname(fd, (struct sockaddr *)&name, &size) == 0 &&
         name.ss_family == AF_UNIX;
}

/* Whether descriptors wait in a socket, by the number that Linux shows; where it does
 * not, whether anything waits must do. */
static int holds_fds(int fd) {
  char path[40], text[512];
  int unread = 0;
  if (ioctl(fd, FIONREAD, &unread) < 0 || unread == 0)
    return 0;
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  int info = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = info < 0 ? -1 : read(info, text, sizeof text - 1);
  fd_close(&info);
  text[n > 0 ? n : 0] = 0;
  const char *line = strstr(text, "scm_fds:");
  return !line || atoi(line + strlen("scm_fds:")) > 0;
}

/* Only what the kernel says without asking anybody else. */
static int may_take_long(int fd) {
  struct linger l;
  socklen_t size = sizeof l;
  if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &size) == 0)
    return (l.l_onoff && l.l_linger > 0) || (is_unix(fd) && holds_fds(fd));
  return errno == ENOTSOCK && isatty(fd);
}

static int close_now(int fd) {
  return close(fd) == 0 || errno == EINTR ? 0 : -errno; /* EINTR: it is closed (Linux) */
}

/* A UNIX socket does not linger. */
int fd_part_unix(int fd) {
  if (fd >= 0 && is_ours() && holds_fds(fd)) {
    fd_drop(&fd);
    return 0;
  }
  return close_now(fd);
}

/* ---- those that are closed together ---- */

enum { NOFILE_ENOUGH = 256 };

/* Whether this thread has a table of descriptors of its own: numbers mean others there. */
static int is_apart(void) {
  static _Thread_local int known, apart;
  if (!known)
    apart = proc_has_own_fds();
  known = 1;
  return apart;
}

static void close_ended(void) {
  int fds[DROP_TOGETHER];
  pthread_mutex_lock(&ended.lock);
  int n = ended.n;
  memcpy(fds, ended.fds, sizeof fds);
  ended.n = 0;
  pthread_mutex_unlock(&ended.lock);
  while (n > 0)
    close_now(fds[--n]);
}

/* What a thread apart has under way holds up nobody: it could not close for others. */
void drop_count_sent(int delta) {
  int saved = errno;
  if (is_apart())
    return;
  int left = atomic_fetch_add(&nsent, delta) + delta;
  if (left <= 0 && ended.n > 0 && is_ours())
    close_ended();
  errno = saved;
}

/* Called with the lock. */
static int has_room_for(int fd) {
  struct rlimit r;
  if (ended.n == 0) {
    ended.below = 0;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur >= NOFILE_ENOUGH)
      ended.below = r.rlim_cur / 2 < INT_MAX ? (int)(r.rlim_cur / 2) : INT_MAX;
  }
  return fd < ended.below;
}

static int is_hung_up(int fd) {
  struct pollfd p = {.fd = fd};
  return poll(&p, 1, 0) == 1 && (p.revents & POLLHUP);
}

/* 0: it is to be closed at once. */
static int put_off(int fd) {
  pthread_mutex_lock(&ended.lock);
  int is_put = ended.n < DROP_TOGETHER && has_room_for(fd);
  if (is_put) {
    ended.fds[ended.n] = fd;
    ended.n++;
  }
  pthread_mutex_unlock(&ended.lock);
  return is_put;
}

int fd_part_ended(int fd) {
  if (nsent <= 0 || !is_ours() || is_apart() || !is_hung_up(fd) || !put_off(fd))
    return fd_part_unix(fd);
  if (ended.n == DROP_TOGETHER || nsent <= 0)
    close_ended();
  return 0;
}

void drop_forked(void) {
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  if (is_ours())
    return;
  ended.lock = fresh; /* another thread may have held it */
  for (int i = 0; i < ended.n; i++)
    if (is_hung_up(
            ended.fds[i])) /* else the copy has closed it, and has the number again */
      close_now(ended.fds[i]);
  ended.n = nsent = 0;
}

int fd_part(int fd) {
  if (fd >= 0 && is_ours() && may_take_long(fd)) {
    fd_drop(&fd);
    return 0;
  }
  return close_now(fd);
}
