#include "template/server/accepting.h"

#include "os/fd.h"
#include "os/own_listener.h"
#include "os/proc.h"
#include "wire/frame.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/resource.h>

void accepting_set(struct accepting *l, int fd) {
  accepting_close(l);
  *l = (struct accepting){.fd = fd, .maker = own_listener_maker(fd)};
}

void accepting_close(struct accepting *l) {
  if (l->fd > 0)
    fd_close(&l->fd);
  *l = (struct accepting){0};
}

/* The highest numbers are free, as many as a fork can take: what is here takes nobody's
 * place. */
static int is_roomy(void) {
  enum { HIGHEST = FRAME_FDS_MAX + 4 };
  struct pollfd p[HIGHEST];
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < 2 * HIGHEST)
    return 0;
  int end = limit.rlim_cur < INT_MAX ? (int)limit.rlim_cur : INT_MAX;
  for (int i = 0; i < HIGHEST; i++)
    p[i] = (struct pollfd){.fd = end - 1 - i};
  if (poll(p, HIGHEST, 0) != HIGHEST)
    return 0;
  for (int i = 0; i < HIGHEST; i++)
    if (!(p[i].revents & POLLNVAL))
      return 0;
  return 1;
}

void accepting_doubt(struct accepting *l) {
  if (l->fd <= 0)
    return;
  l->known = 0;
  if (proc_is_filtered() || !is_roomy())
    accepting_close(l);
}

int accepting_is_usable(struct accepting *l) {
  if (l->fd <= 0)
    return 0;
  if (!l->known)
    l->usable = l->maker > 0 && !proc_is_filtered();
  l->known = 1;
  return l->usable;
}

int accepting_take(struct accepting *l, uint32_t number) {
  if (l->fd <= 0 || (int32_t)(number - l->ntaken) <= 0)
    return -EPROTO;
  for (;;) {
    int fd, r = own_listener_accept(l->fd, l->maker, &fd);
    if (r < 0)
      return r == -EAGAIN ? -EPROTO : r;
    if (++l->ntaken == number)
      return fd;
    if (fd >= 0)
      fd_close(&fd);
  }
}
