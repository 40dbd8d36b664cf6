/* pollset.h on macOS and the BSDs: kqueue(2). */
#include "socket/pollset.h"

#include "os/fd.h"
#include <errno.h>
#include <stddef.h>
#include <sys/event.h>
#include <sys/time.h>
#include <sys/types.h>

static int add(int set, int fd) {
  struct kevent change;
  EV_SET(&change, fd, EVFILT_READ, EV_ADD, 0, 0, 0);
  return kevent(set, &change, 1, NULL, 0, NULL) == 0 ? 0 : -errno;
}

int pollset_open(const struct pollfd *p, int n) {
  int set = kqueue(), r = 0;
  if (set < 0)
    return -errno;
  fd_set_cloexec(set, 1);
  for (int i = 0; r == 0 && i < n; i++)
    if (p[i].fd >= 0)
      r = add(set, p[i].fd);
  if (r == 0)
    return fd_raise(set);
  fd_close(&set);
  return r;
}
