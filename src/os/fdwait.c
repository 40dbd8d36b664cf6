/* Waiting for descriptors where poll(2) is refused. A process may live with a limit that
 * is lower than what it holds already: the kernel then gives it no new descriptor, which
 * is what such a limit is for, and refuses to poll those it has, which is an accident.
 * Its select(2) knows no limit but the largest open number. Runs in every process. */
#include "os/fdwait.h"
#include "os/interrupt.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/select.h>

#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif

/* ---- sets of any size: fd_set ends at 1024 ---- */

typedef unsigned long word; /* as the kernel counts */
enum { WORD_BITS = (int)sizeof(word) * CHAR_BIT, WORDS_FEW = FD_SETSIZE / WORD_BITS };

static void set_add(word *set, int fd) {
  set[fd / WORD_BITS] |= (word)1 << (fd % WORD_BITS);
}

static int set_has(const word *set, int fd) {
  return (set[fd / WORD_BITS] >> (fd % WORD_BITS) & 1) != 0;
}

/* ---- the stand-in ---- */

/* Closed numbers, which select would fail for without a name. */
static int mark_closed(struct pollfd *p, int n) {
  int found = 0;
  for (int i = 0; i < n; i++) {
    int closed = p[i].fd >= 0 && fcntl(p[i].fd, F_GETFD) < 0;
    p[i].revents = closed ? POLLNVAL : 0;
    found += closed;
  }
  return found;
}

static int wants_read(const struct pollfd *p) {
  return (p->events & POLLIN) || !(p->events & POLLOUT);
}

static short found(const struct pollfd *p, const word *in, const word *out) {
  int left, events = 0;
  if (set_has(out, p->fd))
    events |= POLLOUT;
  if (set_has(in, p->fd)) {
    events |= p->events & POLLIN;
    if (ioctl(p->fd, FIONREAD, &left) == 0 && left == 0)
      events |= POLLHUP | (p->events & POLLRDHUP);
  }
  return (short)events;
}

static int select_with(struct pollfd *p, int n, int top, word *in, word *out,
                       const struct timespec *timeout, const sigset_t *mask) {
  for (int i = 0; i < n; i++) {
    if (p[i].fd >= 0 && wants_read(&p[i]))
      set_add(in, p[i].fd);
    if (p[i].fd >= 0 && (p[i].events & POLLOUT))
      set_add(out, p[i].fd);
  }
  if (pselect(top + 1, (fd_set *)(void *)in, (fd_set *)(void *)out, NULL, timeout, mask) <
      0)
    return -1;
  int ready = 0;
  for (int i = 0; i < n; i++) {
    p[i].revents = p[i].fd >= 0 ? found(&p[i], in, out) : 0;
    ready += p[i].revents != 0;
  }
  return ready;
}

static int select_instead(struct pollfd *p, int n, const struct timespec *timeout,
                          const sigset_t *mask) {
  word few[2 * WORDS_FEW] = {0}, *sets = few;
  int top = -1, closed = mark_closed(p, n);
  if (closed > 0)
    return closed;
  for (int i = 0; i < n; i++)
    top = p[i].fd > top ? p[i].fd : top;
  size_t words = top < FD_SETSIZE ? (size_t)WORDS_FEW : (size_t)top / WORD_BITS + 1;
  if (words > WORDS_FEW && !(sets = calloc(2 * words, sizeof *sets)))
    return -1;
  int r = select_with(p, n, top, sets, sets + words, timeout, mask), error = errno;
  if (sets != few)
    free(sets);
  errno = error;
  return r;
}

/* ---- poll ---- */

int fdwait_masked(struct pollfd *p, int n, const struct timespec *timeout,
                  const sigset_t *mask) {
  int r = ppoll(p, (nfds_t)n, timeout, mask);
  if (r < 0 && errno == EINTR)
    interrupt_seen();
  return r < 0 && errno == EINVAL ? select_instead(p, n, timeout, mask) : r;
}

int fdwait(struct pollfd *p, int n, int timeout_ms) {
  struct timespec t = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
  int r = poll(p, (nfds_t)n, timeout_ms);
  if (r < 0 && errno == EINTR)
    interrupt_seen();
  if (r >= 0 || errno != EINVAL)
    return r;
  return select_instead(p, n, timeout_ms < 0 ? NULL : &t, NULL);
}
