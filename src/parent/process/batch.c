/* A fork command under construction, and its sending. Runs in the parent. */
#include "parent/process/internal.h"

#include "os/proc.h"
#include "parent/process/children.h"
#include "parent/process/journal.h"
#include "parent/process/process_trace.h"
#include <errno.h>
#include <string.h>

enum {
  BATCH_BYTES_MAX = 64 * 1024,
  FORK_FDS_OWN = 3 /* its socket, two of a step of slots */
};

int batch_new(struct context *ctx, const mf_options *o, struct batch **ret) {
  struct batch *batch = blockpool_take(&registry_of(ctx)->batches, sizeof *batch);
  int r;
  if (!batch)
    return MF_ENOMEM;
  buf_init(&batch->options, PROTO_PAYLOAD_MAX); /* long ones go in parts */
  buf_init(&batch->commands, FRAME_BODY_MAX);
  buf_lend(&batch->options, batch->room[0], BATCH_ROOM);
  buf_lend(&batch->commands, batch->room[1], BATCH_ROOM);
  fdset_init(&batch->fds);
  r = options_encode(o, 0, &batch->options, &batch->fds);
  if (r) {
    batch_free(ctx, batch);
    return r;
  }
  *ret = batch;
  return 0;
}

void batch_free(struct context *ctx, struct batch *batch) {
  if (!batch)
    return;
  buf_deinit(&batch->options);
  buf_deinit(&batch->commands);
  fdset_close(&batch->fds);
  blockpool_give(&registry_of(ctx)->batches, batch);
}

/* Before it can be in its function, which may send some at once. */
void process_open_to_fds(struct mf_process *p) {
  if (!p->refuses_fds)
    channel_accept_fds(&p->chan);
}

/* Whether clones of it can be our children: it is one itself, as far as we know. One that
 * was taken up knows it before we do, and forks by itself where it is not. */
static int may_have_siblings(const struct mf_process *source) {
  if (source->no_siblings)
    return 0;
  return source->pid <= 0 || source->ours || source->far;
}

static int put_number(struct buf *out, unsigned tag, uint32_t a, const uint32_t *b) {
  int r = buf_put_u8(out, tag);
  if (!r)
    r = buf_put_u32(out, b ? 8 : 4);
  if (!r)
    r = buf_put_u32(out, a);
  return r || !b ? r : buf_put_u32(out, *b);
}

/* The slot of the new process, and what its template needs to know of it. -ENOSYS: none.
 */
static int put_slot(struct mf_process *p, struct mf_process *source, struct buf *options,
                    struct fdset *fds) {
  uint32_t first, count;
  int step[2], r, late;
  r = births_take(&source->own_births, p->context->backend, source->far, &p->slot, &late);
  if (r < 0)
    return r;
  children_late(&registry_of(p->context)->children, late);
  p->births = births_hold(source->own_births);
  process_far_mark_tree(p);
  r = births_step(p->births, p->slot, &first, &count, step);
  if (r < 0)
    return r;
  if (r > 0) {
    fdset_push(fds, step[0]);
    fdset_push(fds, step[1]);
    r = put_number(options, OPT_SLOT_STEP, first, &count);
    if (r < 0)
      return r;
  }
  return put_number(options, OPT_SLOT, p->slot, NULL);
}

/* A slot where the clone can be our child; and its own word where the slot is not enough:
 * we don't know yet whether that works there, or this host reaps what comes. near_fd: our
 * end of its socket. */
static int place_birth(struct mf_process *p, struct mf_process *source,
                       struct buf *options, int near_fd, struct fdset *fds) {
  struct backend *s = p->context->backend;
  int r = may_have_siblings(source) ? put_slot(p, source, options, fds) : -ENOSYS;
  if (r < 0 && r != -ENOSYS)
    return r;
  if (r == 0 && source->proven && (source->far || !s->ops->is_careless(s)))
    return 0;
  p->takes_word = !source->far && channel_ask_writer(&p->chan, s, near_fd) < 0;
  p->expects_hello = 1;
  r = buf_put_u8(options, OPT_INTRODUCE);
  if (!r)
    r = buf_put_u32(options, 1);
  return r ? r : buf_put_u8(options, 1);
}

static int put_commands(struct batch *batch) {
  if (!buf_size(&batch->commands))
    return 0;
  int r = buf_put_u8(&batch->options, OPT_COMMANDS);
  return r ? r
           : buf_put_str(&batch->options, buf_peek(&batch->commands),
                         buf_size(&batch->commands));
}

/* A fork with its function, of the far template: without a socket, which is made when the
 * clone says something (far_fork). */
static int may_fork_early(const struct mf_process *p, const struct mf_process *source,
                          const struct batch *batch) {
  enum { TAGS = 16 }; /* of commands and slot */
  size_t size =
      FRAME_HEADER_SIZE + buf_size(&batch->options) + buf_size(&batch->commands);
  return p->far && !source->was_asked && p->finish.kind == FINISH_RUN &&
         batch->fds.n == 0 && source->proven && births_are_known(source->own_births) &&
         source->chan.fd >= 0 && channel_written(&source->chan) &&
         far_fork_may(p->far, size + TAGS, source->chan.nwritten);
}

/* 1: it has gone; 0: the near end does not take it now; or -errno. */
static int fork_early(struct mf_process *p, struct mf_process *source,
                      struct batch *batch) {
  unsigned char header[FRAME_HEADER_SIZE];
  size_t commands = buf_size(&batch->commands);
  int r = put_commands(batch);
  if (r < 0)
    return r;
  buf_consume(&batch->commands, commands);
  size_t n = buf_size(&batch->options);
  struct frame f = {.type = CMD_FORK, .nfds = 1, .id = p->id, .length = (uint32_t)n};
  f.flags = far_fork_is_row(p->far) ? FRAME_ROW : 0;
  struct process_command fork = {
      .type = CMD_FORK, .id = p->id, .body = buf_peek(&batch->options), .length = n};
  frame_encode(header, &f);
  struct link_fork command = {.command = header, .n = sizeof header};
  births_place(p->births, p->slot, &command.table, &command.index);
  if (far_fork(p->far, &p->far_fork, &command, fork.body, n) < 0)
    return 0;
  far_fork_attend(p->far, &p->far_fork, p->attended);
  process_open_to_fds(p);
  p->is_early = 1;
  p->was_asked = 1;
  p->fork_number = ++source->nsent;
  process_trace_command(source, &fork);
  if (p->state == BATCHED)
    process_enter(p, FORKING);
  process_ask(source, p);
  return 1;
}

static void refuse_fork(struct mf_process *p, int error, const char *what, int r) {
  p->fork_refused = 1;
  process_fail(p, error, MF_STARTED_NO, NULL, "%s: %s", what, strerror(-r));
  process_die(p);
}

/* pair: the sockets of the new process, taken, also on failure. placed: place_birth was
 * called before, and gave these. */
static int send_fork(struct mf_process *p, struct mf_process *source, struct batch *batch,
                     int pair[2], struct fdset *placed) {
  struct backend *s = p->context->backend;
  struct process_command fork = {.type = CMD_FORK, .id = p->id};
  struct fdset fds;
  int r;
  fdset_init(&fds);
  if (pair[1] >= 0)
    fdset_push(&fds, pair[1]);
  r = p->is_thread ? process_thread_begin(p, &fds)
      : placed     ? 0
                   : place_birth(p, source, &batch->options, pair[0], &fds);
  for (int i = 0; placed && i < placed->n; i++)
    fdset_push(&fds, fdset_steal(placed, i));
  for (int i = 0; i < batch->fds.n; i++)
    fdset_push(&fds, fdset_steal(&batch->fds, i));
  if (!r && p->connects)
    r = put_number(&batch->options, OPT_CONNECTION, source->listener.nmade, NULL);
  if (!r)
    r = put_commands(batch);
  fork.body = buf_peek(&batch->options);
  fork.length = buf_size(&batch->options);
  fork.fds = &fds;
  if (p->state == BATCHED)
    process_enter(p, FORKING);
  if (p->finish.kind == FINISH_RUN)
    process_open_to_fds(p);
  if (!r) /* first, so that its socket is guarded before anybody can write to it */
    r = process_connect(p, pair[0]);
  else
    s->ops->close(s, &pair[0]);
  if (!r)
    r = command_send(source, &fork);
  else
    fdset_close(&fds);
  return r;
}

static void fork_was_sent(struct mf_process *p, struct mf_process *source) {
  int runs = p->finish.kind == FINISH_RUN;
  p->fork_number = source->nsent;
  p->fork_end = channel_end(&source->chan);
  p->was_asked = 1;
  process_ask(source, p);
  if (p->is_thread && runs)
    busy_wait_expect(&p->context->busy_wait, proc_now_ns());
  if (runs && p->births)
    process_await_word(source);
  if (p->is_thread && !runs) /* else its answer comes first */
    process_watch_end(p);
}

/* 0 or -errno; then p has failed. */
static int fork_with_a_socket(struct mf_process *p, struct mf_process *source,
                              struct batch *batch, struct fdset *placed) {
  struct backend *s = p->context->backend;
  int pair[2] = {listener_connect(p, source), -1};
  int r = pair[0] >= 0 ? 0 : s->ops->pair(s, pair);
  if (r == 0 && p->far) { /* it is the near end's alone, which may splice into it then */
    (void)s->ops->unblock(s, pair[1]);
    p->far_cookie = s->ops->cookie ? s->ops->cookie(s, pair[1]) : 0;
  }
  if (r < 0) {
    refuse_fork(p, MF_EFORK_FAILED, "the socket of the new process can't be made", r);
    return r;
  }
  r = send_fork(p, source, batch, pair, placed);
  if (r < 0)
    refuse_fork(p, r == -ENOMEM ? MF_ENOMEM : MF_EFORK_FAILED,
                "the fork command can't be sent", r);
  else
    fork_was_sent(p, source);
  return r;
}

static int send_batch(struct mf_process *p, struct mf_process *source,
                      struct batch *batch) {
  struct fdset placed;
  fdset_init(&placed);
  if (!may_fork_early(p, source, batch))
    return fork_with_a_socket(p, source, batch, NULL);
  int r = place_birth(p, source, &batch->options, -1, &placed);
  if (r == 0 && placed.n == 0)
    r = fork_early(p, source, batch);
  if (r < 0)
    refuse_fork(p, r == -ENOMEM ? MF_ENOMEM : MF_EFORK_FAILED,
                "the fork command can't be made", r);
  else if (r == 0)
    r = fork_with_a_socket(p, source, batch, &placed);
  fdset_close(&placed);
  return r < 0 ? r : 0;
}

/* Writes the batched fork of p. */
void process_flush(struct mf_process *p) {
  if (p->chan.corked) { /* a spare that was taken: what it got goes in one message */
    p->chan.corked = 0;
    task_clear(&p->write);
    channel_flush(&p->chan);
    context_spare_turn(p->context);
    return;
  }
  struct mf_process *source = p->source;
  struct batch *batch = p->batch;
  struct context *ctx = p->context;
  if (!batch)
    return;
  p->batch = NULL;
  task_clear(&p->write);
  if (p->state == BATCHED)
    journal_batch(&p->journal, batch);
  if (source && source->batched_child == p)
    source->batched_child = NULL;
  if (source && source->batch)
    process_flush(source);
  int goes = source && !source->error && source->state != DEAD;
  int r = goes ? send_batch(p, source, batch) : 0;
  batch_free(ctx, batch);
  if (!goes) {
    process_never_starts(p);
  } else if (r == 0) {
    process_update(source);
    process_update(p);
    context_spare_turn(ctx);
  }
}

void process_on_write(struct task *t) {
  process_flush(list_entry(t, struct mf_process, write));
}

int process_fork_running(struct mf_process *p, struct mf_process **ret, struct buf *body,
                         struct fdset *fds) {
  struct backend *b = p->context->backend;
  struct mf_process *q;
  int pair[2], r = b->ops->pair(b, pair);
  if (r < 0)
    return r;
  fdset_push(fds, pair[1]);
  q = process_new(p->context, FORKING);
  if (q) {
    q->tree = p->tree;
    q->leash = p->leash;
    if (p->far)
      process_far_join(q, far_link_hold(p->far));
  }
  r = q ? place_birth(q, p, body, pair[0], fds) : -ENOMEM;
  if (!r)
    r = process_connect(q, pair[0]);
  else
    b->ops->close(b, &pair[0]);
  if (r < 0) {
    fdset_close(fds);
    if (q)
      process_abandon(q);
    return r == -ENOMEM ? MF_ENOMEM : r;
  }
  process_set_source(q, p);
  q->fork_number = ++p->nsent;
  q->was_asked = 1;
  process_ask(p, q);
  process_update(q);
  *ret = q;
  return 0;
}

/* The process that p forked under that number, and that it has not told of yet. */
static struct mf_process *asked_of(struct mf_process *p, uint64_t id) {
  list_each(it, &p->asked) {
    struct mf_process *q = list_entry(it, struct mf_process, ask_link);
    if (q->id == id)
      return q;
  }
  return NULL;
}

void process_forked_running(struct mf_process *p, uint64_t id) {
  struct mf_process *q = asked_of(p, id);
  if (q)
    process_advance(p, q->fork_number);
}

void process_fork_denied(struct mf_process *p, uint64_t id, const void *body,
                         size_t length) {
  struct frame f = {
      .type = ANS_FORK_FAILED, .id = id, .body = body, .length = (uint32_t)length};
  struct mf_process *q = asked_of(p, id);
  if (!q)
    return;
  process_answered(q);
  process_event(q, &(struct event){EV_FORK_FAILED, .frame = &f});
  process_confirm_forks(p);
}

void process_flush_child(struct mf_process *p) {
  if (p->batched_child)
    process_flush(p->batched_child);
}

/* Adds a command to the batched fork: 1 when there was room. */
int batch_join(struct mf_process *p, const struct process_command *c) {
  struct batch *batch = p->batch;
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f = {.type = (uint8_t)c->type, .id = c->id};
  int n = c->fds ? c->fds->n : 0, i;
  size_t size = buf_size(&batch->commands) + buf_size(&batch->options);
  if (c->length > BATCH_BYTES_MAX ||
      size + c->length + FRAME_HEADER_SIZE > BATCH_BYTES_MAX ||
      FORK_FDS_OWN + batch->fds.n + n > FRAME_FDS_MAX)
    return 0;
  f.length = (uint32_t)c->length;
  f.nfds = (uint8_t)n;
  frame_encode(header, &f);
  if (!buf_reserve(&batch->commands, FRAME_HEADER_SIZE + c->length))
    return 0;
  buf_put(&batch->commands, header, sizeof header);
  if (c->length)
    buf_put(&batch->commands, c->body, c->length);
  for (i = 0; i < n; i++)
    fdset_push(&batch->fds, fdset_steal(c->fds, i));
  if (c->release)
    c->release(c->release_data);
  p->nwork = ++p->nsent;
  return 1;
}
