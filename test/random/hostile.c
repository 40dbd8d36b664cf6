/* hostile: a template program that stands between a parent and a real template, and lies.
 *
 * The process that the parent has started becomes the real template ($HOSTILE_REAL); a
 * child of it, this program, has the parent's socket and passes everything on, in both
 * directions, the sockets of clones and their rpcs too. What it changes on the way is
 * said by $HOSTILE_SEED: frames are altered, repeated, dropped, delayed, torn, invented
 * by the thousand; numbers, lengths and pids are wrong; descriptors come along that
 * nobody asked for; ends are early. Knows no more of the protocol than the header of a
 * frame and which commands bring a socket, so that it need not change with it.
 *
 *   parent ====== (3) hostile ====== real template
 *      \========= (a FORK's socket) hostile ====== clone
 *
 * It leaves when everybody has hung up, and after LIFE_S in any case.
 */
#include "round.h"
#include "wire/frame.h"
#include "wire/rpc_proto.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
  LIFE_S = 25,
  LINES = 400,
  FDS = 253,
  CHUNK = 64 * 1024,
  BODY = 4096,
  BUFFER = FRAME_HEADER_SIZE + FRAME_BODY_MAX + CHUNK
};

/* One direction of a connection. */
struct line {
  int from, to;
  int raw;       /* no frames any more */
  int downwards; /* from the parent */
  unsigned char *data;
  size_t n;
  int fds[2 * FDS];
  int nfds;
  struct line *other;
  int wildness; /* one frame in so many is changed; 0: none */
};

static struct line *lines[LINES];
static int nlines;
static pid_t real_pid;

/* ---- out ---- */

static void set_patience(int fd) {
  struct timeval limit = {2, 0};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

/* All of it, descriptors with the first byte; -1: the other end is gone, or does not
 * read. */
static int send_with(int fd, const void *data, size_t n, const int *fds, int nfds) {
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(FDS * sizeof(int))];
  } control;
  const char *at = data;
  while (n > 0) {
    struct iovec iov = {(void *)(uintptr_t)at, n};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nfds > 0) {
      memset(&control, 0, sizeof control);
      m.msg_control = &control;
      m.msg_controllen = CMSG_SPACE((size_t)nfds * sizeof(int));
      struct cmsghdr *c = CMSG_FIRSTHDR(&m);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int));
      memcpy(CMSG_DATA(c), fds, (size_t)nfds * sizeof(int));
    }
    ssize_t sent = sendmsg(fd, &m, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR)
      continue;
    if (sent < 0)
      return -1;
    at += sent;
    n -= (size_t)sent;
    nfds = 0;
  }
  return 0;
}

static void drop_fds(struct line *l, int n) {
  for (int i = 0; i < n; i++)
    close(l->fds[i]);
  l->nfds -= n;
  memmove(l->fds, l->fds + n, (size_t)l->nfds * sizeof *l->fds);
}

/* Both directions end; the lines are freed at the end of the turn. */
static void hang_up(struct line *l) {
  if (l->from < 0)
    return;
  struct line *o = l->other;
  close(l->from);
  close(l->to);
  l->from = l->to = o->from = o->to = -1;
}

static void pass(struct line *l, const void *data, size_t n, int nfds) {
  if (l->to >= 0 && send_with(l->to, data, n, l->fds, nfds) < 0)
    hang_up(l);
  drop_fds(l, nfds);
}

/* ---- connections ---- */

static struct line *line_new(int from, int to, int downwards) {
  struct line *l = calloc(1, sizeof *l);
  l->from = from;
  l->to = to;
  l->downwards = downwards;
  l->data = malloc(BUFFER);
  lines[nlines++] = l;
  return l;
}

static void connect_ends(int parent, int real) {
  static const int degrees[] = {0, 0, 40, 15, 4};
  struct line *down = line_new(parent, real, 1), *up = line_new(real, parent, 0);
  down->other = up;
  up->other = down;
  up->wildness = degrees[random_below(5)];
  down->wildness = random_one_in(6) ? 60 : 0;
  set_patience(parent);
  set_patience(real);
}

/* The socket of a new process: we step between. */
static void step_between(int *fd) {
  int pair[2];
  if (nlines + 2 > LINES || random_one_in(4) ||
      socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
    return;
  connect_ends(*fd, pair[0]);
  *fd = pair[1];
}

/* ---- lies ---- */

static uint64_t nasty_number(void) {
  static const char *const names[] = {"HOSTILE_DRIVER", "HOSTILE_VICTIM"};
  static const uint64_t numbers[] = {
      0,         1,        2, UINT64_MAX,     UINT32_MAX,
      INT32_MAX, 1u << 31, 3, FRAME_BODY_MAX, FRAME_BODY_MAX + 1,
      64,        100000};
  const char *text = getenv(names[random_below(2)]);
  if (text && random_one_in(3))
    return strtoull(text, NULL, 10);
  if (!getenv("HOSTILE_CONFINED")) /* some pids mean everybody */
    return 1000000 + random_below(1000);
  return random_one_in(4) ? random_below(UINT32_MAX) : numbers[random_below(12)];
}

static void put(unsigned char *at, uint64_t v, int width) {
  for (int i = 0; i < width; i++)
    at[i] = (unsigned char)(v >> 8 * i);
}

/* A frame of one's own making; both protocols' types. */
static void invent(struct line *l, int flood) {
  unsigned char text[FRAME_HEADER_SIZE + BODY];
  struct frame f = {.length = random_below(random_one_in(8) ? BODY : 60),
                    .type = (uint8_t)(random_one_in(3) ? RPC_HELLO + random_below(11)
                                                       : ANS_HELLO + random_below(9)),
                    .flags = random_one_in(8) ? FRAME_MORE : 0,
                    .id = random_one_in(2) ? nasty_number() : random_below(30)};
  frame_encode(text, &f);
  for (size_t i = 0; i < f.length; i++)
    text[FRAME_HEADER_SIZE + i] = (unsigned char)random_below(random_one_in(2) ? 3 : 256);
  if (f.length >= 8 && random_one_in(2))
    put(text + FRAME_HEADER_SIZE, nasty_number(), 4);
  for (int i = 0; i < flood && l->to >= 0; i++) {
    if (random_one_in(2))
      put(text + 8, random_below(1u << 20), 8);
    pass(l, text, FRAME_HEADER_SIZE + f.length, 0);
  }
}

static void send_stranger(struct line *l, const unsigned char *frame, size_t n) {
  int pair[2], fds[4], nfds = 1 + (int)random_below(4);
  if (pipe(pair) < 0)
    return;
  for (int i = 0; i < nfds; i++)
    fds[i] = pair[i & 1];
  if (send_with(l->to, frame, n, fds, nfds) < 0)
    hang_up(l);
  close(pair[0]);
  close(pair[1]);
}

/* Sends the frame, or something else. */
static void lie(struct line *l, unsigned char *frame, size_t n, int nfds) {
  switch (random_below(14)) {
  case 0: /* dropped */
    drop_fds(l, nfds);
    return;
  case 1:
    pass(l, frame, n, nfds);
    pass(l, frame, n, 0);
    return;
  case 2:
  case 3: /* some byte */
    frame[random_below((uint32_t)(random_one_in(2) ? FRAME_HEADER_SIZE : n))] ^=
        (unsigned char)(1u << random_below(8));
    break;
  case 4:
  case 5:
    put(frame + 8, nasty_number(), 8); /* its id, often a pid */
    break;
  case 6:
  case 7:
    if (n >= FRAME_HEADER_SIZE + 4)
      put(frame + FRAME_HEADER_SIZE, nasty_number(), 4);
    break;
  case 8:
    invent(l, 1 + (int)random_below(3));
    break;
  case 9:
    invent(l, random_one_in(3) ? 20000 : 500);
    break;
  case 10: /* torn, and sometimes never whole */
    pass(l, frame, n / 2, nfds);
    usleep(1000 * random_below(50));
    if (random_one_in(3))
      hang_up(l);
    else
      pass(l, frame + n / 2, n - n / 2, 0);
    return;
  case 11:
    send_stranger(l, frame, n);
    drop_fds(l, nfds);
    return;
  case 12:
    usleep(1000 * random_below(300));
    break;
  default:
    if (random_one_in(3)) {
      hang_up(l);
      return;
    }
    if (random_one_in(4))
      kill(real_pid, SIGKILL);
    if (random_one_in(4))
      shutdown(l->to, SHUT_WR);
  }
  if (l->to >= 0)
    pass(l, frame, n, nfds);
}

/* ---- in ---- */

static int known(const struct line *l, unsigned type) {
  if (l->downwards)
    return (type >= CMD_SETUP && type <= CMD_LAST + 8) ||
           (type >= RPC_CALL && type <= RPC_REQUEST_LAST + 4);
  return (type >= ANS_HELLO && type <= ANS_LAST + 8) ||
         (type >= RPC_HELLO && type <= RPC_ANSWER_LAST + 4);
}

static void pass_frames(struct line *l) {
  size_t at = 0;
  while (!l->raw && l->from >= 0 && l->n - at >= FRAME_HEADER_SIZE) {
    struct frame f;
    unsigned char *frame = l->data + at;
    if (frame_decode(&f, frame, 1, 255) < 0 || !known(l, f.type) || f.nfds > l->nfds) {
      l->raw = 1;
      break;
    }
    size_t whole = FRAME_HEADER_SIZE + f.length;
    if (l->n - at < whole)
      break;
    if (l->downwards && f.type == CMD_FORK && f.nfds > 0)
      step_between(&l->fds[0]);
    if (l->wildness && random_one_in((uint32_t)l->wildness))
      lie(l, frame, whole, f.nfds);
    else
      pass(l, frame, whole, f.nfds);
    at += whole;
  }
  if (l->raw && l->n > at && l->from >= 0) {
    pass(l, l->data + at, l->n - at, l->nfds);
    at = l->n;
  }
  l->n -= at;
  memmove(l->data, l->data + at, l->n);
}

static void receive(struct line *l) {
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(FDS * sizeof(int))];
  } control;
  struct iovec iov = {l->data + l->n, BUFFER - l->n < CHUNK ? BUFFER - l->n : CHUNK};
  struct msghdr m = {.msg_iov = &iov,
                     .msg_iovlen = 1,
                     .msg_control = &control,
                     .msg_controllen = sizeof control};
  ssize_t n = recvmsg(l->from, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  for (struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&m) : NULL; c; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
      continue;
    int count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    for (int i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + (size_t)i * sizeof fd, sizeof fd);
      if (l->nfds < 2 * FDS)
        l->fds[l->nfds++] = fd;
      else
        close(fd);
    }
  }
  if (n <= 0) {
    hang_up(l);
    return;
  }
  l->n += (size_t)n;
  pass_frames(l);
}

static void reap_children(void) {
  int kept = 0;
  for (int i = 0; i < nlines; i++) {
    struct line *l = lines[i];
    if (l->from >= 0) {
      lines[kept++] = l;
      continue;
    }
    drop_fds(l, l->nfds);
    free(l->data);
    free(l);
  }
  nlines = kept;
}

static _Noreturn void relay(void) {
  while (nlines > 0) {
    static struct pollfd p[LINES];
    int n = nlines;
    for (int i = 0; i < n; i++)
      p[i] = (struct pollfd){.fd = lines[i]->from, .events = POLLIN};
    if (poll(p, (nfds_t)n, -1) < 0)
      continue;
    for (int i = 0; i < n; i++)
      if (p[i].revents && lines[i]->from >= 0)
        receive(lines[i]);
    reap_children();
  }
  _exit(0);
}

static _Noreturn void be_hostile(int control, int real) {
  const char *seed = getenv("HOSTILE_SEED");
  struct stat st;
  fstat(control, &st); /* a number of its own for each of a round's programs */
  random_seed((seed ? strtoull(seed, NULL, 10) : 1) * 1000 + (uint64_t)st.st_ino % 1000);
  signal(SIGPIPE, SIG_IGN);
  alarm(LIFE_S);
  connect_ends(control, real);
  relay();
}

int main(int argc, char **argv) {
  const char *program = getenv("HOSTILE_REAL");
  int pair[2], control = PROTO_BOOT_CONTROL_FD;
  if (argc < 2 || !program) {
    fprintf(stderr, "hostile: is started by drive\n");
    return 2;
  }
  if (fcntl(control, F_GETFD) < 0 ||
      socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
    return 1;
  real_pid = getpid();
  pid_t pid = fork();
  if (pid < 0)
    return 1;
  if (pid == 0) {
    close(pair[1]);
    close(PROTO_BOOT_LEASH_FD);
    fcntl(control, F_SETFD, FD_CLOEXEC);
    be_hostile(control, pair[0]);
  }
  dup2(pair[1], control);
  execv(program, argv);
  _exit(127);
}
