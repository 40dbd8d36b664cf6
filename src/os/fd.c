/* Descriptors: closing, duplicating above the standard streams, flags, and the two sweeps
 * over all that are open. Runs in every process, between fork and exec too: nothing here
 * allocates or takes a lock. What it does not do: remember owners; each descriptor has
 * one, elsewhere. */
#include "os/fd.h"

#include "os/sigpipe.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FD_FIRST = 3 };           /* the first number above the standard streams */
enum { FD_SWEEP_MAX = 1 << 20 }; /* where a sweep by numbers ends at the latest */

void fd_close(int *fd) {
  if (*fd < 0)
    return;
  int saved = errno;
  close(*fd);         /* after EINTR the number is free already (Linux): never again */
  if (errno != saved) /* else a template would copy the page with errno at each fork */
    errno = saved;
  *fd = -1;
}

int fd_dup(int fd) {
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, FD_FIRST);
  return copy < 0 ? -errno : copy;
}

int fd_raise(int fd) {
  if (fd < 0)
    return -EBADF;
  if (fd < FD_FIRST) {
    int copy = fd_dup(fd);
    fd_close(&fd);
    return copy;
  }
  int r = fd_set_cloexec(fd, 1);
  if (r < 0) {
    fd_close(&fd);
    return r;
  }
  return fd;
}

int fd_raise_made(int fd) {
  return fd < FD_FIRST ? fd_raise(fd) : fd;
}

/* Sets or clears one bit of what get reads and set writes. */
static int change_flag(int fd, int get, int set, int bit, int on) {
  int flags = fcntl(fd, get);
  if (flags < 0)
    return -errno;
  int wanted = on ? flags | bit : flags & ~bit;
  if (wanted == flags)
    return 0;
  return fcntl(fd, set, wanted) < 0 ? -errno : 0;
}

int fd_set_nonblocking(int fd, int on) {
  return change_flag(fd, F_GETFL, F_SETFL, O_NONBLOCK, on);
}

int fd_set_cloexec(int fd, int on) {
  return change_flag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, on);
}

int fd_is_nonblocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return flags < 0 ? -errno : (flags & O_NONBLOCK) != 0;
}

/* The read end of a pipe that nobody writes: end of file at once, writes are refused. */
static int open_dead_pipe(void) {
  int ends[2];
  if (pipe(ends) < 0)
    return -errno;
  fd_close(&ends[1]);
  return fd_raise(ends[0]);
}

#ifdef F_SETSIG
enum { LOOP_LABEL = SIGSYS }; /* which no program asks O_ASYNC for */

void fd_label_loop(int fd) {
  int saved = errno;
  fcntl(fd, F_SETSIG, LOOP_LABEL);
  errno = saved;
}

int fd_is_labelled_loop(int fd) {
  return fcntl(fd, F_GETSIG) == LOOP_LABEL;
}
#else
void fd_label_loop(int fd) {
  (void)fd;
}

int fd_is_labelled_loop(int fd) {
  (void)fd;
  return 0;
}
#endif

int fd_write_pipe(int fd, const void *bytes, size_t n) {
  struct sigpipe guard;
  ssize_t sent;
  sigpipe_block(&guard);
  do
    sent = write(fd, bytes, n);
  while (sent < 0 && errno == EINTR);
  int error = sent < 0 ? errno : 0;
  sigpipe_restore(&guard, error);
  return error == EAGAIN ? 0 : error ? -error : 1;
}

int fd_open_null(void) {
  int fd;
  do
    fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  while (fd < 0 && errno == EINTR);
  if (fd >= 0)
    return fd_raise(fd);
  if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
    return -errno;
  return open_dead_pipe();
}

int fd_check_free(int n) {
  int held[FD_CHECK_MAX], nheld = 0, r = 0;
  assert(n <= FD_CHECK_MAX);
  while (nheld < n) {
    r = fd_open_null();
    if (r < 0)
      break;
    held[nheld++] = r;
  }
  while (nheld > 0)
    fd_close(&held[--nheld]);
  return r < 0 ? r : 0;
}

/* ---- sweeps ---- */

#ifdef __linux__
struct dirent_raw { /* what getdents64(2) writes */
  uint64_t ino;
  int64_t off;
  unsigned short reclen;
  unsigned char type;
  char name[];
};

/* The number that a name of /proc/self/fd stands for, or -1 ("." and ".."). */
static int parse_number(const char *name) {
  int n = 0;
  if (!*name)
    return -1;
  for (; *name; name++) {
    if (*name < '0' || *name > '9' || n > (INT_MAX - 9) / 10)
      return -1;
    n = n * 10 + (*name - '0');
  }
  return n;
}

/* By the kernel's own list. It is read in order of numbers, so that visit may close. */
static int each_listed(int from, void (*visit)(int fd, void *data), void *data) {
  int dir = open("/proc/thread-self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) /* before Linux 3.17 */
    dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0)
    return -errno;
  _Alignas(struct dirent_raw) char block[2048];
  long n;
  while ((n = syscall(SYS_getdents64, dir, block, sizeof block)) > 0) {
    for (long at = 0; at < n;) {
      struct dirent_raw *entry = (struct dirent_raw *)(void *)(block + at);
      at += entry->reclen;
      int fd = parse_number(entry->name);
      if (fd >= from && fd != dir)
        visit(fd, data);
    }
  }
  int r = n < 0 ? -errno : 0;
  fd_close(&dir);
  return r;
}
#else
static int each_listed(int from, void (*visit)(int fd, void *data), void *data) {
  return -ENOSYS; /* /dev/fd of some systems shows the first three only */
}
#endif

static int sweep_end(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_max > FD_SWEEP_MAX)
    return FD_SWEEP_MAX;
  return (int)limit.rlim_max;
}

int fd_each(int from, void (*visit)(int fd, void *data), void *data) {
  if (from < 0)
    from = 0;
  if (each_listed(from, visit, data) == 0)
    return 0;
  for (int fd = from, end = sweep_end(); fd < end; fd++)
    if (fcntl(fd, F_GETFD) >= 0)
      visit(fd, data);
  return 0;
}

struct keep {
  const int *fds;
  size_t n;
};

static int is_kept(const struct keep *keep, int fd) {
  for (size_t i = 0; i < keep->n; i++)
    if (keep->fds[i] == fd)
      return 1;
  return 0;
}

/* The smallest kept number >= from, or -1. */
static int next_kept(const struct keep *keep, int from) {
  int best = -1;
  for (size_t i = 0; i < keep->n; i++)
    if (keep->fds[i] >= from && (best < 0 || keep->fds[i] < best))
      best = keep->fds[i];
  return best;
}

static int close_span(unsigned first, unsigned last) {
  if (first > last)
    return 0;
#ifdef SYS_close_range
  return syscall(SYS_close_range, first, last, 0) < 0 ? -errno : 0;
#else
  return -ENOSYS;
#endif
}

static int close_spans(int from, const struct keep *keep) {
  for (;;) {
    int kept = next_kept(keep, from);
    if (kept < 0)
      return close_span((unsigned)from, ~0u);
    int r = kept > from ? close_span((unsigned)from, (unsigned)kept - 1) : 0;
    if (r < 0)
      return r;
    if (kept == INT_MAX)
      return 0;
    from = kept + 1;
  }
}

static void close_unless_kept(int fd, void *data) {
  if (!is_kept(data, fd))
    fd_close(&fd);
}

void fd_close_from(int from, const int *keep, size_t nkeep) {
  struct keep kept = {keep, nkeep};
  int saved = errno;
  if (from < 0)
    from = 0;
  if (close_spans(from, &kept) < 0)
    fd_each(from, close_unless_kept, &kept);
  errno = saved;
}

/* ---- sets ---- */

void fdset_init(struct fdset *s) {
  s->n = 0;
}

int fdset_push(struct fdset *s, int fd) {
  if (s->n >= FDSET_MAX) {
    fd_close(&fd);
    return -E2BIG;
  }
  s->fd[s->n++] = fd;
  return 0;
}

int fdset_steal(struct fdset *s, int i) {
  int fd = s->fd[i];
  s->fd[i] = -1;
  return fd;
}

void fdset_close(struct fdset *s) {
  for (int i = 0; i < s->n; i++)
    fd_close(&s->fd[i]);
  s->n = 0;
}
