/* One descriptor wrapped in an epoll descriptor. Linux; runs in the parent. */
#include "bind/watch.h"
#include "os/fd.h"
#include <errno.h>
#include <sys/epoll.h>

int watch_wrap(int fd, int events) {
  int wrap = epoll_create1(EPOLL_CLOEXEC);
  if (wrap < 0)
    return -errno;
  struct epoll_event event = {
      .events = (events & UV_READABLE ? EPOLLIN | EPOLLRDHUP : 0u) |
                (events & UV_WRITABLE ? EPOLLOUT : 0u),
  };
  if (epoll_ctl(wrap, EPOLL_CTL_ADD, fd, &event) == 0)
    return fd_raise(wrap);
  int rc = -errno;
  fd_close(&wrap);
  return rc;
}
