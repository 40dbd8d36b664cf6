#include "process_sim_model.h"

#include "help/hello.h"
#include <signal.h>
#include <string.h>

uint32_t rnd(struct world *w, uint32_t n) {
  w->rng ^= w->rng << 13;
  w->rng ^= w->rng >> 17;
  w->rng ^= w->rng << 5;
  return w->rng % n;
}

struct node *node_by_pid(struct world *w, int pid) {
  for (int i = 0; i < w->nnode; i++)
    if (w->node[i].pid == pid)
      return &w->node[i];
  return NULL;
}

struct node *node_new(struct world *w, int far, uint64_t id) {
  struct node *n;
  if (w->nnode == NODES)
    return NULL;
  n = &w->node[w->nnode++];
  memset(n, 0, sizeof *n);
  n->used = 1;
  n->far = far;
  n->id = id;
  n->pid = w->sim->next_pid++;
  buf_init(&n->inner, 1 << 20);
  return n;
}

void node_die(struct world *w, struct node *n, int status) {
  int has_returned = n->phase == N_RETURNED;
  n->phase = N_DEAD;
  n->status = status;
  if (has_returned && w->rng % 2)
    n->copied = n->far;
  else if (n->far >= 0)
    sim_hang_up(w->sim, n->far);
  n->far = -1;
  sim_end_process(w->sim, n->pid, status);
}

static void answer_failure(struct world *w, struct node *n, unsigned type, uint64_t id) {
  struct buf b;
  buf_init(&b, 1000);
  buf_put_u8(&b, FAILURE_REMOTE);
  buf_put_u8(&b, PHASE_EVAL);
  buf_put_u16(&b, 0);
  buf_put_u32(&b, 0);
  buf_put_str(&b, "no luck", 7);
  buf_put_str(&b, NULL, 0);
  sim_answer(w->sim, n->far, type, id, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
}

/* Where the number is to stand there stands another: one of nobody, or of a sibling. */
static void lie(struct world *w, struct node *n, struct node *child) {
  uint32_t pids[] = {(uint32_t)SIM_FDS - 1, 0xffffffffu,
                     (uint32_t)w->node[rnd(w, (uint32_t)w->nnode)].pid};
  for (int i = 0; i < w->sim->nslots; i++)
    for (uint32_t k = 0; w->sim->slots[i].far == n->far && k < w->sim->slots[i].count;
         k++)
      if (w->sim->slots[i].births[k] == (uint32_t)child->pid)
        w->sim->slots[i].births[k] = pids[rnd(w, 3)];
}

static void do_fork(struct world *w, struct node *n, struct frame *f, int *fds) {
  unsigned char hello[HELLO_ROOM];
  struct reader r;
  struct node *child;
  int i, introduces = 0, sibling;
  child = rnd(w, 8) ? node_new(w, fds[0], f->id) : NULL;
  if (!child) {
    for (i = 0; i < f->nfds; i++)
      sim_hang_up(w->sim, fds[i]);
    answer_failure(w, n, ANS_FORK_FAILED, f->id);
    return;
  }
  reader_init(&r, f->body, f->length);
  while (reader_left(&r)) {
    unsigned tag = reader_u8(&r);
    size_t len;
    const char *value = reader_str(&r, &len);
    CHECK(r.ok);
    if (tag == OPT_COMMANDS)
      buf_put(&child->inner, value, len);
    introduces |= tag == OPT_INTRODUCE;
  }
  sibling = !n->no_siblings && sim_fork(w->sim, n->far, f, fds, child->pid);
  if (!sibling) {
    w->sim->fd[fds[0]].pid = child->pid;
    for (i = 1; i < f->nfds; i++)
      sim_hang_up(w->sim, fds[i]);
  }
  child->no_siblings = !sibling;
  if (n->lies)
    lie(w, n, child);
  if (!sibling || introduces)
    sim_answer(w->sim, child->far, ANS_HELLO, (uint64_t)child->pid, hello,
               hello_body(hello, 0));
  else if (n->told + 1 == n->executed && buf_size(&child->inner))
    n->told++; /* its *running* tells */
  if (sibling && !introduces)
    child->returned = sim_returned(w->sim, n->far, f);
}

static int next_command(struct world *w, struct node *n, struct frame *f, int *fds) {
  static unsigned char body[FRAME_BODY_MAX];
  n->is_inner = buf_size(&n->inner) > 0;
  if (!n->is_inner)
    return sim_command(w->sim, n->far, f, fds);
  CHECK(frame_decode(f, buf_peek(&n->inner), CMD_SETUP, CMD_LAST) == 0);
  for (int i = 0; i < f->nfds; i++)
    fds[i] = -1; /* the test's own, which came with the fork */
  memcpy(body, buf_peek(&n->inner) + FRAME_HEADER_SIZE, f->length);
  f->body = body;
  buf_consume(&n->inner, FRAME_HEADER_SIZE + f->length);
  return 1;
}

static void do_run(struct world *w, struct node *n) {
  if (rnd(w, 6) == 0) {
    answer_failure(w, n, ANS_FAILED, n->executed);
    n->phase = N_FAILED;
    return;
  }
  if (w->sim->fd[w->sim->fd[n->far].peer].closed ||
      w->sim->fd[w->sim->fd[n->far].peer].refused) { /* hung up: nothing starts */
    node_die(w, n, 0);
    return;
  }
  n->phase = N_RUNNING;
  n->ran = 1;
  if (n->returned && n->is_inner && w->returns && rnd(w, 2)) {
    *n->returned = n->id;
    n->phase = N_RETURNED;
    return;
  }
  sim_answer(w->sim, n->far, ANS_RUNNING, (uint64_t)n->pid, NULL, 0);
  sim_bytes(w->sim, n->far, "user bytes that look like DONE", 31);
}

static void do_command(struct world *w, struct node *n) {
  unsigned char hello[HELLO_ROOM];
  struct frame f;
  int fds[SIM_QUEUE], i;
  if (!next_command(w, n, &f, fds)) {
    if (n->told < n->executed)
      sim_answer(w->sim, n->far, ANS_DONE, n->told = n->executed, NULL, 0);
    return;
  }
  if (n->phase != N_SERVING) { /* drained */
    for (i = 0; i < f.nfds; i++)
      sim_hang_up(w->sim, fds[i]);
    return;
  }
  n->executed++;
  switch (f.type) {
  case CMD_SETUP:
  case CMD_WHO:
    sim_answer(w->sim, n->far, ANS_HELLO, (uint64_t)n->pid, hello,
               hello_body(hello, n->executed - 1));
    break;
  case CMD_FORK:
    do_fork(w, n, &f, fds);
    break;
  case CMD_RUN:
    do_run(w, n);
    break;
  case CMD_CLOSE:
    n->phase = N_CLOSING;
    sim_answer(w->sim, n->far, ANS_DONE, n->told = n->executed, NULL, 0);
    break;
  case CMD_EVAL:
    if (rnd(w, 12) == 0) {
      answer_failure(w, n, ANS_FAILED, n->executed);
      n->phase = N_FAILED;
    }
    break;
  case CMD_MEMORY: {
    unsigned char body[48] = {0};
    sim_answer(w->sim, n->far, ANS_MEMORY, f.id, body, sizeof body);
    break;
  }
  default:
    for (i = 0; i < f.nfds; i++)
      sim_hang_up(w->sim, fds[i]);
  }
}

static int parent_gone(struct world *w, struct node *n) {
  return n->far < 0 || w->sim->fd[w->sim->fd[n->far].peer].closed;
}

void node_step(struct world *w, struct node *n) {
  uint32_t dice = rnd(w, 100);
  if (n->phase == N_DEAD) {
    if (n->copied && dice < 2) {
      sim_hang_up(w->sim, n->copied);
      n->copied = 0;
    }
    return;
  }
  if (dice < 2) { /* killed, wherever it is */
    node_die(w, n, rnd(w, 2) ? SIGKILL : SIGSEGV);
    return;
  }
  if (n->phase == N_RUNNING) {
    if (dice < 20)
      node_die(w, n, (int)rnd(w, 256) << 8);
  } else if (n->phase != N_SERVING) {
    node_die(w, n, n->phase == N_FAILED ? 1 << 8 : 0);
  } else if (parent_gone(w, n) && buf_size(&n->inner) == 0 &&
             buf_size(&w->sim->fd[n->far].rx) == 0) {
    node_die(w, n, 0);
  } else {
    do_command(w, n);
  }
}
