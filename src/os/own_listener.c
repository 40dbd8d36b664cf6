#include "os/own_listener.h"

#include <errno.h>

#ifdef __linux__
#include "os/fd.h"
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { WAITING_MAX = 64 }; /* connections that nobody has accepted yet */

/* The maker of a listening socket, and who has connected to one. */
static pid_t peer_of(int fd) {
  struct ucred who;
  socklen_t n = sizeof who;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) < 0 ? 0 : who.pid;
}

static int make_socket(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  return fd < 0 ? -errno : fd_raise_made(fd);
}

int own_listener_make(struct own_listener *ret, int *ret_fd) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  socklen_t n = sizeof a.sun_family; /* the kernel chooses the rest */
  int fd = make_socket();
  if (fd < 0)
    return fd;
  int r =
      bind(fd, (struct sockaddr *)&a, n) < 0 || listen(fd, WAITING_MAX) < 0 ? -errno : 0;
  n = sizeof a;
  if (r == 0 && getsockname(fd, (struct sockaddr *)&a, &n) < 0)
    r = -errno;
  ret->pid = r == 0 ? peer_of(fd) : 0;
  ret->n = (unsigned)(n - offsetof(struct sockaddr_un, sun_path));
  if (r == 0 && (ret->pid <= 0 || ret->n > sizeof ret->name))
    r = -ENOSYS;
  if (r < 0) {
    fd_close(&fd);
    return r;
  }
  memcpy(ret->name, a.sun_path, ret->n);
  *ret_fd = fd;
  return 0;
}

int own_listener_connect(const struct own_listener *l) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  int fd = make_socket();
  if (fd < 0)
    return fd;
  memcpy(a.sun_path, l->name, l->n);
  int r = connect(fd, (struct sockaddr *)&a,
                  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + l->n)) < 0
              ? -errno
              : 0;
  if (r == 0 && peer_of(fd) != l->pid) /* the name was free, and is another's now */
    r = -ECONNREFUSED;
  if (r == 0)
    return fd;
  fd_close(&fd);
  return r;
}

pid_t own_listener_maker(int fd) {
  return peer_of(fd);
}

int own_listener_accept(int fd, pid_t maker) {
  for (;;) {
    int taken = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (taken < 0 && (errno == EINTR || errno == ECONNABORTED))
      continue;
    if (taken < 0)
      return -errno;
    if (peer_of(taken) == maker)
      return fd_raise_made(taken);
    fd_close(&taken);
  }
}

#else

int own_listener_make(struct own_listener *ret, int *ret_fd) {
  (void)ret, (void)ret_fd;
  return -ENOSYS;
}

int own_listener_connect(const struct own_listener *l) {
  (void)l;
  return -ENOSYS;
}

pid_t own_listener_maker(int fd) {
  (void)fd;
  return 0;
}

int own_listener_accept(int fd, pid_t maker) {
  (void)fd, (void)maker;
  return -ENOSYS;
}

#endif
