/* Descriptors: every one is born close-on-exec, above the standard streams, and has one
 * owner. EINTR is handled here. Runs in every process. */
#ifndef OS_FD_H
#define OS_FD_H

#include <stddef.h>

/* Closes *fd when it is not negative and makes it -1. Never fails; errno is kept. */
void fd_close(int *fd);
/* A close-on-exec duplicate above 2, or a negated errno. */
int fd_dup(int fd);
/* Moves fd above 2 when it is below (closing it), sets close-on-exec. Takes fd; gives the
 * new one or a negated errno. */
int fd_raise(int fd);
/* The same for one that is close-on-exec from its beginning: nothing to ask the system.
 */
int fd_raise_made(int fd);
int fd_set_nonblocking(int fd, int on); /* 0 or -errno */
int fd_set_cloexec(int fd, int on);
/* 1, 0 or -errno. */
int fd_is_nonblocking(int fd);
/* The n bytes, at most PIPE_BUF, into a pipe that does not block: all of them (1) or none
 * (0, or -errno). Without SIGPIPE. */
int fd_write_pipe(int fd, const void *bytes, size_t n);
/* Opens /dev/null read-write, close-on-exec, above 2; where there is no /dev a pipe with
 * the other end closed stands in. */
int fd_open_null(void);
/* Whether n descriptors can be had now: 0, or -EMFILE, -ENFILE or another negated errno.
 * For what is called next and can't be told that there are none; other threads may take
 * them meanwhile. */
enum { FD_CHECK_MAX = 16 };
int fd_check_free(int n);
/* Closes every descriptor >= from except keep[0..nkeep) (in any order). close_range(2),
 * else /proc/self/fd, else one by one up to the limit. */
void fd_close_from(int from, const int *keep, size_t nkeep);
/* Calls visit(fd, data) for every open descriptor >= from of this thread's. Same
 * fallbacks. 0 or -errno.
 */
int fd_each(int from, void (*visit)(int fd, void *data), void *data);

/* A label on what fd refers to: an event loop of the library's own, which a clone of this
 * process lets go of at its birth. The audit of a template tells by it such loops from
 * those of others, whichever part of the library has made them. It is the number of the
 * signal that O_ASYNC would send, which nobody switches on there. Without the label (no
 * F_SETSIG) the loop counts as somebody else's. */
void fd_label_loop(int fd);
int fd_is_labelled_loop(int fd);

/* A small owned array of descriptors. */
enum { FDSET_MAX = 253 }; /* SCM_MAX_FD of Linux */
struct fdset {
  int n;
  int fd[FDSET_MAX];
};
void fdset_init(struct fdset *s);
/* Takes fd, even when the set is full (-E2BIG: closed). */
int fdset_push(struct fdset *s, int fd);
/* Gives the i-th to the caller, leaving -1. */
int fdset_steal(struct fdset *s, int i);
void fdset_close(struct fdset *s);

/* Closes what another process has sent and nobody has asked for (drop.h); *fd becomes -1.
 * errno is kept. */
void fd_drop(int *fd);
void fdset_drop(struct fdset *s);

#endif
