#include "template/server/bare.h"

#include "os/fd.h"
#include "os/proc.h"
#include "os/sock.h"
#include "wire/proto.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Waits while others fill it: the agent reads as long as it lives. */
static int send_message(int fd, const void *bytes, size_t n, int passed) {
  struct iovec iov = {(void *)(uintptr_t)bytes, n};
  for (;;) {
    ssize_t r = sock_send(fd, &iov, 1, &passed, passed >= 0);
    if (r > 0)
      return 0;
    if (r < 0 && r != -ENOBUFS && r != -ETOOMANYREFS)
      return (int)r;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    poll(&p, r == 0, r == 0 ? -1 : SOCK_PAUSE_MS);
  }
}

int bare_take_socket(int fd) {
  static const unsigned char message = INTAKE_SOCKET;
  int pair[2], r = sock_pair(pair, 0);
  if (r < 0)
    return r;
  (void)send_message(fd, &message, sizeof message, pair[1]);
  fd_close(&pair[1]);
  r = dup3(pair[0], fd, O_CLOEXEC) < 0 ? -errno : 0;
  fd_close(&pair[0]);
  return r;
}

void bare_tell_return(int fd) {
  static const unsigned char message = INTAKE_RETURNED;
  (void)send_message(fd, &message, sizeof message, -1);
}

/* Two descriptors are free, for a pair. */
static int has_room(int fd) {
  int first = fcntl(fd, F_DUPFD_CLOEXEC, 3), second = -1;
  if (first >= 0)
    second = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  int has = second >= 0;
  fd_close(&first);
  fd_close(&second);
  return has;
}

void bare_answer(int fd, uint64_t id) {
  unsigned char message[1 + sizeof id] = {INTAKE_MAY};
  struct iovec iov = {message, sizeof message};
  memcpy(message + 1, &id, sizeof id);
  /* a filter of system calls may forbid what a clone would have to do, or kill for it */
  if (fd >= 0 && !proc_is_filtered() && has_room(fd))
    (void)sock_send(fd, &iov, 1, NULL, 0);
}
