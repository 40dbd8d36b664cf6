/* Reading, writing and accepting on any descriptor without blocking and without touching
 * its O_NONBLOCK flag, which belongs to everybody who shares the description. Knows no
 * Lua; runs in every process.
 *
 * "block" says that the caller may sleep in the call (a clone without a time limit). It
 * is a permission, not a promise: -EAGAIN may still come, and the caller polls then. */
#ifndef SOCKET_SYS_H
#define SOCKET_SYS_H

#include "os/fd.h"
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

enum sys_type {
  SYS_SOCKET = 0, /* takes MSG_DONTWAIT */
  SYS_FILE = 1,   /* regular files, folders, disks: never would block */
  SYS_STREAM = 2  /* pipes, terminals, other devices: asked with poll(2) first */
};
enum sys_type sys_type_of(int fd);
/* Whether descriptors can be sent through it: an AF_UNIX socket. */
int sys_is_unix(int fd);
/* Whether it is a socket that carries messages, each with an end of its own. */
int sys_is_datagram(int fd);
/* Bytes of the message that would be read next; 0 for an empty or no message; or -errno.
 */
ssize_t sys_next_message(int fd);

/* Bytes (>0), 0 at the end, -EAGAIN for "nothing now", or a negated errno. fds, which
 * may be NULL, gets the descriptors that came along (NULL: the kernel closes them), and
 * *ret_truncated is 1 when some were lost on the way. */
ssize_t sys_read(int fd, enum sys_type type, void *data, size_t n, int block,
                 struct fdset *fds, int *ret_truncated);
/* Bytes (>0), -EAGAIN or a negated errno. Never raises SIGPIPE: -EPIPE comes instead.
 * There must be at least one byte; pass_fd goes with the first one unless it is -1. */
ssize_t sys_write(int fd, enum sys_type type, const struct iovec *iov, int niov,
                  int block, int pass_fd);
/* These bytes (at most SYS_FIRST_MAX) go to that UNIX stream socket before anything else
 * that this thread writes with sys_write: in one call where it writes to the same, and
 * else before. `then` is called when they have gone (0), or can't go any more (-errno).
 */
enum { SYS_FIRST_MAX = 16 };
void sys_write_first(int fd, const void *bytes, size_t n, void (*then)(int error));
/* Is called before any of them goes, once: their socket is needed. */
void sys_before_first(void (*need)(void));
/* Writes them now, if they are still here. */
void sys_flush_first(void);
int sys_has_first(void);
/* They go never, and `then` is not called. */
void sys_drop_first(void);
/* Whether sys_write has written to a socket in this process. */
int sys_has_written(void);
/* A connection (close-on-exec, above 2), -EAGAIN or a negated errno. ask: the description
 * may be blocking, so poll(2) first. */
int sys_accept(int fd, int ask, int nonblocking);

/* Sleeps until one of the entries has something to serve. timeout in seconds, negative:
 * none. mask, which may be NULL: what is blocked meanwhile. How many have, 0 when the
 * time ran out (or, for very long times, a part of it), or a negated errno: -EINTR after
 * a signal. */
int sys_sleep(struct pollfd *p, int n, double timeout, const sigset_t *mask);

/* Seconds on a clock that only goes forward. */
double sys_now(void);

#endif
