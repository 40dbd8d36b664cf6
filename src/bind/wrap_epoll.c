/* One descriptor wrapped in an epoll descriptor. Linux; runs in the parent. */
#include "bind/timer.h"
#include "bind/watch.h"
#include "os/fd.h"
#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

int watch_wrap(int fd, int events) {
  int wrap = epoll_create1(EPOLL_CLOEXEC);
  if (wrap < 0)
    return -errno;
  struct epoll_event event = {
      .events = (events & UV_READABLE ? EPOLLIN | EPOLLRDHUP : 0u) |
                (events & UV_WRITABLE ? EPOLLOUT : 0u),
  };
  fd_label_loop(wrap);
  if (epoll_ctl(wrap, EPOLL_CTL_ADD, fd, &event) == 0)
    return fd_raise(wrap);
  int rc = -errno;
  fd_close(&wrap);
  return rc;
}

int timer_date_open(void) {
  int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  return fd < 0 ? -errno : fd_raise(fd);
}

void timer_date_set(int fd, uint64_t ms) {
  struct itimerspec t = {.it_value = {(time_t)(ms / 1000), (long)(ms % 1000 * 1000000)}};
  timerfd_settime(fd, TFD_TIMER_ABSTIME, &t, NULL);
}

void timer_date_clear(int fd) {
  uint64_t expired;
  ssize_t n = read(fd, &expired, sizeof expired);
  (void)n; /* nothing to read: it was set again meanwhile */
}
