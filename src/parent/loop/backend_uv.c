/* The backend on libuv: a poller for descriptors, one timer, an idle handle for turns,
 * and a prepare handle that keeps the loop alive while something is outstanding, and
 * knows when a turn begins. Every other handle is unreferenced. Handles live in blocks of
 * their own since libuv lets go of them only in a close callback. Runs in the parent. */
#include "parent/loop/backend.h"
#include "parent/loop/spawner.h"
#include "parent/trace/trace.h"

#include "base/result.h"
#include "os/drop.h"
#include "os/measure.h"
#include "os/proc.h"
#include "os/share.h"
#include "os/sock.h"
#include "parent/loop/poller.h"
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <uv.h>

/* The fixed handles of one start; freed when the last is closed. */
struct fixed {
  struct backend_uv *backend; /* NULL once nobody waits for the close */
  uv_timer_t timer;
  uv_idle_t idle;
  uv_prepare_t anchor;
  int nopen;
};

struct backend_uv {
  struct backend backend;
  uv_loop_t *loop;
  struct fixed *fixed; /* NULL: stopped */
  struct poller *poller;
  size_t nclosing; /* handles whose close callback has not come */
  int stopping;    /* on_stopped is still to be called */
  int turning;
};

static struct backend_uv *self(struct backend *s) {
  return (struct backend_uv *)(void *)s;
}

static uint64_t op_now_ms(struct backend *s) {
  return proc_now_ns() / 1000000;
}

static uint64_t op_now_us(struct backend *s) {
  return proc_now_ns() / 1000;
}

static uint64_t op_now_coarse_us(struct backend *s) {
  return proc_now_coarse_ns() / 1000;
}

static int op_listen(struct backend *s, struct own_listener *ret, int *ret_fd) {
  return own_listener_make(ret, ret_fd);
}

static int op_connect(struct backend *s, const struct own_listener *l) {
  return own_listener_connect(l);
}

static int op_pair(struct backend *s, int ret_fd[2]) {
  return sock_pair(ret_fd, 1);
}

static int op_unblock(struct backend *s, int fd) {
  int on = 1;
  return ioctl(fd, FIONBIO, &on) < 0 ? -errno : 0;
}

static ssize_t op_send(struct backend *s, int fd, const struct iovec *iov, int niov,
                       const int *fds, int nfds) {
  return sock_send(fd, iov, niov, fds, nfds);
}

static ssize_t op_read(struct backend *s, int fd, void *data, size_t n) {
  return sock_read(fd, data, n);
}

static ssize_t op_read_from(struct backend *s, int fd, void *data, size_t n,
                            struct fdset *fds, struct sock_writer *ret_writer) {
  return sock_read_from(fd, data, n, fds, ret_writer);
}

static int op_name_writers(struct backend *s, int fd, int on) {
  return sock_name_writers(fd, on);
}

static ssize_t op_recv(struct backend *s, int fd, const struct iovec *iov, int niov,
                       struct fdset *fds, int *ret_truncated) {
  return sock_recv_iov(fd, iov, niov, 0, fds, ret_truncated);
}

static int op_dup(struct backend *s, int fd) {
  return fd_dup(fd);
}

static uint64_t op_cookie(struct backend *s, int fd) {
  return sock_cookie(fd);
}

static int op_write_pipe(struct backend *s, int fd, const void *bytes, size_t n) {
  return fd_write_pipe(fd, bytes, n);
}

static int op_share(struct backend *s, size_t size, int *ret_fd, void **ret_map) {
  return share_new(size, ret_fd, ret_map);
}

static void op_unshare(struct backend *s, void *map, size_t size) {
  share_unmap(map, size);
}

static void op_widen(struct backend *s, int fd, int n) {
  sock_widen(fd, n);
}

static int op_hung_up(struct backend *s, int fd) {
  return sock_hung_up(fd);
}

static void op_refuse(struct backend *s, int fd) {
  shutdown(fd, SHUT_RD); /* unix(7): the peer's next write gives EPIPE */
}

static void op_fall_silent(struct backend *s, int fd) {
  shutdown(fd, SHUT_WR);
}

static int op_refuse_fds(struct backend *s, int fd, int on) {
  return sock_refuse_fds(fd, on);
}

static void op_close_now(struct backend *s, int *fd) {
  fd_close(fd);
}

static void op_close(struct backend *s, int *fd) {
  int saved = errno;
  fd_part(*fd);
  *fd = -1;
  errno = saved;
}

/* ---- closing ---- */

static void check_stopped(struct backend_uv *u) {
  if (u->nclosing || poller_nclosing(u->poller) || !u->stopping)
    return;
  u->stopping = 0;
  u->backend.on_stopped(u->backend.owner);
}

static void on_poller_closed(void *owner) {
  check_stopped(owner);
}

static void on_fixed_closed(uv_handle_t *handle) {
  struct fixed *f = handle->data;
  struct backend_uv *u = f->backend;
  u->nclosing--;
  if (--f->nopen == 0)
    free(f);
  check_stopped(u);
}

static int op_watch(struct backend *s, struct watch *w, int fd, unsigned events) {
  return poller_watch(self(s)->poller, w, fd, events);
}

/* ---- time and turns ---- */

static void on_timer(uv_timer_t *handle) {
  struct fixed *f = handle->data;
  f->backend->backend.on_timer(f->backend->backend.owner);
  trace_rest();
}

static void op_timer(struct backend *s, uint64_t at_ms) {
  struct backend_uv *u = self(s);
  uint64_t now;
  if (!u->fixed)
    return;
  if (at_ms == UINT64_MAX) {
    uv_timer_stop(&u->fixed->timer);
    return;
  }
  now = op_now_ms(s);
  uv_update_time(u->loop);
  uv_timer_start(&u->fixed->timer, on_timer, at_ms > now ? at_ms - now : 0, 0);
}

static void on_idle(uv_idle_t *handle) {
  struct fixed *f = handle->data;
  f->backend->turning = 0;
  uv_idle_stop(handle);
  f->backend->backend.on_turn(f->backend->backend.owner);
  trace_rest();
}

static void op_turn(struct backend *s, int on) {
  struct backend_uv *u = self(s);
  if (u->turning == on || !u->fixed)
    return;
  u->turning = on;
  if (on)
    uv_idle_start(&u->fixed->idle, on_idle); /* referenced: it must come */
  else
    uv_idle_stop(&u->fixed->idle);
}

static void on_anchor(uv_prepare_t *handle) {
  struct fixed *f = handle->data;
  poller_turn(f->backend->poller);
  f->backend->backend.on_begin(f->backend->backend.owner);
}

static void op_busy(struct backend *s, int on) {
  struct backend_uv *u = self(s);
  if (!u->fixed)
    return;
  if (on)
    uv_ref((uv_handle_t *)&u->fixed->anchor);
  else
    uv_unref((uv_handle_t *)&u->fixed->anchor);
}

/* ---- processes ---- */

static int op_spawn(struct backend *s, const struct proc_spawn *spawn, pid_t *ret_pid) {
  return spawner_start(spawn, ret_pid);
}

static int op_pidfd(struct backend *s, pid_t pid) {
  return proc_pidfd(pid);
}

static int op_kill(struct backend *s, int pidfd, pid_t pid, int signum) {
  return proc_kill(pidfd, pid, signum);
}

static int op_kill_thread(struct backend *s, pid_t pid, int thread, int signum,
                          int value) {
  return proc_kill_thread(pid, thread, signum, value);
}

static int op_kill_group(struct backend *s, int pidfd, pid_t pid, int by_number,
                         int signum) {
  return proc_kill_group(pidfd, pid, by_number, signum);
}

static int op_kill_tree(struct backend *s, int pidfd, pid_t pid, int by_number,
                        int signum) {
  return proc_kill_tree(pidfd, pid, by_number, signum);
}

static int op_reap(struct backend *s, int pidfd, pid_t pid, struct proc_status *ret) {
  return proc_reap(pidfd, pid, ret);
}

static int op_peek(struct backend *s, int pidfd, pid_t pid) {
  return proc_peek(pidfd, pid);
}

static uint64_t op_yield(struct backend *s) {
  uint64_t start_ns = proc_now_ns();
  sched_yield();
  return proc_now_ns() - start_ns;
}

static int op_is_careless(struct backend *s) {
  return proc_is_careless();
}

static void op_note_thief(struct backend *s) {
  proc_note_thief();
}

static int op_status(struct backend *s, int pidfd, pid_t pid, int *ret_status) {
  /* An orphan whose new parent we are (as process 1, or as subreaper) is ours to reap. */
  if (pidfd >= 0 && proc_reap_pidfd(pidfd, ret_status) == 0)
    return 0;
  if (pidfd >= 0 && proc_pidfd_status(pidfd, ret_status) == 0)
    return 0;
  return proc_zombie_status(pidfd, pid, ret_status);
}

/* ---- memory ---- */

/* What is smaller is measured at once: in pages of 4 KiB that takes 0.6 ms. */
enum { MEASURE_ASIDE = 64 << 20 };

static int op_measure(struct backend *s, pid_t pid, struct proc_memory *ret,
                      struct measure **ret_later, int *ret_fd) {
  if (proc_resident(pid) < MEASURE_ASIDE || measure_start(pid, ret_later) < 0)
    return proc_memory(pid, ret);
  *ret_fd = measure_fd(*ret_later);
  return MF_AGAIN;
}

static int op_measured(struct backend *s, struct measure *m, struct proc_memory *ret) {
  return measure_end(m, ret);
}

static void op_forget(struct backend *s, struct measure *m) {
  measure_drop(m);
}

/* ---- life ---- */

static int op_start(struct backend *s) {
  struct backend_uv *u = self(s);
  struct fixed *f;
  if (u->fixed)
    return 0;
  f = calloc(1, sizeof *f);
  if (!f)
    return -ENOMEM;
  int r = poller_start(u->poller);
  if (r < 0) {
    free(f);
    return r;
  }
  f->backend = u;
  f->nopen = 3;
  /* None of these three can fail in libuv: they only link themselves into the loop. */
  uv_timer_init(u->loop, &f->timer);
  uv_idle_init(u->loop, &f->idle);
  uv_prepare_init(u->loop, &f->anchor);
  f->timer.data = f->idle.data = f->anchor.data = f;
  uv_prepare_start(&f->anchor, on_anchor);
  uv_unref((uv_handle_t *)&f->timer);
  uv_unref((uv_handle_t *)&f->anchor);
  u->fixed = f;
  u->turning = 0;
  u->stopping = 0;
  return 0;
}

static void op_stop(struct backend *s) {
  struct backend_uv *u = self(s);
  struct fixed *f = u->fixed;
  u->stopping = 1;
  if (f) {
    u->fixed = NULL;
    u->nclosing += 3;
    poller_stop(u->poller);
    uv_close((uv_handle_t *)&f->timer, on_fixed_closed);
    uv_close((uv_handle_t *)&f->idle, on_fixed_closed);
    uv_close((uv_handle_t *)&f->anchor, on_fixed_closed);
  }
}

static void op_free(struct backend *s) {
  struct backend_uv *u = self(s);
  assert(!u->fixed && !u->nclosing && !poller_nclosing(u->poller));
  poller_free(u->poller);
  free(u);
}

static void op_forked(struct backend *s) {
  poller_forked(self(s)->poller);
}

static const struct backend_ops uv_ops = {
    .now_ms = op_now_ms,
    .now_us = op_now_us,
    .now_coarse_us = op_now_coarse_us,
    .pair = op_pair,
    .listen = op_listen,
    .connect = op_connect,
    .send = op_send,
    .read = op_read,
    .read_from = op_read_from,
    .name_writers = op_name_writers,
    .refuse_fds = op_refuse_fds,
    .unblock = op_unblock,
    .fall_silent = op_fall_silent,
    .recv = op_recv,
    .dup = op_dup,
    .cookie = op_cookie,
    .write_pipe = op_write_pipe,
    .share = op_share,
    .unshare = op_unshare,
    .widen = op_widen,
    .hung_up = op_hung_up,
    .refuse = op_refuse,
    .close = op_close,
    .close_now = op_close_now,
    .watch = op_watch,
    .timer = op_timer,
    .turn = op_turn,
    .busy = op_busy,
    .spawn = op_spawn,
    .pidfd = op_pidfd,
    .kill = op_kill,
    .kill_thread = op_kill_thread,
    .kill_group = op_kill_group,
    .kill_tree = op_kill_tree,
    .reap = op_reap,
    .peek = op_peek,
    .yield = op_yield,
    .is_careless = op_is_careless,
    .note_thief = op_note_thief,
    .status = op_status,
    .measure = op_measure,
    .measured = op_measured,
    .forget = op_forget,
    .start = op_start,
    .stop = op_stop,
    .free = op_free,
    .forked = op_forked,
};

struct backend *backend_uv_new(struct uv_loop_s *loop) {
  struct backend_uv *u = calloc(1, sizeof *u);
  if (!u)
    return NULL;
  u->backend.ops = &uv_ops;
  u->loop = loop;
  u->poller = poller_new(loop, on_poller_closed, u);
  if (!u->poller) {
    free(u);
    return NULL;
  }
  return &u->backend;
}
