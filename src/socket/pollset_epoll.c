/* pollset.h on Linux: epoll(7). */
#include "socket/pollset.h"

#include "os/fd.h"
#include <errno.h>
#include <sys/epoll.h>

static int add(int set, int fd) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP};
  int r = epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
  return r == 0 || errno == EEXIST ? 0 : -errno; /* the same one may be asked for twice */
}

int pollset_open(const struct pollfd *p, int n) {
  int set = epoll_create1(EPOLL_CLOEXEC), r = 0;
  if (set < 0)
    return -errno;
  for (int i = 0; r == 0 && i < n; i++)
    if (p[i].fd >= 0)
      r = add(set, p[i].fd);
  if (r == 0)
    return fd_raise(set);
  fd_close(&set);
  return r;
}
