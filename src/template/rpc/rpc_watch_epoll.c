#include "template/rpc/rpc_watch.h"

#include "os/fd.h"
#include <errno.h>
#include <sys/epoll.h>

int rpc_watch_open(int socket) {
  int watch = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event nothing = {0};
  if (watch < 0)
    return -errno;
  if (epoll_ctl(watch, EPOLL_CTL_ADD, socket, &nothing) == 0)
    return fd_raise(watch);
  fd_close(&watch);
  return -1;
}

void rpc_watch_set(int watch, int socket, const char *wanted) {
  struct epoll_event event = {0};
  for (; *wanted; wanted++)
    event.events |= *wanted == 'w' ? EPOLLOUT : *wanted == 'r' ? EPOLLIN : EPOLLRDHUP;
  epoll_ctl(watch, EPOLL_CTL_MOD, socket, &event); /* it is there: this can't fail */
}

void rpc_watch_also(int watch, int fd) {
  struct epoll_event event = {.events = EPOLLIN};
  epoll_ctl(watch, EPOLL_CTL_ADD, fd, &event);
}
