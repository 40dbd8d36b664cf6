#include "far.h"
#include "hello.h"

#include "base/result.h"
#undef NDEBUG /* its asserts are part of the tests */
#include <assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static struct far_node *node_new(struct far *f, int pid, int fd, int parent,
                                 uint64_t id) {
  struct far_node *n = calloc(1, sizeof *n);
  assert(f->n < FAR_NODES);
  f->node[f->n++] = n;
  n->pid = pid;
  n->fd = fd;
  n->parent = parent;
  n->id = id;
  return n;
}

static void on_kill(struct sim *s, int pid, int signum) {
  struct far *f = s->far_data;
  if (signum == SIGKILL && f->nkilled < FAR_NODES)
    f->killed[f->nkilled++] = pid;
}

static void on_spawn(struct sim *s, int pid, int control) {
  node_new(s->far_data, pid, control, -1, 0);
}

struct far *far_new(struct sim *sim) {
  struct far *f = calloc(1, sizeof *f);
  f->sim = sim;
  sim->on_kill = on_kill;
  sim->on_spawn = on_spawn;
  sim->far_data = f;
  return f;
}

void far_free(struct far *f) {
  for (int i = 0; i < f->n; i++)
    free(f->node[i]);
  free(f);
}

static int index_of(struct far *f, struct far_node *n) {
  for (int i = 0; i < f->n; i++)
    if (f->node[i] == n)
      return i;
  return -1;
}

struct far_node *far_worker(struct far *f, int i) {
  for (int k = 0; k < f->n; k++)
    if (f->node[k]->kind == FAR_WORKER && i-- == 0)
      return f->node[k];
  return NULL;
}

int far_nworkers(struct far *f) {
  int n = 0;
  while (far_worker(f, n))
    n++;
  return n;
}

struct far_node *far_by_pid(struct far *f, int pid) {
  for (int k = 0; k < f->n; k++)
    if (f->node[k]->pid == pid)
      return f->node[k];
  return NULL;
}

/* ---- what is said ---- */

void far_say(struct far *f, struct far_node *n, unsigned type, uint64_t id,
             const void *body, size_t length) {
  if (n->fd >= 0)
    sim_answer(f->sim, n->fd, type, id, body, length);
}

static void say_buf(struct far *f, struct far_node *n, unsigned type, uint64_t id,
                    struct buf *b) {
  far_say(f, n, type, id, buf_peek(b), buf_size(b));
  buf_deinit(b);
}

static void say_hello(struct far *f, struct far_node *n) {
  struct buf b;
  buf_init(&b, 100);
  buf_put_u32(&b, RPC_MAGIC);
  buf_put_u16(&b, RPC_VERSION);
  buf_put_u16(&b, 0);
  buf_put_u64(&b, RPC_MESSAGE_MAX);
  say_buf(f, n, RPC_HELLO, 0, &b);
  n->hello = 1;
}

void far_ready(struct far *f, struct far_node *n) {
  if (!n->hello)
    say_hello(f, n);
  far_say(f, n, RPC_READY, 0, NULL, 0);
  n->ready = 1;
}

static void put_failure(struct buf *b, int entered) {
  buf_init(b, 1000);
  buf_put_u8(b, FAILURE_REMOTE);
  buf_put_u8(b, !entered);
  buf_put_u16(b, 0);
  buf_put_u32(b, 0);
  buf_put_str(b, "no luck", 7);
  buf_put_str(b, "traceback", 9);
  buf_put_str(b, "\x91\x2a", 2); /* 42 was raised */
}

void far_fail(struct far *f, struct far_node *n) {
  struct buf b;
  if (!n->hello)
    say_hello(f, n);
  put_failure(&b, 0);
  say_buf(f, n, RPC_FAILED, 0, &b);
  far_die(f, n, 1 << 8);
}

static uint64_t take_call(struct far_node *n, int i) {
  uint64_t id = n->call[i];
  size_t rest = (size_t)(--n->ncalls - i);
  memmove(&n->call[i], &n->call[i + 1], rest * sizeof n->call[0]);
  memmove(&n->word[i], &n->word[i + 1], rest * sizeof n->word[0]);
  memmove(&n->length[i], &n->length[i + 1], rest * sizeof n->length[0]);
  return id;
}

void far_result(struct far *f, struct far_node *n, int i, const char *text) {
  far_say(f, n, RPC_RESULT, take_call(n, i), text, strlen(text));
}

void far_error(struct far *f, struct far_node *n, int i, int entered) {
  struct buf b;
  put_failure(&b, entered);
  say_buf(f, n, RPC_ERROR, take_call(n, i), &b);
}

void far_die(struct far *f, struct far_node *n, int status) {
  if (n->kind == FAR_DEAD)
    return;
  n->kind = FAR_DEAD;
  if (n->fd >= 0)
    sim_hang_up(f->sim, n->fd);
  n->fd = -1;
  sim_end_process(f->sim, n->pid, status);
}

/* ---- what is read ---- */

/* The next whole frame in the bytes at *p. 1 when there was one. */
static int next_frame(const unsigned char **p, size_t *n, unsigned first, unsigned last,
                      struct frame *ret) {
  if (*n < FRAME_HEADER_SIZE)
    return 0;
  if (frame_decode(ret, *p, first, last) < 0)
    abort();
  if (*n < FRAME_HEADER_SIZE + ret->length)
    return 0;
  ret->body = *p + FRAME_HEADER_SIZE;
  *p += FRAME_HEADER_SIZE + ret->length;
  *n -= FRAME_HEADER_SIZE + ret->length;
  return 1;
}

static void execute(struct far *f, struct far_node *n, const struct frame *c,
                    const int *fds);

static void begin_run(struct far *f, struct far_node *n) {
  n->kind = FAR_WORKER;
  far_say(f, n, ANS_RUNNING, (uint64_t)n->pid, NULL, 0);
  if (!f->slow_hello)
    far_ready(f, n);
}

static void say_failure(struct far *f, struct far_node *n, unsigned type, uint64_t id) {
  struct buf b;
  buf_init(&b, 1000);
  buf_put_u8(&b, type == ANS_FAILED ? FAILURE_REMOTE : FAILURE_FORK);
  buf_put_u8(&b, PHASE_EVAL);
  buf_put_u16(&b, 0);
  buf_put_u32(&b, 0);
  buf_put_str(&b, "no luck", 7);
  buf_put_str(&b, "traceback", 9);
  say_buf(f, n, type, id, &b);
}

static int introduces(const struct frame *fork) {
  struct reader r;
  int found = 0;
  reader_init(&r, fork->body, fork->length);
  while (reader_left(&r)) {
    size_t n;
    found |= reader_u8(&r) == OPT_INTRODUCE;
    reader_str(&r, &n);
  }
  return found;
}

static void fork_node(struct far *f, struct far_node *n, const struct frame *c,
                      const int *fds) {
  unsigned char hello[HELLO_ROOM];
  struct far_node *child;
  struct reader r;
  struct frame inner;
  const unsigned char *p;
  size_t left;
  if (f->fork_failures) {
    f->fork_failures--;
    say_failure(f, n, n->kind == FAR_WORKER ? RPC_FORK_FAILED : ANS_FORK_FAILED, c->id);
    sim_hang_up(f->sim, fds[0]);
    return;
  }
  child = node_new(f, f->sim->next_pid++, fds[0], index_of(f, n), c->id);
  sim_fork(f->sim, n->fd, c, fds, child->pid);
  if (introduces(c))
    far_say(f, child, ANS_HELLO, (uint64_t)child->pid, hello, hello_body(hello, 0));
  reader_init(&r, c->body, c->length);
  while (reader_left(&r)) {
    unsigned tag = reader_u8(&r);
    p = (const unsigned char *)reader_str(&r, &left);
    if (tag != OPT_COMMANDS)
      continue;
    while (next_frame(&p, &left, CMD_SETUP, CMD_LAST, &inner))
      execute(f, child, &inner, NULL);
  }
}

static void evaluate(struct far *f, struct far_node *n, const struct frame *c) {
  struct reader r;
  const char *code;
  size_t length;
  reader_init(&r, c->body, c->length);
  reader_u32(&r);
  code = reader_str(&r, &length);
  if (f->broken_loads) {
    f->broken_loads--;
    say_failure(f, n, ANS_FAILED, n->executed + 1);
    n->failing = 1;
    return;
  }
  if (f->on_evaluated)
    f->on_evaluated(f, n, code, length);
}

static void execute(struct far *f, struct far_node *n, const struct frame *c,
                    const int *fds) {
  unsigned char hello[HELLO_ROOM];
  if (n->failing || n->kind == FAR_DEAD || (c->flags & FRAME_MORE))
    return; /* a body in parts counts once; nobody looks at it */
  switch (c->type) {
  case CMD_SETUP:
    far_say(f, n, ANS_HELLO, (uint64_t)n->pid, hello, hello_body(hello, 0));
    break;
  case CMD_FORK:
    fork_node(f, n, c, fds);
    break;
  case CMD_EVAL:
    evaluate(f, n, c);
    if (n->failing) {
      far_die(f, n, 1 << 8);
      return;
    }
    break;
  case CMD_RUN:
    begin_run(f, n);
    break;
  case CMD_CLOSE:
    far_die(f, n, 0);
    return;
  }
  n->executed++;
}

/* A copy of a worker; where forks fail, it says so. */
static void promote(struct far *f, struct far_node *n, const struct frame *c,
                    const int *fds) {
  int before = f->n;
  fork_node(f, n, c, fds);
  if (f->n > before)
    far_say(f, n, RPC_FORKED, c->id, NULL, 0);
}

static void hear(struct far *f, struct far_node *n, const struct frame *c,
                 const int *fds) {
  if (c->type == RPC_END)
    n->ended = 1;
  if (c->type == RPC_FORK)
    promote(f, n, c, fds);
  if ((c->type != RPC_CALL && c->type != RPC_CHUNK) || !c->id)
    return;
  assert(n->ncalls < FAR_CALLS);
  n->call[n->ncalls] = c->id;
  n->length[n->ncalls] = c->length;
  n->word[n->ncalls] = 0;
  memcpy(&n->word[n->ncalls], c->body, c->length < 8 ? c->length : 8);
  n->ncalls++;
  n->got++;
}

static void say_bye(struct far *f, struct far_node *n) {
  if (!n->ready)
    far_ready(f, n);
  far_say(f, n, RPC_BYE, 0, NULL, 0);
  far_die(f, n, 0);
}

int far_read(struct far *f, struct far_node *n) {
  int did = 0;
  if (n->fd < 0 || f->deaf)
    return 0;
  if (f->sim->fd[f->sim->fd[n->fd].peer].closed && !buf_size(&f->sim->fd[n->fd].rx)) {
    far_die(f, n, 0);
    return 1;
  }
  while (n->fd >= 0) {
    struct sim_fd *s = &f->sim->fd[n->fd];
    const unsigned char *p = buf_peek(&s->rx);
    size_t left = buf_size(&s->rx), had = left;
    int worker = n->kind == FAR_WORKER;
    struct frame c;
    unsigned char *copy;
    int fds[FRAME_FDS_MAX];
    if (!next_frame(&p, &left, worker ? RPC_CALL : CMD_SETUP,
                    worker ? RPC_REQUEST_LAST : CMD_LAST, &c))
      break;
    copy = malloc(c.length + 1);
    memcpy(copy, c.body, c.length);
    c.body = copy;
    did = 1;
    buf_consume(&s->rx, had - left);
    memcpy(fds, s->fds, sizeof fds[0] * c.nfds); /* received, whatever becomes of n */
    s->nfds -= c.nfds;
    memmove(s->fds, s->fds + c.nfds, sizeof fds[0] * (size_t)s->nfds);
    if (worker)
      hear(f, n, &c, fds);
    else
      execute(f, n, &c, fds);
    free(copy);
  }
  if (did && n->kind == FAR_TEMPLATE)
    far_say(f, n, ANS_DONE, n->executed, NULL, 0);
  if (n->kind == FAR_WORKER && n->ended && !n->ncalls)
    say_bye(f, n);
  return did;
}

int far_notice(struct far *f) {
  struct far_node *n;
  int did = 0;
  while (f->nkilled) {
    n = far_by_pid(f, f->killed[--f->nkilled]);
    if (n)
      far_die(f, n, SIGKILL);
    did = 1;
  }
  return did;
}

void far_run(struct far *f) {
  int did = 1;
  for (int round = 0; did; round++) {
    assert(round < 100000);
    did = far_notice(f);
    for (int i = 0; i < f->n; i++)
      did |= far_read(f, f->node[i]);
    did |= sim_step(f->sim);
  }
}

void far_advance(struct far *f, uint64_t ms) {
  far_run(f);
  f->sim->now_ms += ms;
  far_run(f);
}
