/* See trace_file.h. */
#include "parent/trace/trace_file.h"

#include "os/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#define CLOSING "]\n"
enum { NCLOSING = sizeof CLOSING - 1, NSEPARATOR = 2 /* ",\n" */ };

/* ---- writing ---- */

/* A write past that limit is a signal (SIGXFSZ), which ends the program. */
static int exceeds_limit(off_t end) {
  struct rlimit r;
  return getrlimit(RLIMIT_FSIZE, &r) == 0 && r.rlim_cur != RLIM_INFINITY &&
         (rlim_t)end > r.rlim_cur;
}

static int write_at(const struct trace_file *f, const char *data, size_t n, off_t at) {
  if (exceeds_limit(at + (off_t)n))
    return -EFBIG;
  while (n) {
    ssize_t got = pwrite(f->fd, data, n, at);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      return got < 0 ? -errno : -EIO;
    data += got;
    n -= (size_t)got;
    at += got;
  }
  return 0;
}

/* Blanks in lines, for whoever opens the file in an editor. */
static void fill(char *data, size_t n) {
  memset(data, ' ', n);
  for (size_t i = 63; i < n; i += 64)
    data[i] = '\n';
}

/* Blanks from `from` to `to`, which begins a page. 0 or -errno. */
static int write_blanks(const struct trace_file *f, off_t from, off_t to) {
  char page[TRACE_PAGE];
  int r = 0;
  fill(page, sizeof page);
  while (!r && from < to) {
    size_t n = TRACE_PAGE - (size_t)(from % TRACE_PAGE);
    r = write_at(f, page + TRACE_PAGE - n, n, from);
    from += (off_t)n;
  }
  return r;
}

/* More blanks. On failure all is as it was. */
static int grow(struct trace_file *f) {
  off_t behind = f->end + NCLOSING;
  off_t size = (f->end / TRACE_PAGE) * TRACE_PAGE + TRACE_PAGE + TRACE_GROWTH;
  off_t end = size - NCLOSING;
  int r = exceeds_limit(size) ? -EFBIG : write_blanks(f, behind, size);
  if (!r)
    r = write_at(f, " ", 1, f->end);
  if (!r) {
    r = write_at(f, CLOSING, NCLOSING, end);
    if (r < 0)
      write_at(f, "]", 1, f->end);
  }
  if (r < 0) {
    if (ftruncate(f->fd, behind) < 0)
      return r; /* blanks behind the bracket are no harm */
    return r;
  }
  f->end = end;
  return 0;
}

int trace_file_flush(struct trace_file *f) {
  int r;
  if (!f->n)
    return 0;
  r = write_at(f, f->buffer, f->n, f->at);
  if (r < 0)
    return r;
  f->at += (off_t)f->n;
  f->n = 0;
  return 0;
}

/* ---- objects ---- */

/* Bytes that are left out before an object of n bytes, so that it lies in one page. */
static size_t gap_before(const struct trace_file *f, size_t n) {
  size_t in_page = (size_t)(f->at + (off_t)f->n) % TRACE_PAGE;
  return in_page + n > TRACE_PAGE ? TRACE_PAGE - in_page : 0;
}

int trace_file_put(struct trace_file *f, const char *object, size_t n) {
  size_t separator = f->empty ? 0 : NSEPARATOR, all = n + separator, gap;
  int r = 0;
  if (n > TRACE_OBJECT_MAX)
    return -EMSGSIZE;
  gap = gap_before(f, all);
  if (f->n + gap + all > sizeof f->buffer) {
    r = trace_file_flush(f);
    gap = gap_before(f, all);
  }
  while (!r && f->at + (off_t)(f->n + gap + all) > f->end)
    r = grow(f);
  if (r < 0)
    return r;
  memset(f->buffer + f->n, ' ', gap);
  f->n += gap;
  memcpy(f->buffer + f->n, ",\n", separator);
  memcpy(f->buffer + f->n + separator, object, n);
  f->n += all;
  f->empty = 0;
  return 0;
}

/* ---- life ---- */

/* A FIFO must not make us wait. */
enum { FLAGS = O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK };

static int open_file(const char *path, int more) {
  int fd;
  do
    fd = open(path, FLAGS | more, 0666);
  while (fd < 0 && errno == EINTR);
  if (fd < 0)
    return errno == ENXIO || errno == EISDIR ? -EINVAL : -errno;
  return fd_raise(fd);
}

/* Another program's trace is left alone. */
static int lock(int fd) {
  int refused = flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
  return refused ? -EWOULDBLOCK : 0; /* other failures: a file system without locks */
}

/* f->fd is a file of ours from now on, with an empty array. */
static int begin(struct trace_file *f) {
  struct stat st;
  int r;
  if (fstat(f->fd, &st) < 0)
    return -errno;
  if (!S_ISREG(st.st_mode))
    return -EINVAL;
  r = lock(f->fd);
  if (r < 0)
    return r;
  r = write_at(f, "[\n" CLOSING, 2 + NCLOSING, 0);
  if (!r && st.st_size && ftruncate(f->fd, 2 + NCLOSING) < 0)
    r = -errno;
  return r;
}

static int open_at(struct trace_file *f, const char *path, int more) {
  int r;
  f->fd = open_file(path, more);
  if (f->fd < 0)
    return f->fd;
  r = begin(f);
  if (r < 0)
    trace_file_abandon(f);
  return r;
}

/* A file that was not there appears with its array in it: it is never empty. */
static int make_new(struct trace_file *f, const char *path) {
  char *name;
  int r;
  if (asprintf(&name, "%s.%d~", path, (int)getpid()) < 0)
    return -ENOMEM;
  f->fd = open_file(name, O_CREAT | O_EXCL);
  r = f->fd < 0 ? f->fd : begin(f);
  if (!r && link(name, path) < 0)
    r = -errno;
  if (f->fd >= 0)
    unlink(name);
  if (r < 0)
    trace_file_abandon(f);
  free(name);
  return r;
}

int trace_file_open(struct trace_file *f, const char *path) {
  int r;
  f->n = 0;
  f->empty = 1;
  f->at = f->end = 2;
  r = open_at(f, path, 0);
  if (r == -ENOENT)
    r = make_new(f, path);
  /* It is there by now; there are no links; the longer name is too long. */
  if (r == -EEXIST || r == -EPERM || r == -ENOTSUP || r == -ENAMETOOLONG)
    r = open_at(f, path, O_CREAT);
  return r;
}

int trace_file_close(struct trace_file *f) {
  int r = trace_file_flush(f);
  if (!r && ftruncate(f->fd, f->at) < 0)
    r = -errno;
  if (!r)
    r = write_at(f, "\n" CLOSING, 1 + NCLOSING, f->at);
  trace_file_abandon(f);
  return r;
}

void trace_file_abandon(struct trace_file *f) {
  fd_close(&f->fd);
  f->n = 0;
}
