/* One kernel call at a time, for descriptors of every kind (sys.h). Runs in every
 * process.
 *
 * Somebody else who has the same description may be faster between a poll and the call
 * that follows it, which would block then. Where the kernel can it is told not to wait
 * (RWF_NOWAIT: pipes do, terminals don't).
 *
 * A pipe that says POLLOUT takes PIPE_BUF bytes at once; more may block where its
 * description is blocking. So larger writes go in such steps unless the description is
 * non-blocking or the caller may sleep. */
#include "socket/sys.h"

#include "base/at_birth.h"
#include "os/fdwait.h"
#include "os/interrupt.h"
#include "os/proc.h"
#include "os/sigpipe.h"
#include "os/sock.h"
#include "os/term.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WRITE_STEP = PIPE_BUF, WAIT_SLICE_S = 1000 };

static char has_written AT_BIRTH = 0; /* threads that have set it set it again */

static void note_written(ssize_t r) {
  if (r > 0)
    __atomic_store_n(&has_written, 1, __ATOMIC_RELAXED);
}

int sys_has_written(void) {
  return __atomic_load_n(&has_written, __ATOMIC_RELAXED);
}

double sys_now(void) {
  return (double)proc_now_ns() / 1e9;
}

enum sys_type sys_type_of(int fd) {
  struct stat st;
  if (fstat(fd, &st) != 0)
    return SYS_STREAM;
  if (S_ISSOCK(st.st_mode))
    return SYS_SOCKET;
  return S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) || S_ISBLK(st.st_mode) ? SYS_FILE
                                                                           : SYS_STREAM;
}

int sys_is_unix(int fd) {
  struct sockaddr_storage a = {.ss_family = AF_UNSPEC};
  socklen_t n = sizeof a;
  return getsockname(fd, (struct sockaddr *)&a, &n) == 0 && a.ss_family == AF_UNIX;
}

int sys_is_datagram(int fd) {
  int type = 0;
  socklen_t n = sizeof type;
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == SOCK_DGRAM;
}

ssize_t sys_next_message(int fd) {
  char byte;
  ssize_t n = recv(fd, &byte, sizeof byte, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
  return n < 0 ? -errno : n;
}

/* 1 when a poll says that the call has something to do (errors and ends count). */
static int ready_now(int fd, short events) {
  struct pollfd p = {.fd = fd, .events = events};
  int r;
  do
    r = fdwait(&p, 1, 0);
  while (r < 0 && errno == EINTR);
  return r != 0;
}

#ifdef RWF_NOWAIT
static int is_unknown_flag(int error) {
  return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL;
}
#endif

static ssize_t read_some(int fd, void *data, size_t n, int now) {
#ifdef RWF_NOWAIT
  struct iovec iov = {data, n};
  ssize_t r = now ? preadv2(fd, &iov, 1, -1, RWF_NOWAIT) : -1;
  if (now && (r >= 0 || !is_unknown_flag(errno)))
    return r;
#endif
  return read(fd, data, n);
}

static ssize_t write_some(int fd, const struct iovec *iov, int niov, int now) {
#ifdef RWF_NOWAIT
  ssize_t r = now ? pwritev2(fd, iov, niov, -1, RWF_NOWAIT) : -1;
  if (now && (r >= 0 || !is_unknown_flag(errno)))
    return r;
#endif
  return writev(fd, iov, niov);
}

static ssize_t read_stream(int fd, enum sys_type type, void *data, size_t n, int block) {
  int now = type == SYS_STREAM && !block;
  if (now && !ready_now(fd, POLLIN))
    return -EAGAIN;
  for (;;) {
    ssize_t r = read_some(fd, data, n, now);
    if (r >= 0)
      return r;
    if (errno != EINTR)
      return -errno;
    interrupt_seen();
  }
}

ssize_t sys_read(int fd, enum sys_type type, void *data, size_t n, int block,
                 struct fdset *fds, int *ret_truncated) {
  *ret_truncated = 0;
  if (type != SYS_SOCKET)
    return read_stream(fd, type, data, n, block);
  if (fds)
    return sock_recv(fd, data, n, block, fds, ret_truncated);
  for (;;) {
    ssize_t r = recv(fd, data, n, block ? 0 : MSG_DONTWAIT);
    if (r >= 0)
      return r;
    if (errno != EINTR)
      return -errno;
    interrupt_seen();
  }
}

/* write(2) with SIGPIPE kept away from the host. */
static ssize_t write_quietly(int fd, const struct iovec *iov, int niov, int now) {
  struct sigpipe guard;
  ssize_t r;
  sigpipe_block(&guard);
  while ((r = write_some(fd, iov, niov, now)) < 0 && errno == EINTR)
    interrupt_seen();
  int error = r < 0 ? errno : 0;
  sigpipe_restore(&guard, error);
  return r < 0 ? -error : r;
}

static ssize_t write_stream(int fd, const struct iovec *iov, int niov, int block) {
  if (block || fd_is_nonblocking(fd) == 1)
    return write_quietly(fd, iov, niov, 0);
  if (!ready_now(fd, POLLOUT))
    return -EAGAIN;
  struct iovec first = iov[0];
  for (int i = 1; first.iov_len == 0 && i < niov; i++)
    first = iov[i];
  if (first.iov_len > WRITE_STEP)
    first.iov_len = WRITE_STEP;
  return write_quietly(fd, &first, 1, 1);
}

/* ---- what goes first ---- */

enum { IOV_WITH_FIRST = 9 };

static _Thread_local struct {
  int fd;
  size_t n; /* 0: nothing does */
  unsigned char bytes[SYS_FIRST_MAX];
  void (*need)(void); /* NULL: it was called, or there is none */
  void (*then)(int error);
} first;

void sys_write_first(int fd, const void *bytes, size_t n, void (*then)(int error)) {
  assert(n <= sizeof first.bytes);
  memcpy(first.bytes, bytes, n);
  first.fd = fd;
  first.n = n;
  first.need = NULL;
  first.then = then;
}

void sys_before_first(void (*need)(void)) {
  first.need = need;
}

static void need_socket(void) {
  void (*need)(void) = first.need;
  first.need = NULL;
  if (first.n && need)
    need();
}

int sys_has_first(void) {
  return first.n > 0;
}

void sys_drop_first(void) {
  first.n = 0;
}

static void end_first(int error) {
  first.n = 0;
  first.then(error);
}

static void wait_for_room(ssize_t r) {
  struct pollfd p = {.fd = first.fd, .events = POLLOUT};
  if (r == 0)
    (void)fdwait(&p, 1, -1);
  else
    poll(NULL, 0, SOCK_PAUSE_MS);
}

void sys_flush_first(void) {
  size_t done = 0;
  ssize_t r = 1;
  need_socket();
  while (first.n > done && (r >= 0 || r == -ENOBUFS)) {
    struct iovec iov = {first.bytes + done, first.n - done};
    r = sock_send(first.fd, &iov, 1, NULL, 0);
    if (r > 0)
      done += (size_t)r;
    else if (r == 0 || r == -ENOBUFS)
      wait_for_room(r);
  }
  if (first.n)
    end_first(r < 0 && done < first.n ? (int)r : 0);
}

/* Both in one call. As sock_send; -EAGAIN: the bytes have gone alone, now for the rest.
 */
static ssize_t send_with_first(int fd, const struct iovec *iov, int niov) {
  struct iovec all[IOV_WITH_FIRST] = {{first.bytes, first.n}};
  memcpy(all + 1, iov, (size_t)niov * sizeof *iov);
  need_socket();
  ssize_t r = sock_send(fd, all, niov + 1, NULL, 0);
  if (r < (ssize_t)first.n) {
    if (r > 0) {
      first.n -= (size_t)r;
      memmove(first.bytes, first.bytes + r, first.n);
    }
    sys_flush_first();
    return -EAGAIN;
  }
  r -= (ssize_t)first.n;
  end_first(0);
  note_written(r);
  return r ? r : -EAGAIN;
}

static ssize_t write_beside_first(int fd, const struct iovec *iov, int niov,
                                  int pass_fd) {
  if (fd == first.fd && pass_fd < 0 && niov < IOV_WITH_FIRST)
    return send_with_first(fd, iov, niov);
  sys_flush_first();
  return -EAGAIN;
}

ssize_t sys_write(int fd, enum sys_type type, const struct iovec *iov, int niov,
                  int block, int pass_fd) {
  if (first.n) {
    ssize_t r = write_beside_first(fd, iov, niov, pass_fd);
    if (r != -EAGAIN)
      return r;
  }
  if (type == SYS_SOCKET) {
    ssize_t r = sock_send(fd, iov, niov, &pass_fd, pass_fd >= 0);
    note_written(r);
    if (r == -ENOBUFS)
      poll(NULL, 0,
           SOCK_PAUSE_MS); /* the socket is writable, and whoever waits would spin */
    return r == 0 || r == -ENOBUFS ? -EAGAIN : r;
  }
  if (pass_fd >= 0)
    return -ENOTSOCK;
  return type == SYS_FILE ? write_quietly(fd, iov, niov, 0)
                          : write_stream(fd, iov, niov, block);
}

/* What accept(2) may answer because of a connection that is gone again. */
static int is_about_the_peer(int error) {
  return error == EINTR || error == ECONNABORTED || error == EPROTO ||
         error == ENETDOWN || error == ENETUNREACH || error == EHOSTDOWN ||
         error == EHOSTUNREACH;
}

/* A Unix listener that was shut down: accept(2) without blocking says EAGAIN for ever,
 * and poll(2) that it is ready. */
static int is_shut_down(int fd) {
#ifdef POLLRDHUP
  struct pollfd p = {.fd = fd, .events = POLLRDHUP};
  return fdwait(&p, 1, 0) > 0 && (p.revents & POLLRDHUP) != 0;
#else
  (void)fd;
  return 0;
#endif
}

int sys_accept(int fd, int ask, int nonblocking) {
  for (;;) {
    if (ask && !ready_now(fd, POLLIN))
      return -EAGAIN;
    int flags = SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0);
    int c =
        ask && term_watched() ? term_accept(fd, flags) : accept4(fd, NULL, NULL, flags);
    if (c >= 0)
      return c > 2 ? c : fd_raise(c);
    if (errno == EAGAIN)
      return is_shut_down(fd) ? -EINVAL : -EAGAIN;
    if (errno == EINTR)
      interrupt_seen();
    if (errno == EINTR && term_noted())
      return -EAGAIN; /* whoever waits next sees why */
    if (!is_about_the_peer(errno))
      return -errno;
  }
}

int sys_sleep(struct pollfd *p, int n, double timeout, const sigset_t *mask) {
  double left = timeout < WAIT_SLICE_S ? timeout : WAIT_SLICE_S;
  struct timespec t = {.tv_sec = (time_t)left};
  t.tv_nsec = (long)((left - (double)t.tv_sec) * 1e9);
  int r = fdwait_masked(p, n, timeout < 0 ? NULL : &t, mask);
  return r < 0 ? -errno : r;
}
