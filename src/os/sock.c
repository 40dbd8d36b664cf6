/* UNIX stream sockets that carry descriptors: one call each. Runs in every process. What
 * is sent is decided by the outbox, what is received is sorted by the inbox; here are
 * only the kernel's habits:
 *
 *  - a short write has sent the descriptors already, a write of nothing would lose them;
 *  - a receive that has no room for descriptors, in the buffer or in the table of open
 *    files, drops them and says so by MSG_CTRUNC;
 *  - one receive never joins the bytes of two messages that both carried descriptors.
 */
#include "os/sock.h"

#include "os/fdwait.h"
#include "os/interrupt.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#if defined(__linux__) && !defined(__GLIBC__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Absent on some UNIXes; there fd_raise and SO_NOSIGPIPE do the work, a moment later. */
#if defined(SOCK_CLOEXEC) && defined(MSG_CMSG_CLOEXEC)
#define raise_made fd_raise_made
#else
#undef SOCK_CLOEXEC
#undef MSG_CMSG_CLOEXEC
#define SOCK_CLOEXEC 0
#define MSG_CMSG_CLOEXEC 0
#define raise_made fd_raise
#endif
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif
#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif

union control { /* aligned as the kernel wants it */
  struct cmsghdr header;
  char bytes[CMSG_SPACE(FDSET_MAX * sizeof(int))];
};

static int prepare_end(int *fd) {
  int raised = raise_made(*fd);
  *fd = -1;
  if (raised < 0)
    return raised;
  *fd = raised;
#ifdef SO_NOSIGPIPE
  int on = 1;
  setsockopt(raised, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
  return 0;
}

int sock_pair(int ret_fd[2], int nonblocking) {
  int ends[2], on = 1;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
    return -errno;
  int r = prepare_end(&ends[0]);
  if (r == 0)
    r = prepare_end(&ends[1]);
  if (r == 0 && nonblocking)
    r = ioctl(ends[0], FIONBIO, &on) < 0 ? -errno
                                         : 0; /* its flags are known: in one call */
  if (r < 0) {
    fd_close(&ends[0]);
    fd_close(&ends[1]);
    return r;
  }
  ret_fd[0] = ends[0];
  ret_fd[1] = ends[1];
  return 0;
}

/* Padding between header and end is zeroed: memory checkers and nosy peers read it. */
static void attach_fds(struct msghdr *m, union control *control, const int *fds,
                       int nfds) {
  size_t size = (size_t)nfds * sizeof *fds;
  memset(control, 0, CMSG_SPACE(size));
  m->msg_control = control->bytes;
  m->msg_controllen = CMSG_SPACE(size);
  struct cmsghdr *c = CMSG_FIRSTHDR(m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(size);
  memcpy(CMSG_DATA(c), fds, size);
}

/* Used by asserts only. */
__attribute__((unused)) static int has_bytes(const struct iovec *iov, int niov) {
  for (int i = 0; i < niov; i++)
    if (iov[i].iov_len > 0)
      return 1;
  return 0;
}

/* musl before 1.2.4 copies the message into room for 252 descriptors, and says ENOMEM of
 * more. What it copies for is padding that must be zero for the kernel, and is here. */
static ssize_t send_message(int fd, const struct msghdr *m, int flags) {
  ssize_t n = sendmsg(fd, m, flags);
#ifdef SYS_sendmsg
  if (n < 0 && errno == ENOMEM)
    n = syscall(SYS_sendmsg, fd, m, flags);
#endif
  return n;
}

ssize_t sock_send(int fd, const struct iovec *iov, int niov, const int *fds, int nfds) {
  assert(has_bytes(iov, niov));
  assert(nfds >= 0 && nfds <= FDSET_MAX);
  union control control;
  struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov,
                     .msg_iovlen = (size_t)niov};
  if (nfds > 0)
    attach_fds(&m, &control, fds, nfds);
  ssize_t n;
  do
    n = send_message(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  if (n >= 0)
    return n;
  return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
}

/* Moves the descriptors of one control message into fds. Returns 1 when one was lost. */
static int collect_fds(const struct cmsghdr *c, struct fdset *fds) {
  size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  int lost = 0;
  for (size_t i = 0; i < n; i++) {
    int fd;
    memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
    fd = raise_made(fd);
    if (fd < 0 || fdset_push(fds, fd) < 0)
      lost = 1;
  }
  return lost;
}

ssize_t sock_recv(int fd, void *data, size_t n, int blocking, struct fdset *fds,
                  int *ret_truncated) {
  struct iovec iov = {data, n};
  return sock_recv_iov(fd, &iov, 1, blocking, fds, ret_truncated);
}

ssize_t sock_recv_iov(int fd, const struct iovec *iov, int niov, int blocking,
                      struct fdset *fds, int *ret_truncated) {
  assert(has_bytes(iov, niov));
  union control control;
  struct msghdr m;
  ssize_t got;
  do {
    m = (struct msghdr){.msg_iov = (struct iovec *)(uintptr_t)iov,
                        .msg_iovlen = (size_t)niov,
                        .msg_control = fds ? control.bytes : NULL,
                        .msg_controllen = fds ? sizeof control.bytes : 0};
    got = recvmsg(fd, &m, MSG_CMSG_CLOEXEC | (blocking ? 0 : MSG_DONTWAIT));
    if (got < 0 && errno == EINTR)
      interrupt_seen();
  } while (got < 0 && errno == EINTR);
  if (got < 0)
    return errno == EWOULDBLOCK ? -EAGAIN : -errno;
  if (!fds)
    return got;
  int truncated = (m.msg_flags & MSG_CTRUNC) != 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
      truncated |= collect_fds(c, fds);
  *ret_truncated = truncated;
  return got;
}

/* recv and not read: it does not block either where the description lost its flag. */
ssize_t sock_read(int fd, void *data, size_t n) {
  assert(n > 0);
  ssize_t got;
  do
    got = recv(fd, data, n, MSG_DONTWAIT);
  while (got < 0 && errno == EINTR);
  if (got >= 0)
    return got;
  return errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

/* ---- who writes, and what is not accepted ---- */

#ifdef __linux__
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* Linux 6.16 */
#endif
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76 /* Linux 6.5 */
#endif
#ifndef SCM_PIDFD
#define SCM_PIDFD 0x04
#endif

int sock_refuse_fds(int fd, int on) {
  int pass = !on;
  return setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &pass, sizeof pass) < 0 ? -ENOSYS : 0;
}

int sock_name_writers(int fd, int on) {
  if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
    return -ENOSYS;
  setsockopt(fd, SOL_SOCKET, SO_PASSPIDFD, &on,
             sizeof on); /* an old kernel: the number */
  return 0;
}

static void take_pidfd(const struct cmsghdr *c, struct sock_writer *ret) {
  int fd;
  memcpy(&fd, CMSG_DATA(c), sizeof fd);
  fd_close(&ret->pidfd);
  if (fd >= 0 && (fd = fd_raise_made(fd)) >= 0)
    ret->pidfd = fd;
}

ssize_t sock_read_from(int fd, void *data, size_t n, struct fdset *fds,
                       struct sock_writer *ret_writer) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int)) +
               CMSG_SPACE(FDSET_MAX * sizeof(int))];
  } room;
  struct iovec iov = {data, n};
  struct ucred who;
  struct msghdr m;
  ssize_t got;
  assert(n > 0);
  *ret_writer = (struct sock_writer){0, -1};
  do {
    m = (struct msghdr){.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = room.bytes,
                        .msg_controllen = sizeof room.bytes};
    got = recvmsg(fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got < 0)
    return errno == EWOULDBLOCK ? -EAGAIN : -errno;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_level != SOL_SOCKET)
      continue;
    if (c->cmsg_type == SCM_CREDENTIALS) {
      memcpy(&who, CMSG_DATA(c), sizeof who);
      ret_writer->pid = who.pid;
    } else if (c->cmsg_type == SCM_PIDFD) {
      take_pidfd(c, ret_writer);
    } else if (c->cmsg_type == SCM_RIGHTS) {
      collect_fds(c, fds);
    }
  }
  return got;
}
#else
int sock_refuse_fds(int fd, int on) {
  return -ENOSYS;
}

int sock_name_writers(int fd, int on) {
  return -ENOSYS;
}

ssize_t sock_read_from(int fd, void *data, size_t n, struct fdset *fds,
                       struct sock_writer *ret_writer) {
  int truncated;
  *ret_writer = (struct sock_writer){0, -1};
  return sock_recv(fd, data, n, 0, fds, &truncated);
}
#endif

/* Linux doubles what it is given, for its own bookkeeping, and tells the double. */
void sock_widen(int fd, int n) {
  int now;
  socklen_t size = sizeof now;
  if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &now, &size) == 0 && now < n)
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &n, sizeof n);
}

int sock_hung_up(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLRDHUP};
  int r;
  do
    r = fdwait(&p, 1, 0);
  while (r < 0 && errno == EINTR);
  return r > 0 && (p.revents & (POLLHUP | POLLRDHUP)) != 0;
}

int sock_is_nameless(int fd) {
  struct sockaddr_un name = {0};
  socklen_t size = sizeof name;
  if (getsockname(fd, (struct sockaddr *)&name, &size) < 0)
    return 0;
  return name.sun_family == AF_UNIX && !name.sun_path[0];
}

int sock_stream_kind(int fd) {
  struct stat st;
  struct sockaddr_storage peer;
  socklen_t n = sizeof peer;
  int type = 0;
  socklen_t size = sizeof type;
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0) /* it is a socket */
    return type == SOCK_STREAM && getpeername(fd, (struct sockaddr *)&peer, &n) == 0;
  if (fstat(fd, &st) < 0)
    return -errno;
  int mode = S_ISFIFO(st.st_mode) ? fcntl(fd, F_GETFL) : -1;
  if (mode < 0)
    return 0;
  mode &= O_ACCMODE;
  return mode == O_RDONLY ? SOCK_PIPE_READ : mode == O_WRONLY ? SOCK_PIPE_WRITE : 0;
}

int fd_same(int a, int b) {
  struct stat sa, sb;
  if (fstat(a, &sa) < 0 || fstat(b, &sb) < 0)
    return 0;
  return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

/* A number that no program sets by chance, kept where nothing comes of it: the other end
 * of such a socket is closed. */
enum { MISSING = 0x4d464e46 };

int sock_mark_missing(int fd) {
  int mark = MISSING;
  return setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark) < 0 ? -errno : 0;
}

int sock_is_missing(int fd) {
  int mark = 0;
  socklen_t size = sizeof mark;
  return getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &mark, &size) == 0 && mark == MISSING;
}

uint64_t sock_cookie(int fd) {
  uint64_t cookie = 0;
#ifdef SO_COOKIE
  socklen_t size = sizeof cookie;
  if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) < 0)
    return 0;
#endif
  return cookie;
}
