/* One descriptor wrapped in a kqueue. macOS and the BSDs; runs in the parent. */
#include "bind/timer.h"
#include "bind/watch.h"
#include "os/fd.h"
#include <errno.h>
#include <sys/event.h>
#include <sys/time.h>
#include <time.h>

int watch_wrap(int fd, int events) {
  int wrap = kqueue();
  if (wrap < 0)
    return -errno;
  struct kevent changes[2];
  int n = 0;
  if (events & UV_READABLE)
    EV_SET(&changes[n++], fd, EVFILT_READ, EV_ADD, 0, 0, 0);
  if (events & UV_WRITABLE)
    EV_SET(&changes[n++], fd, EVFILT_WRITE, EV_ADD, 0, 0, 0);
  if (kevent(wrap, changes, n, NULL, 0, NULL) == 0)
    return fd_raise(wrap);
  int rc = -errno;
  fd_close(&wrap);
  return rc;
}

/* A kqueue of its own whose one event is the date. */
int timer_date_open(void) {
  int fd = kqueue();
  return fd < 0 ? -errno : fd_raise(fd);
}

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void timer_date_set(int fd, uint64_t ms) {
  struct kevent change;
  uint64_t now = now_ms();
  EV_SET(&change, 1, EVFILT_TIMER, EV_ADD | EV_ONESHOT, 0,
         ms > now ? (intptr_t)(ms - now) : 1, 0);
  kevent(fd, &change, 1, NULL, 0, NULL);
}

void timer_date_clear(int fd) {
  struct kevent event;
  struct timespec none = {0, 0};
  kevent(fd, NULL, 0, &event, 1, &none);
}
