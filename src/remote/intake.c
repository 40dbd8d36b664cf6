#include "remote/intake.h"

#include "os/sock.h"
#include "wire/frame.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  TELLS_BELOW = 2,   /* waiting channels: the processors are not busy */
  READ_AT_ONCE = 32, /* messages */
  REFUSED_MAX = 16,  /* of them that nobody may send: then a pause */
  PAUSE_MS = 2,
  QUEUE_MAX = 4096, /* more than the system lets wait there */
  ASK_EVERY = 64    /* forks */
};

static struct waiting *of_pid(struct intake *i, pid_t pid) {
  for (unsigned k = 0; pid > 0 && k < i->nwaiting; k++)
    if (i->waiting[k].pid == pid)
      return &i->waiting[k];
  return NULL;
}

static uint32_t forget(struct intake *i, struct waiting *w) {
  uint32_t channel = w->channel;
  *w = i->waiting[--i->nwaiting];
  return channel;
}

#ifdef SO_PASSCRED

struct note {
  unsigned char bytes[16];
  size_t n;
  pid_t pid;
  int fd;
};

/* Room for the writer and one descriptor; the kernel closes what is beyond, or we do. */
union control {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int))];
};

static void take_control(struct note *m, const struct cmsghdr *c) {
  struct ucred writer;
  if (c->cmsg_level != SOL_SOCKET)
    return;
  if (c->cmsg_type == SCM_CREDENTIALS) {
    memcpy(&writer, CMSG_DATA(c), sizeof writer);
    m->pid = writer.pid;
    return;
  }
  for (size_t at = 0; c->cmsg_type == SCM_RIGHTS && CMSG_LEN(at) < c->cmsg_len;
       at += sizeof(int)) {
    fd_close(&m->fd);
    memcpy(&m->fd, CMSG_DATA(c) + at, sizeof m->fd);
  }
}

/* 0, -EAGAIN, or -EPIPE: its end, or somebody has shut it down. */
static int receive(int fd, struct note *ret) {
  union control control;
  struct iovec iov = {ret->bytes, sizeof ret->bytes};
  struct msghdr m = {.msg_iov = &iov,
                     .msg_iovlen = 1,
                     .msg_control = control.bytes,
                     .msg_controllen = sizeof control.bytes};
  ssize_t n;
  ret->pid = 0;
  ret->fd = -1;
  do
    n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0)
    return -EAGAIN;
  ret->n = (size_t)n;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
    take_control(ret, c);
  if (ret->fd >= 0)
    ret->fd = fd_raise_made(ret->fd);
  return n == 0 && ret->pid == 0 ? -EPIPE : 0;
}

static int take_answer(struct intake *i, const struct note *m) {
  uint64_t id;
  if (m->pid != i->template || m->n != 1 + sizeof id)
    return -EPROTO;
  memcpy(&id, m->bytes + 1, sizeof id);
  if (i->asked && id == i->asked) {
    i->asked = 0;
    i->may = 1;
  }
  return 0;
}

/* 0, or -EPROTO: nobody may say that. */
static int take(struct intake *i, struct note *m) {
  if (m->n > 0 && m->bytes[0] == INTAKE_MAY)
    return take_answer(i, m);
  i->ops->before_end(i);
  struct waiting *w = of_pid(i, m->pid);
  if (!w || m->n != 1)
    return -EPROTO;
  if (m->bytes[0] == INTAKE_SOCKET && m->fd >= 0 &&
      sock_stream_kind(m->fd) == SOCK_CONNECTED) {
    mux_adopt(i->mux, forget(i, w), m->fd);
    m->fd = -1;
    return 0;
  }
  int has_returned = m->bytes[0] == INTAKE_RETURNED;
  if (has_returned)
    i->silent[i->nsilent++ % LINK_FORKS_MAX] = m->pid;
  mux_end_unmade(i->mux, forget(i, w));
  return has_returned ? 0 : -EPROTO;
}

/* No fork goes without a socket again. */
static void shut(struct intake *i) {
  turn_watch(i->mux->turn, &i->ready, -1, 0);
  fd_close(&i->fd);
}

/* So many messages at most, and so many of them that nobody may send: how many were. None
 * is looked for when nobody has one to send. */
static unsigned read_all(struct intake *i, unsigned most, unsigned refused_most) {
  struct note m;
  unsigned refused = 0;
  int r = 0;
  while (most-- > 0 && refused < refused_most && (r = receive(i->fd, &m)) == 0) {
    int taken = take(i, &m);
    fd_close(&m.fd);
    refused += taken < 0;
    if (taken == 0 && i->nwaiting == 0)
      break;
  }
  if (r == -EPIPE)
    shut(i);
  return refused;
}

static void on_pause(uv_timer_t *t) {
  struct intake *i = list_entry(t, struct intake, pause);
  if (i->fd >= 0) /* a clone's end may have shut it meanwhile */
    turn_watch(i->mux->turn, &i->ready, i->fd, TURN_READ);
}

/* Who floods it is not heard for a moment: others wait as long. */
static void on_ready(struct turn_watch *w, int events) {
  struct intake *i = list_entry(w, struct intake, ready);
  if (events & TURN_HANGUP) {
    read_all(i, QUEUE_MAX, QUEUE_MAX); /* what lies there */
    shut(i);
    return;
  }
  if (read_all(i, READ_AT_ONCE, REFUSED_MAX) < REFUSED_MAX || i->fd < 0)
    return;
  turn_watch(i->mux->turn, w, -1, 0);
  uv_timer_start(&i->pause, on_pause, PAUSE_MS, 0);
}

static int make_pair(int ret[2]) {
  int ends[2], on = 1;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
    return -errno;
  for (int k = 0; k < 2; k++)
    ret[k] = fd_raise_made(ends[k]);
  if (ret[0] >= 0 && ret[1] >= 0 &&
      setsockopt(ret[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0)
    return 0;
  fd_close(&ret[0]);
  fd_close(&ret[1]);
  return -EMFILE;
}

#else
static void read_all(struct intake *i, unsigned most, unsigned refused_most) {
}

static void on_ready(struct turn_watch *w, int events) {
}

static void on_pause(uv_timer_t *t) {
}

static int make_pair(int ret[2]) {
  return -ENOSYS;
}
#endif

void intake_init(struct intake *i, struct mux *m, const struct intake_ops *ops,
                 int *ret_fd) {
  int pair[2] = {-1, -1};
  *i = (struct intake){.mux = m, .ops = ops};
  i->fd = make_pair(pair) < 0 ? -1 : pair[0];
  i->ready.on_ready = on_ready;
  uv_timer_init(m->turn->loop, &i->pause);
  *ret_fd = pair[1];
}

void intake_begin(struct intake *i, pid_t template) {
  i->template = template;
  if (i->fd >= 0 && turn_watch(i->mux->turn, &i->ready, i->fd, TURN_READ) < 0)
    fd_close(&i->fd);
}

void intake_reset(struct intake *i) {
  i->may = 0;
  i->asked = 0;
}

/* One that waits for a clone of that slot will see none: the slot is another one's. */
static void end_place(struct intake *i, uint32_t table, uint32_t index) {
  for (unsigned k = i->nwaiting; k-- > 0;) {
    struct waiting *w = &i->waiting[k];
    if (w->table == table && w->index == index)
      mux_end_unmade(i->mux, forget(i, w));
  }
}

void intake_forget(struct intake *i, uint32_t channel) {
  for (unsigned k = 0; k < i->nwaiting; k++)
    if (i->waiting[k].channel == channel)
      i->waiting[k].channel = 0;
}

/* What nobody wants any more makes room: its clone may run for long without a word. */
static void forget_unwanted(struct intake *i) {
  for (unsigned k = i->nwaiting; k-- > 0;)
    if (!i->waiting[k].channel)
      forget(i, &i->waiting[k]);
}

/* The first FORK after anything else goes with a socket, and asks. */
static void ask(struct intake *i, struct frame *f) {
  if (i->asked && ++i->nunanswered < ASK_EVERY)
    return;
  i->nunanswered = 0;
  i->asked = f->id;
  f->flags |= FRAME_ASK;
}

int intake_take(struct intake *i, uint32_t channel, const struct link_fork *fork,
                unsigned char *command) {
  struct frame f;
  if (i->fd < 0 || frame_decode(&f, command, CMD_FORK, CMD_FORK) < 0 || f.nfds != 1 ||
      (f.flags & ~FRAME_ROW) || f.length != fork->n - FRAME_HEADER_SIZE)
    return 0;
  i->is_row = f.flags != 0;
  f.flags = 0;
  end_place(i, fork->table, fork->index);
  if (i->nwaiting == LINK_FORKS_MAX)
    forget_unwanted(i);
  int is_bare = i->may && i->nwaiting < LINK_FORKS_MAX && !mux_is_short(i->mux);
  if (is_bare) {
    f.nfds = 0;
    f.flags = FRAME_BARE | (i->nwaiting < TELLS_BELOW ? FRAME_TELL : 0);
    i->waiting[i->nwaiting++] = (struct waiting){channel, fork->table, fork->index, 0};
  } else if (!i->may) {
    ask(i, &f);
  }
  frame_encode(command, &f);
  return is_bare;
}

void intake_birth(struct intake *i, uint32_t table, uint32_t index, pid_t pid) {
  for (unsigned k = 0; k < i->nwaiting; k++) {
    struct waiting *w = &i->waiting[k];
    if (w->table == table && w->index == index && !w->pid)
      w->pid = pid;
  }
}

static int was_silent(struct intake *i, pid_t pid) {
  for (unsigned k = 0; k < LINK_FORKS_MAX; k++)
    if (i->silent[k] == pid) {
      i->silent[k] = 0;
      return 1;
    }
  return 0;
}

/* What it has handed in lies there. */
int intake_end(struct intake *i, pid_t pid, int has_returned) {
  if (!of_pid(i, pid))
    return was_silent(i, pid);
  if (!has_returned)
    read_all(i, QUEUE_MAX, QUEUE_MAX);
  struct waiting *w = of_pid(i, pid);
  if (w)
    mux_end_unmade(i->mux, forget(i, w));
  return w && has_returned;
}

void intake_end_pending(struct intake *i) {
  for (unsigned k = i->nwaiting; k-- > 0;)
    if (!i->waiting[k].pid)
      mux_end_unmade(i->mux, forget(i, &i->waiting[k]));
}
