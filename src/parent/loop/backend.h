/* The backend: the only way by which the parent's core (context, channel, process)
 * reaches sockets, processes, the clock and the loop. backend_uv.c is the real one; the
 * tests put a scripted world in its place. Runs in the parent.
 *
 * A backend is started by its context while processes are open and stopped (no handle
 * left on the loop) when the last one is closed. Its callbacks come from the loop, never
 * from inside a call. */
#ifndef PARENT_LOOP_BACKEND_H
#define PARENT_LOOP_BACKEND_H

#include "os/fd.h"
#include "os/own_listener.h"
#include "os/proc.h"
#include "os/sock.h"
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct backend;
struct measure;

/* HANGUP: of the other end, and perhaps of bytes, too. */
enum { WATCH_READ = 1, WATCH_WRITE = 2, WATCH_HANGUP = 4 };

/* One watched descriptor, embedded in its owner. */
struct watch {
  void (*on_ready)(struct watch *w, unsigned events); /* READ also stands for hang-up */
  int fd;
  unsigned events;
  int lasts;  /* events come often, and it is seldom begun and ended; set before the first
               */
  void *impl; /* the backend's */
};

struct backend_ops {
  uint64_t (*now_ms)(struct backend *s);
  uint64_t (*now_us)(struct backend *s);
  uint64_t (*now_coarse_us)(struct backend *s); /* some milliseconds old; cheap */
  int (*pair)(struct backend *s, int ret_fd[2]);
  /* As own_listener_make, own_listener_connect. NULL, both: there is no such thing. */
  int (*listen)(struct backend *s, struct own_listener *ret, int *ret_fd);
  int (*connect)(struct backend *s, const struct own_listener *l);
  ssize_t (*send)(struct backend *s, int fd, const struct iovec *iov, int niov,
                  const int *fds, int nfds);                        /* as sock_send */
  ssize_t (*read)(struct backend *s, int fd, void *data, size_t n); /* as sock_read */
  /* As sock_read_from, sock_name_writers, sock_refuse_fds. */
  ssize_t (*read_from)(struct backend *s, int fd, void *data, size_t n, struct fdset *fds,
                       struct sock_writer *ret_writer);
  int (*name_writers)(struct backend *s, int fd, int on);
  int (*refuse_fds)(struct backend *s, int fd, int on);
  int (*unblock)(struct backend *s, int fd); /* it does not block: 0 or -errno */
  /* As sock_recv_iov without blocking: descriptors that come along go to fds (NULL: they
   * are closed). */
  ssize_t (*recv)(struct backend *s, int fd, const struct iovec *iov, int niov,
                  struct fdset *fds, int *ret_truncated);
  int (*dup)(struct backend *s, int fd); /* as fd_dup */
  /* As sock_cookie. NULL: there are none. */
  uint64_t (*cookie)(struct backend *s, int fd);
  int (*write_pipe)(struct backend *s, int fd, const void *bytes,
                    size_t n); /* as fd_write_pipe */
  int (*share)(struct backend *s, size_t size, int *ret_fd,
               void **ret_map); /* as share_new */
  void (*unshare)(struct backend *s, void *map, size_t size);
  void (*widen)(struct backend *s, int fd, int n); /* as sock_widen */
  int (*hung_up)(struct backend *s, int fd);
  /* The other end can't write from now on; what it wrote can still be read. */
  void (*refuse)(struct backend *s, int fd);
  void (*fall_silent)(struct backend *s, int fd); /* the other end reads an end of file */
  void (*close)(struct backend *s, int *fd);      /* as fd_part */
  void (*close_now)(struct backend *s,
                    int *fd); /* nothing can block there: as fd_close */
  /* Sets what is watched; 0 stops. After 0 the owner may close the descriptor and free
   * the watch at once. 0 or -errno. */
  int (*watch)(struct backend *s, struct watch *w, int fd, unsigned events);
  void (*timer)(struct backend *s, uint64_t at_ms); /* on_timer then; UINT64_MAX: never */
  void (*turn)(struct backend *s, int on);          /* on_turn, soon; 0: not any more */
  void (*busy)(struct backend *s, int on);          /* keeps the loop alive */
  int (*spawn)(struct backend *s, const struct proc_spawn *spawn, pid_t *ret_pid);
  int (*pidfd)(struct backend *s, pid_t pid);
  int (*kill)(struct backend *s, int pidfd, pid_t pid, int signum);
  int (*kill_thread)(struct backend *s, pid_t pid, int thread, int signum,
                     int value); /* as proc_kill_thread */
  int (*kill_group)(struct backend *s, int pidfd, pid_t pid, int by_number,
                    int signum); /* as proc_kill_group, proc_kill_tree */
  int (*kill_tree)(struct backend *s, int pidfd, pid_t pid, int by_number, int signum);
  int (*reap)(struct backend *s, int pidfd, pid_t pid, struct proc_status *ret);
  int (*peek)(struct backend *s, int pidfd, pid_t pid); /* as proc_peek */
  uint64_t (*yield)(struct backend *s);  /* others run first; the nanoseconds they took */
  int (*is_careless)(struct backend *s); /* as proc_is_careless */
  void (*note_thief)(struct backend *s);
  /* The status of a process that is no child of ours and has ended: from the pidfd once
   * somebody has reaped it, from /proc while it is a zombie. 0 or -ENODATA. */
  int (*status)(struct backend *s, int pidfd, pid_t pid, int *ret_status);
  /* What a process uses: 0 and *ret, or -errno. MF_AGAIN: it is large, which takes long,
   * and *ret_later answers when *ret_fd (its own) is readable: `measured` or `forget`
   * takes it. */
  int (*measure)(struct backend *s, pid_t pid, struct proc_memory *ret,
                 struct measure **ret_later, int *ret_fd);
  int (*measured)(struct backend *s, struct measure *m, struct proc_memory *ret);
  void (*forget)(struct backend *s, struct measure *m);
  int (*start)(struct backend *s);
  /* Takes everything off the loop; on_stopped when that is done. It may be started again
   * at any time, also before. */
  void (*stop)(struct backend *s);
  void (*free)(struct backend *s); /* a stopped one */
  /* In a forked copy: lets go of descriptors that are the original's. NULL: it has none.
   */
  void (*forked)(struct backend *s);
};

struct backend {
  const struct backend_ops *ops;
  void *owner;
  void (*on_begin)(void *owner); /* the loop looks for events; a turn may lack it */
  void (*on_timer)(void *owner);
  void (*on_turn)(void *owner);
  void (*on_stopped)(void *owner);
};

struct uv_loop_s;
struct backend *backend_uv_new(struct uv_loop_s *loop); /* NULL: no memory */

#endif
