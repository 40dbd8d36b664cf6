/* One descriptor of this side, whatever stream it is: read and written without waiting,
 * and without a change of flags that other processes share. Runs in the near end and the
 * agent. */
#ifndef REMOTE_LOCAL_H
#define REMOTE_LOCAL_H

#include "os/fd.h"
#include <stddef.h>
#include <sys/types.h>

struct local {
  int fd; /* owned; -1: closed */
  int is_socket;
  int careful; /* a description of others that may block: small writes after a look */
  int is_pipe;
  int is_own;      /* nobody else has the description */
  int is_unfit;    /* for local_move */
  int is_unlocked; /* it does not block */
};

/* Takes fd, also on failure. 0 or -errno. */
int local_open(struct local *l, int fd);
void local_close(struct local *l);
/* Bytes (>0), 0: end of stream, -EAGAIN, or another -errno. Descriptors that came go to
 * fds. -EMFILE: they did not fit. */
ssize_t local_read(struct local *l, void *data, size_t n, struct fdset *fds);
/* Bytes (>0), -EAGAIN, -ENOBUFS: the system has no room now, once more a little later, or
 * another -errno. Descriptors (borrowed) go with the first byte of sockets. */
ssize_t local_write(struct local *l, const void *data, size_t n, const int *fds,
                    int nfds);
/* From a pipe to a socket, by the kernel, without a copy. As local_write; 0: the pipe has
 * ended; -EINVAL: not with these. */
ssize_t local_move(struct local *pipe, struct local *socket, size_t n);
/* From a socket into a pipe that is empty, likewise. */
ssize_t local_take(struct local *socket, int pipe, size_t n);
/* From a pipe into another one. */
ssize_t local_pass(int pipe, struct local *to, size_t n);
/* No descriptors come with the bytes that lie there now, which is known for sure. */
int local_has_bytes_only(const struct local *socket);
/* Bytes that lie there to be read, as far as the system tells. */
size_t local_waiting(const struct local *l);
/* Nothing is written, or read, any more: the other process notices. */
void local_end_writing(struct local *l);
void local_end_reading(struct local *l);
void local_end(struct local *l); /* both */
/* The other end is closed for good. */
int local_hung_up(const struct local *l);

#endif
