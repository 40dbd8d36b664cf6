#include "template/server/accepting.h"

#include "os/fd.h"
#include "os/own_listener.h"
#include <errno.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

void accepting_set(struct accepting *l, int fd) {
  accepting_close(l);
  *l = (struct accepting){.fd = fd, .maker = own_listener_maker(fd)};
}

void accepting_close(struct accepting *l) {
  if (l->fd > 0)
    fd_close(&l->fd);
  *l = (struct accepting){0};
}

static int is_filtered(void) {
#ifdef __linux__
  return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0;
#else
  return 1;
#endif
}

int accepting_is_usable(struct accepting *l) {
  if (l->fd <= 0)
    return 0;
  if (!l->known)
    l->usable = l->maker > 0 && !is_filtered();
  l->known = 1;
  return l->usable;
}

int accepting_take(struct accepting *l, uint32_t number) {
  if (l->fd <= 0 || (int32_t)(number - l->ntaken) <= 0)
    return -EPROTO;
  for (;;) {
    int fd = own_listener_accept(l->fd, l->maker);
    if (fd < 0 || ++l->ntaken == number)
      return fd == -EAGAIN ? -EPROTO : fd;
    fd_close(&fd);
  }
}
