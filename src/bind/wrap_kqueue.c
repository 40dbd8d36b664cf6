/* One descriptor wrapped in a kqueue. macOS and the BSDs; runs in the parent. */
#include "bind/watch.h"
#include "os/fd.h"
#include <errno.h>
#include <sys/event.h>
#include <sys/time.h>

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
