/* UNIX stream sockets that carry descriptors. One call each; unix(7). Every process. */
#ifndef OS_SOCK_H
#define OS_SOCK_H

#include "os/fd.h"
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* A connected AF_UNIX stream pair, close-on-exec, above 2. The first end is non-blocking
 * when nonblocking is set. 0 or -errno. */
int sock_pair(int ret_fd[2], int nonblocking);
/* Sends with MSG_NOSIGNAL | MSG_DONTWAIT, descriptors with the first byte. Returns the
 * bytes sent (>0; the descriptors have gone when it is > 0), 0 for "would block", or a
 * negated errno. -ENOBUFS and -ETOOMANYREFS: once more, a little later; no poll tells
 * when, the socket is writable all the time. Asserts that there is at least one byte. */
enum { SOCK_PAUSE_MS = 5 }; /* for those who have no timer */
ssize_t sock_send(int fd, const struct iovec *iov, int niov, const int *fds, int nfds);
/* Receives with MSG_CMSG_CLOEXEC (and MSG_DONTWAIT unless blocking); appended descriptors
 * go to fds. Returns bytes (>0), 0 for end of stream, -EAGAIN for "nothing now", or a
 * negated errno. *ret_truncated is 1 when the kernel dropped descriptors (MSG_CTRUNC);
 * those that came are in fds. Descriptors land above 2. */
ssize_t sock_recv(int fd, void *data, size_t n, int blocking, struct fdset *fds,
                  int *ret_truncated);
/* The same into several places. fds NULL: descriptors sent along are closed by the
 * kernel, and ret_truncated is not looked at. */
ssize_t sock_recv_iov(int fd, const struct iovec *iov, int niov, int blocking,
                      struct fdset *fds, int *ret_truncated);
/* Plain read without any control buffer: descriptors sent along are closed by the kernel.
 * Same returns. */
ssize_t sock_read(int fd, void *data, size_t n);
/* Who wrote what is read: the kernel's word. */
struct sock_writer {
  pid_t pid; /* 0: it is not known (it lives in a namespace of its own) */
  int pidfd; /* -1: not told (Linux before 6.5); close-on-exec, above 2 */
};
/* Whether the kernel tells, where this end is read by sock_read_from, who has written
 * from now on. 0, or -ENOSYS: this system tells nothing of writers. */
int sock_name_writers(int fd, int on);
/* Whether the kernel refuses descriptors to whoever sends them here: one that is dropped
 * by a read may block the reader. 0, or -ENOSYS: it can't (Linux before 6.16, others). */
int sock_refuse_fds(int fd, int on);
/* As sock_recv without blocking. *ret_writer as asked for by sock_name_writers. What
 * different processes have written never comes in one piece. */
ssize_t sock_read_from(int fd, void *data, size_t n, struct fdset *fds,
                       struct sock_writer *ret_writer);
/* Lets up to n bytes be on their way (SO_SNDBUF), or as many as the system allows; they
 * take memory only while they are. Never less than before. */
void sock_widen(int fd, int n);
/* 1 when the other end is closed for good (POLLHUP or POLLRDHUP), else 0. */
int sock_hung_up(int fd);
/* 1 when it may be an end of sock_pair: a socket of this machine's, without a name; else
 * 0. */
int sock_is_nameless(int fd);
/* What stream a descriptor is, which can be carried byte by byte: 0: none (a file, a
 * terminal, a listener, datagrams), or -errno. */
enum sock_stream { SOCK_CONNECTED = 1, SOCK_PIPE_READ, SOCK_PIPE_WRITE };
int sock_stream_kind(int fd);
/* fd, a socket of the caller's, stands in for what could not be passed on, since there was
 * no descriptor free: whoever gets it can see that. And whether it does. */
int sock_mark_missing(int fd);
int sock_is_missing(int fd);
/* 1 when both descriptors name the same file or socket (device and inode), else 0. */
int fd_same(int a, int b);
/* A number that no other socket of this system has had; 0: it can't be had. */
uint64_t sock_cookie(int fd);

#endif
