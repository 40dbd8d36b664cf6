#include "sim.h"

#include "base/result.h"
#include "wire/proto.h"
#undef NDEBUG /* its asserts are part of the tests */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Queued descriptors are closed by the wire layer, not through the backend: the linker
 * shows these two calls to the world (--wrap), so that an end which was never sent is
 * hung up.
 */
static struct sim *world;
void __real_fd_close(int *fd);
void __real_fdset_close(struct fdset *s);
void __wrap_fd_close(int *fd);
void __wrap_fdset_close(struct fdset *s);

static void dropped(int fd) {
  if (world && fd >= SIM_FD_BASE && !world->fd[fd - SIM_FD_BASE].sent)
    sim_hang_up(world, fd - SIM_FD_BASE);
}

void __wrap_fd_close(int *fd) {
  dropped(*fd);
  __real_fd_close(fd);
}

void __wrap_fdset_close(struct fdset *s) {
  for (int i = 0; i < s->n; i++)
    dropped(s->fd[i]);
  __real_fdset_close(s);
}

static struct sim *self(struct backend *backend) {
  return (struct sim *)(void *)backend;
}

static struct sim_fd *at(struct sim *s, int fd) {
  assert(fd >= SIM_FD_BASE && fd < SIM_FD_BASE + s->nfd);
  return &s->fd[fd - SIM_FD_BASE];
}

static int fd_new(struct sim *s, int kind) {
  assert(s->nfd < SIM_FDS);
  s->fd[s->nfd].kind = kind;
  buf_init(&s->fd[s->nfd].rx, 1 << 26);
  return s->nfd++;
}

static uint64_t op_now_ms(struct backend *backend) {
  return self(backend)->now_ms;
}

static uint64_t op_now_us(struct backend *backend) {
  return self(backend)->now_ms * 1000;
}

static int op_pair(struct backend *backend, int ret_fd[2]) {
  struct sim *s = self(backend);
  int a, b;
  if (s->pair_error)
    return s->pair_error;
  a = fd_new(s, SIM_SOCKET);
  b = fd_new(s, SIM_SOCKET);
  s->fd[a].peer = b;
  s->fd[b].peer = a;
  ret_fd[0] = SIM_FD_BASE + a;
  ret_fd[1] = SIM_FD_BASE + b;
  return 0;
}

static ssize_t op_send(struct backend *backend, int fd, const struct iovec *iov, int niov,
                       const int *fds, int nfds) {
  struct sim *s = self(backend);
  struct sim_fd *peer = &s->fd[at(s, fd)->peer];
  size_t n = 0, take, most = s->send_limit ? s->send_limit : SIZE_MAX;
  int i;
  if (s->send_error) {
    int r = s->send_error;
    s->send_error = 0;
    return r;
  }
  if (peer->closed)
    return -EPIPE;
  if (s->full)
    return 0;
  if (s->room && s->room < most)
    most = s->room;
  for (i = 0; i < niov && n < most; i++) {
    take = iov[i].iov_len < most - n ? iov[i].iov_len : most - n;
    s->inside++;
    buf_put(&peer->rx, iov[i].iov_base, take);
    s->inside--;
    n += take;
  }
  s->full = s->room && n == s->room;
  s->room -= s->room ? n : 0;
  for (i = 0; i < nfds; i++) {
    assert(peer->nfds < SIM_QUEUE);
    if (fds[i] >= SIM_FD_BASE)
      at(s, fds[i])->sent = 1;
    peer->fds[peer->nfds++] = fds[i] >= SIM_FD_BASE ? fds[i] - SIM_FD_BASE : -1;
  }
  return (ssize_t)n;
}

static ssize_t op_read(struct backend *backend, int fd, void *data, size_t n) {
  struct sim *s = self(backend);
  struct sim_fd *f = at(s, fd);
  size_t have = buf_size(&f->rx);
  if (!have)
    return s->fd[f->peer].closed || f->refused ? 0 : -EAGAIN;
  if (n > have)
    n = have;
  memcpy(data, buf_peek(&f->rx), n);
  buf_consume(&f->rx, n);
  f->nread += n;
  if (f->flood) {
    assert(n <= f->flood);
    s->inside++;
    buf_put(&f->rx, data, n);
    s->inside--;
  }
  return (ssize_t)n;
}

static int op_name_writers(struct backend *backend, int fd, int on) {
  at(self(backend), fd)->named = on;
  return 0;
}

static void op_fall_silent(struct backend *backend, int fd) {
  at(self(backend), fd)->silent = 1;
}

static int op_refuse_fds(struct backend *backend, int fd, int on) {
  return -ENOSYS;
}

static ssize_t op_read_from(struct backend *backend, int fd, void *data, size_t n,
                            struct fdset *fds, struct sock_writer *ret_writer) {
  struct sim *s = self(backend);
  int pid = at(s, fd)->named ? s->fd[at(s, fd)->peer].pid : 0;
  ssize_t got = op_read(backend, fd, data, n);
  *ret_writer = (struct sock_writer){0, -1};
  if (got > 0 && pid > 0 && s->pidfd_error) {
    ret_writer->pid = pid; /* its kernel knows no pidfds */
  } else if (got > 0 && pid > 0) {
    int i = fd_new(s, SIM_PIDFD);
    s->fd[i].pid = pid;
    *ret_writer = (struct sock_writer){pid, SIM_FD_BASE + i};
  }
  return got;
}

static ssize_t op_recv(struct backend *backend, int fd, const struct iovec *iov, int niov,
                       struct fdset *fds, int *ret_truncated) {
  struct sim *s = self(backend);
  struct sim_fd *f = at(s, fd);
  ssize_t total = 0;
  *ret_truncated = 0;
  for (int i = 0; i < niov; i++) {
    ssize_t got = op_read(backend, fd, iov[i].iov_base, iov[i].iov_len);
    if (got <= 0 && i == 0)
      return got;
    if (got <= 0)
      break;
    total += got;
    if ((size_t)got < iov[i].iov_len)
      break;
  }
  for (int i = 0; fds && i < f->nfds; i++)
    fdset_push(fds, f->fds[i] < 0 ? -1 : SIM_FD_BASE + f->fds[i]);
  f->nfds = 0;
  return total;
}

static int op_unblock(struct backend *backend, int fd) {
  return 0;
}

/* Its pipes are sockets. */
static int op_write_pipe(struct backend *backend, int fd, const void *bytes, size_t n) {
  struct iovec iov = {(void *)(uintptr_t)bytes, n};
  ssize_t sent = op_send(backend, fd, &iov, 1, NULL, 0);
  return sent < 0 ? (int)sent : sent > 0;
}

static int op_dup(struct backend *backend, int fd) {
  struct sim *s = self(backend);
  int i = fd_new(s, at(s, fd)->kind);
  s->fd[i].memory = at(s, fd)->memory;
  return SIM_FD_BASE + i;
}

static int op_share(struct backend *backend, size_t size, int *ret_fd, void **ret_map) {
  struct sim *s = self(backend);
  int i;
  if (s->share_error)
    return s->share_error;
  i = fd_new(s, SIM_MEMORY);
  s->inside++;
  s->fd[i].memory = calloc(1, size);
  s->inside--;
  s->nshared++;
  *ret_fd = SIM_FD_BASE + i;
  *ret_map = s->fd[i].memory;
  assert(s->nmemories < SIM_MEMORIES);
  s->memories[s->nmemories++] = s->fd[i].memory;
  return 0;
}

static void op_unshare(struct backend *backend, void *map, size_t size) {
  (void)map, (void)size;
  if (self(backend)->stopped) {
    fprintf(stderr, "memory is given back to a backend that has been freed\n");
    abort();
  }
  self(backend)->nshared--; /* the far side may have it still */
}

static void op_widen(struct backend *backend, int fd, int n) {
}

static int op_hung_up(struct backend *backend, int fd) {
  struct sim *s = self(backend);
  return s->fd[at(s, fd)->peer].closed;
}

static void op_refuse(struct backend *backend, int fd) {
  if (self(backend)->on_refuse)
    self(backend)->on_refuse(self(backend), fd - SIM_FD_BASE);
  at(self(backend), fd)->refused = 1;
}

static void op_close(struct backend *backend, int *fd) {
  struct sim *s = self(backend);
  if (*fd < 0)
    return;
  assert(!at(s, *fd)->closed);
  assert(!at(s, *fd)->watch);
  at(s, *fd)->closed = 1;
  *fd = -1;
}

static int op_watch(struct backend *backend, struct watch *w, int fd, unsigned events) {
  struct sim *s = self(backend);
  if (!events) {
    if (w->impl)
      ((struct sim_fd *)w->impl)->watch = NULL;
    w->impl = NULL;
    w->events = 0;
    return 0;
  }
  w->fd = fd;
  w->events = events;
  w->impl = at(s, fd);
  at(s, fd)->watch = w;
  return 0;
}

static void op_timer(struct backend *backend, uint64_t at_ms) {
  self(backend)->timer_at_ms = at_ms;
}

static void op_turn(struct backend *backend, int on) {
  self(backend)->turn = on;
}

static void op_busy(struct backend *backend, int on) {
  self(backend)->busy = on;
}

static int op_spawn(struct backend *backend, const struct proc_spawn *spawn,
                    pid_t *ret_pid) {
  struct sim *s = self(backend);
  int copy;
  if (s->spawn_error)
    return s->spawn_error;
  /* The program has a duplicate; the core closes its own. */
  copy = fd_new(s, SIM_SOCKET);
  s->fd[copy].peer = at(s, spawn->control_fd)->peer;
  s->fd[s->fd[copy].peer].peer = copy;
  s->spawned_control = copy;
  s->fd[copy].pid = s->next_pid;
  *ret_pid = s->next_pid;
  s->children[s->next_pid++] = 1;
  if (s->on_spawn)
    s->on_spawn(s, *ret_pid, copy);
  return 0;
}

static int op_pidfd(struct backend *backend, pid_t pid) {
  struct sim *s = self(backend);
  int i;
  s->npidfds++;
  if (s->pidfd_error)
    return s->pidfd_error;
  i = fd_new(s, SIM_PIDFD);
  s->fd[i].pid = (int)pid;
  return SIM_FD_BASE + i;
}

static int op_kill(struct backend *backend, int pidfd, pid_t pid, int signum) {
  struct sim *s = self(backend);
  if (s->ended[pid])
    return -ESRCH;
  if (signum == 0)
    return 0;
  s->last_signal = signum;
  s->last_signal_pid = (int)pid;
  if (s->on_kill)
    s->on_kill(s, (int)pid, signum);
  return 0;
}

static int op_kill_thread(struct backend *backend, pid_t pid, int thread, int signum,
                          int value) {
  return op_kill(backend, -1, pid, signum);
}

/* Nobody in it but its leader. */
static int op_kill_group(struct backend *backend, int pidfd, pid_t pid, int by_number,
                         int signum) {
  struct sim *s = self(backend);
  s->last_group = (int)pid;
  s->last_group_signal = signum;
  s->last_group_unreaped = s->children[pid];
  s->last_group_by_number = by_number;
  return s->ended[pid] ? -ESRCH : 0;
}

static int op_kill_tree(struct backend *backend, int pidfd, pid_t pid, int by_number,
                        int signum) {
  op_kill_group(backend, pidfd, pid, by_number, signum);
  return op_kill(backend, pidfd, pid, signum);
}

static int op_reap(struct backend *backend, int pidfd, pid_t pid,
                   struct proc_status *ret) {
  struct sim *s = self(backend);
  memset(ret, 0, sizeof *ret);
  if (pid < 0 || pid >= SIM_FDS || !s->children[pid])
    return -ECHILD;
  if (!s->ended[pid] || s->traced == pid)
    return MF_AGAIN;
  s->children[pid] = 0;
  ret->status = s->status[pid];
  return 0;
}

static int op_peek(struct backend *backend, int pidfd, pid_t pid) {
  struct sim *s = self(backend);
  if (pid < 0 || pid >= SIM_FDS || !s->children[pid])
    return -ECHILD;
  return s->ended[pid] && s->traced != pid ? 0 : MF_AGAIN;
}

static uint64_t op_yield(struct backend *backend) {
  struct sim *s = self(backend);
  s->nyields++;
  if (s->ends_meanwhile)
    sim_end_process(s, s->ends_meanwhile, 0);
  return s->yield_ns;
}

static int op_is_careless(struct backend *backend) {
  return self(backend)->careless;
}

static void op_note_thief(struct backend *backend) {
  self(backend)->thief = 1;
}

static int op_status(struct backend *backend, int pidfd, pid_t pid, int *ret_status) {
  struct sim *s = self(backend);
  if (!s->tells_status || !s->ended[pid])
    return -ENODATA;
  *ret_status = s->status[pid];
  return 0;
}

/* ---- memory ---- */

struct measure {
  int fd;
};

static const struct proc_memory measured = {
    .pss = 30, .uss = 20, .rss = 40, .shared = 10};

static int op_measure(struct backend *backend, pid_t pid, struct proc_memory *ret,
                      struct measure **ret_later, int *ret_fd) {
  struct sim *s = self(backend);
  int pair[2], r;
  if (!s->slow_measures) {
    *ret = measured;
    return 0;
  }
  r = backend->ops->pair(backend, pair);
  if (r < 0)
    return r;
  s->inside++;
  *ret_later = calloc(1, sizeof **ret_later);
  s->inside--;
  (*ret_later)->fd = *ret_fd = pair[0];
  backend->ops->close(backend,
                      &pair[1]); /* readable at once, that is, on the next turn */
  s->nmeasures++;
  return MF_AGAIN;
}

static void op_forget(struct backend *backend, struct measure *m) {
  struct sim *s = self(backend);
  int fd = m->fd;
  backend->ops->close(backend, &fd);
  s->nmeasures--;
  free(m);
}

static int op_measured(struct backend *backend, struct measure *m,
                       struct proc_memory *ret) {
  *ret = measured;
  op_forget(backend, m);
  return 0;
}

static int op_start(struct backend *backend) {
  struct sim *s = self(backend);
  s->started = 1;
  s->stopping = 0;
  s->timer_at_ms = UINT64_MAX;
  return 0;
}

static void op_stop(struct backend *backend) {
  struct sim *s = self(backend);
  int i;
  for (i = 0; i < s->nfd; i++)
    assert(!s->fd[i].watch);
  s->started = 0;
  s->turn = 0;
  s->stopping = 1;
}

static void op_free(struct backend *backend) {
  self(backend)->stopped = 1;
}

static const struct backend_ops ops = {
    .now_ms = op_now_ms,
    .now_us = op_now_us,
    .now_coarse_us = op_now_us,
    .pair = op_pair,
    .send = op_send,
    .read = op_read,
    .name_writers = op_name_writers,
    .read_from = op_read_from,
    .fall_silent = op_fall_silent,
    .refuse_fds = op_refuse_fds,
    .recv = op_recv,
    .unblock = op_unblock,
    .dup = op_dup,
    .write_pipe = op_write_pipe,
    .share = op_share,
    .unshare = op_unshare,
    .widen = op_widen,
    .hung_up = op_hung_up,
    .refuse = op_refuse,
    .close = op_close,
    .close_now = op_close,
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
};

struct sim *sim_new(void) {
  struct sim *s = calloc(1, sizeof *s);
  assert(s);
  s->backend.ops = &ops;
  s->next_pid = 100;
  s->timer_at_ms = UINT64_MAX;
  s->now_ms = 1000;
  world = s;
  return s;
}

int sim_free(struct sim *s) {
  int i, open = 0;
  world = NULL;
  for (i = 0; i < s->nfd; i++)
    buf_deinit(&s->fd[i].rx);
  for (i = 0; i < s->nfd; i++)
    open += (s->fd[i].kind == SIM_PIDFD || s->fd[i].kind == SIM_MEMORY) &&
            !s->fd[i].closed && !s->fd[i].sent;
  open += s->nshared;
  for (i = 0; i < s->nmemories; i++)
    free(s->memories[i]);
  free(s);
  return open;
}

static unsigned ready(struct sim *s, const struct sim_fd *f) {
  unsigned events = 0;
  if (f->kind == SIM_PIDFD)
    return s->ended[f->pid] ? WATCH_READ : 0;
  if (buf_size(&f->rx) || s->fd[f->peer].closed)
    events |= WATCH_READ;
  return s->full ? events : events | WATCH_WRITE;
}

int sim_step(struct sim *s) {
  int i, did = 0;
  if (s->stopping) {
    s->stopping = 0;
    s->backend.on_stopped(s->backend.owner);
    return 1;
  }
  if (!s->started)
    return 0;
  if (s->timer_at_ms <= s->now_ms) {
    s->timer_at_ms = UINT64_MAX;
    s->backend.on_timer(s->backend.owner);
    did = 1;
  }
  if (s->started && s->turn) {
    s->turn = 0;
    s->backend.on_turn(s->backend.owner);
    did = 1;
  }
  for (i = 0; s->started && i < s->nfd; i++) {
    struct watch *w = s->fd[i].watch;
    unsigned events = w ? ready(s, &s->fd[i]) & w->events : 0;
    if (!events)
      continue;
    w->on_ready(w, events);
    did = 1;
  }
  return did;
}

void sim_run(struct sim *s) {
  int i;
  for (i = 0; sim_step(s); i++)
    assert(i < 100000); /* else it spins */
}

void sim_advance(struct sim *s, uint64_t ms) {
  s->now_ms += ms;
  sim_run(s);
}

int sim_far_end(struct sim *s, int near_fd) {
  return at(s, near_fd)->peer;
}

void sim_bytes(struct sim *s, int far, const void *data, size_t n) {
  if (!s->fd[s->fd[far].peer].refused)
    buf_put(&s->fd[s->fd[far].peer].rx, data, n);
}

void sim_answer(struct sim *s, int far, unsigned type, uint64_t id, const void *body,
                size_t length) {
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f = {.type = (uint8_t)type, .id = id, .length = (uint32_t)length};
  frame_encode(header, &f);
  sim_bytes(s, far, header, sizeof header);
  sim_bytes(s, far, body, length);
}

void sim_hang_up(struct sim *s, int far) {
  int i;
  if (far < 0 || s->fd[far].closed) /* below 0: a descriptor of the test itself */
    return;
  s->fd[far].closed = 1;
  /* What was sent and never received goes with it, as in the kernel. */
  for (i = 0; i < s->fd[far].nfds; i++)
    if (s->fd[far].fds[i] >= 0)
      sim_hang_up(s, s->fd[far].fds[i]);
}

void sim_end_process(struct sim *s, int pid, int status) {
  s->ended[pid] = 1;
  s->status[pid] = status;
}

int sim_command(struct sim *s, int far, struct frame *ret, int *ret_fds) {
  struct sim_fd *f = &s->fd[far];
  size_t have = buf_size(&f->rx);
  static unsigned char body[FRAME_BODY_MAX];
  int i;
  if (have < FRAME_HEADER_SIZE)
    return 0;
  if (frame_decode(ret, buf_peek(&f->rx), CMD_SETUP, CMD_LAST) < 0)
    abort();
  if (have < FRAME_HEADER_SIZE + ret->length)
    return 0;
  memcpy(body, buf_peek(&f->rx) + FRAME_HEADER_SIZE, ret->length);
  ret->body = body;
  buf_consume(&f->rx, FRAME_HEADER_SIZE + ret->length);
  for (i = 0; i < ret->nfds; i++)
    ret_fds[i] = f->fds[i];
  assert(f->nfds >= ret->nfds);
  if (ret->type == CMD_WHO) /* slots are a former owner's */
    for (i = 0; i < s->nslots; i++)
      if (s->slots[i].far == far)
        s->slots[i].far = -1;
  memmove(f->fds, f->fds + ret->nfds, sizeof f->fds[0] * (size_t)(f->nfds - ret->nfds));
  f->nfds -= ret->nfds;
  return 1;
}
