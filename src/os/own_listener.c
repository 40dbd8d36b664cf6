#include "os/own_listener.h"

#include <errno.h>

#ifdef __linux__
#include "os/fd.h"
#include "os/proc.h"
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

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

/* The time is for processes with the same number, in another namespace of these. */
static void choose_name(struct own_listener *l) {
  static atomic_uint last;
  int n =
      snprintf(l->name + 1, sizeof l->name - 1, "moonfork/%x/%x/%x", (unsigned)getpid(),
               atomic_fetch_add(&last, 1) + 1, (unsigned)proc_now_ns());
  l->name[0] = 0;
  l->n = 1 + (unsigned)n;
}

static socklen_t address_of(const struct own_listener *l, struct sockaddr_un *ret) {
  *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
  memcpy(ret->sun_path, l->name, l->n);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + l->n);
}

int own_listener_make(struct own_listener *ret, int *ret_fd) {
  struct sockaddr_un a;
  int fd = proc_is_filtered() ? -EPERM : make_socket();
  if (fd < 0)
    return fd;
  choose_name(ret);
  socklen_t n = address_of(ret, &a);
  int r =
      bind(fd, (struct sockaddr *)&a, n) < 0 || listen(fd, WAITING_MAX) < 0 ? -errno : 0;
  ret->pid = r == 0 ? peer_of(fd) : 0;
  if (r == 0 && ret->pid <= 0)
    r = -ENOSYS;
  if (r < 0) {
    fd_close(&fd);
    return r;
  }
  *ret_fd = fd;
  return 0;
}

int own_listener_connect(const struct own_listener *l) {
  struct sockaddr_un a;
  socklen_t n = address_of(l, &a);
  int fd = proc_is_filtered() ? -EPERM : make_socket();
  if (fd < 0)
    return fd;
  int r = connect(fd, (struct sockaddr *)&a, n) < 0 ? -errno : 0;
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

int own_listener_accept(int fd, pid_t maker, int *ret_fd) {
  for (;;) {
    int taken = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (taken < 0 && (errno == EINTR || errno == ECONNABORTED))
      continue;
    if (taken < 0)
      return -errno;
    if (peer_of(taken) == maker) {
      *ret_fd = fd_raise_made(taken);
      return 0;
    }
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

int own_listener_accept(int fd, pid_t maker, int *ret_fd) {
  (void)fd, (void)maker, (void)ret_fd;
  return -ENOSYS;
}

#endif
