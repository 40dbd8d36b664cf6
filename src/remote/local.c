#include "remote/local.h"

#include "os/sock.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* A description of our own of the same pipe or terminal, which does not block. -errno. */
static int reopen(int fd) {
  char path[40];
  int mode = fcntl(fd, F_GETFL);
  if (mode < 0)
    return -errno;
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  int own = open(path, (mode & O_ACCMODE) | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
  return own < 0 ? -errno : fd_raise_made(own);
}

int local_open(struct local *l, int fd) {
  struct stat st;
  *l = (struct local){.fd = fd};
  if (fstat(fd, &st) < 0) {
    int r = -errno;
    local_close(l);
    return r;
  }
  l->is_socket = S_ISSOCK(st.st_mode) != 0;
  l->is_pipe = S_ISFIFO(st.st_mode) != 0;
  if (l->is_socket || S_ISREG(st.st_mode) || fd_is_nonblocking(fd) == 1)
    return 0;
  int own = reopen(fd);
  if (own < 0) { /* no /proc, or somebody else's pipe */
    l->careful = 1;
    return 0;
  }
  local_close(l);
  l->fd = own;
  return 0;
}

void local_close(struct local *l) {
  fd_close(&l->fd);
}

static int is_ready(const struct local *l, short events) {
  struct pollfd p = {l->fd, events, 0};
  return poll(&p, 1, 0) > 0;
}

ssize_t local_read(struct local *l, void *data, size_t n, struct fdset *fds) {
  ssize_t got;
  int truncated = 0;
  fdset_init(fds);
  if (l->is_socket) {
    struct iovec iov = {data, n};
    got = sock_recv_iov(l->fd, &iov, 1, 0, fds, &truncated);
    if (!truncated)
      return got;
    fdset_close(fds);
    return -EMFILE;
  }
  if (l->careful && !is_ready(l, POLLIN))
    return -EAGAIN;
  do
    got = read(l->fd, data, n);
  while (got < 0 && errno == EINTR);
  if (got < 0)
    return errno == EWOULDBLOCK ? -EAGAIN : errno == EIO ? 0 : -errno;
  return got;
}

ssize_t local_write(struct local *l, const void *data, size_t n, const int *fds,
                    int nfds) {
  ssize_t sent;
  if (l->is_socket) {
    struct iovec iov = {(void *)(uintptr_t)data, n};
    sent = sock_send(l->fd, &iov, 1, fds, nfds);
    if (sent == -ETOOMANYREFS || sent == -ENOMEM)
      return -ENOBUFS;
    return sent ? sent : -EAGAIN;
  }
  if (l->careful && n > PIPE_BUF)
    n = PIPE_BUF;
  if (l->careful && !is_ready(l, POLLOUT))
    return -EAGAIN;
  do
    sent = write(l->fd, data, n);
  while (sent < 0 && errno == EINTR);
  return sent < 0 ? (errno == EWOULDBLOCK ? -EAGAIN : -errno) : sent;
}

#ifdef __linux__
static ssize_t splice_now(int from, int to, size_t n) {
  ssize_t moved;
  do
    moved = splice(from, NULL, to, NULL, n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  while (moved < 0 && errno == EINTR);
  return moved < 0 ? -errno : moved;
}

/* splice(2) waits for a socket that blocks, whatever it is told. */
static int is_fit(struct local *socket) {
  if (!socket->is_unlocked && !socket->is_unfit) {
    socket->is_unlocked = socket->is_own ? fd_set_nonblocking(socket->fd, 1) == 0
                                         : fd_is_nonblocking(socket->fd) == 1;
    socket->is_unfit = !socket->is_unlocked;
  }
  return socket->is_socket && !socket->is_unfit;
}

ssize_t local_move(struct local *pipe, struct local *socket, size_t n) {
  if (!pipe->is_pipe || !is_fit(socket))
    return -EINVAL;
  ssize_t moved = splice_now(pipe->fd, socket->fd, n);
  if (moved == -EINVAL)
    socket->is_unfit = 1;
  return moved;
}

ssize_t local_take(struct local *socket, int pipe, size_t n) {
  return splice_now(socket->fd, pipe, n);
}

ssize_t local_pass(int pipe, struct local *to, size_t n) {
  return splice_now(pipe, to->fd, n);
}

/* splice(2) would drop them. The kernel counts those that wait (Linux 5.6). */
int local_has_bytes_only(const struct local *socket) {
  char path[40], text[512];
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", socket->fd);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  fd_close(&fd);
  if (n <= 0)
    return 0;
  text[n] = 0;
  return strstr(text, "scm_fds: 0\n") != NULL;
}
#else
ssize_t local_move(struct local *pipe, struct local *socket, size_t n) {
  return -EINVAL;
}

ssize_t local_take(struct local *socket, int pipe, size_t n) {
  return -EINVAL;
}

ssize_t local_pass(int pipe, struct local *to, size_t n) {
  return -EINVAL;
}

int local_has_bytes_only(const struct local *socket) {
  return 0;
}
#endif

size_t local_waiting(const struct local *l) {
  int n = 0;
  return ioctl(l->fd, FIONREAD, &n) < 0 || n < 0 ? 0 : (size_t)n;
}

void local_end_writing(struct local *l) {
  if (l->is_socket)
    shutdown(l->fd, SHUT_WR);
}

void local_end(struct local *l) {
  if (l->is_socket)
    shutdown(l->fd, SHUT_RDWR);
}

void local_end_reading(struct local *l) {
  if (l->is_socket)
    shutdown(l->fd, SHUT_RD);
}

int local_hung_up(const struct local *l) {
  struct pollfd p = {l->fd, 0, 0};
  return l->fd >= 0 && poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR));
}
