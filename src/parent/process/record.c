/* One record: made, connected, parked, freed. Runs in the parent. */
#include "parent/process/internal.h"

#include "base/result.h"
#include "parent/common/times.h"
#include "parent/process/children.h"
#include "parent/process/journal.h"
#include "parent/process/process_trace.h"
#include "wire/slot_layout.h"
#include <assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static void process_free(struct mf_process *p);

static void on_free(struct task *t) {
  process_free(list_entry(t, struct mf_process, free));
}

/* The loop has let go of everything, or goes on without this one. */
static void on_closed(struct task *t) {
  struct mf_process *p = list_entry(t, struct mf_process, closed);
  mf_close_cb cb = p->close_to.cb;
  p->close_to.cb = NULL;
  cb(p, p->close_to.data);
  if (list_empty(&p->link))
    process_free(p); /* the parking has taken it out */
  else
    process_release(p);
}

struct mf_process *process_new(struct context *ctx, enum process_state state) {
  struct blockpool *records = &registry_of(ctx)->records;
  children_adopt(&registry_of(ctx)->children);
  struct mf_process *p = blockpool_take(records, sizeof *p);
  if (!p)
    return NULL;
  memset(p, 0, sizeof *p);
  p->context = ctx;
  p->state = state;
  p->made_ms = p->state_since_ms = context_now_ms(ctx);
  p->pid = p->pidfd = p->peer_pidfd = -1;
  p->finish.fd = -1;
  p->open = 1;
  list_init(&p->forks);
  list_init(&p->fork_link);
  task_init(&p->write, process_on_write);
  task_init(&p->read, process_on_read);
  task_init(&p->tell, process_on_tell);
  task_init(&p->notify, process_on_notify);
  task_init(&p->free, on_free);
  task_init(&p->closed, on_closed);
  list_init(&p->asked);
  p->far_fork.fd = p->far_fork.dead = -1;
  list_init(&p->ask_link);
  list_init(&p->memory);
  list_init(&p->behind.link);
  deadline_init(&p->refill, spares_on_refill);
  list_init(&p->spares);
  list_init(&p->spare_link);
  process_listen(p);
  if (registry_add(p) < 0) {
    blockpool_give(records, p);
    return NULL;
  }
  ctx->nopen++;
  if (!list_empty(&ctx->phases[PHASE_CLOSED])) /* the loop will not be empty: they are
                                                  told without */
    context_turn(ctx);
  return p;
}

void process_close_pidfd(struct mf_process *p) {
  struct backend *s = p->context->backend;
  if (p->peer_pidfd >= 0)
    s->ops->close_now(s, &p->peer_pidfd);
  s->ops->watch(s, &p->pid_watch, p->pidfd, 0);
  if (p->pidfd >= 0)
    s->ops->close_now(s, &p->pidfd);
}

void process_forget_source(struct mf_process *p) {
  struct mf_process *source = p->source;
  if (!source)
    return;
  process_answered(p);
  p->source = NULL;
  if (source->batched_child == p)
    source->batched_child = NULL;
  list_remove(&p->fork_link);
  process_release(source);
}

/* Our child is reaped at its end, by whoever. */
static void leave_child(struct mf_process *p) {
  if (p->child && p->pid > 0)
    children_keep(&registry_of(p->context)->children, p->pid, p->tree);
  p->child = 0;
}

/* Its number is known, or it never comes to be. */
static int is_settled(const struct mf_process *p) {
  return p->pid > 0 || p->fork_refused || !p->was_asked;
}

/* It lives, or may still be born, and then forks what was asked of it: what stands in its
 * socket outlives our end of it. Who speaks for it need not be the one that was born: that
 * one's number stands in the slot. (Clones of what is no child of ours aren't either.) */
int process_may_fork(const struct mf_process *p) {
  struct backend *s = p->context->backend;
  if (p->far || p->is_thread)
    return 0;
  if (p->pid > 0 && p->ours)
    return !p->exit.known && s->ops->peek(s, p->pidfd, p->pid) == MF_AGAIN;
  if (!p->births || !p->was_asked)
    return 0;
  int is_born = births_pid(p->births, p->slot) > 0; /* though its template denies it */
  return is_born || (!p->fork_refused && !births_ended(p->births));
}

void process_end_births(struct mf_process *p) {
  struct children *c = &registry_of(p->context)->children;
  int awaited = p->own_births && !births_ended(p->own_births);
  births_end(p->own_births);
  children_sweep(c, p->own_births);
  if (awaited)
    children_look_for_births(c);
}

/* The slots that it may still fork into; NULL: none. */
static struct births *leave_births(struct mf_process *p) {
  struct births *own = p->own_births;
  if (own && !process_may_fork(p)) {
    process_end_births(p);
    births_drop(&own);
  }
  p->own_births = NULL;
  return own;
}

/* A slot whose process may still be born is looked after by the context, as is a birth
 * that nobody knows of: its process is our child all the same; and one whose process
 * lives, and may still write its last words there, or fork into its own ones. */
static void leave_slot(struct mf_process *p, struct births *own) {
  struct children *c = &registry_of(p->context)->children;
  struct births *b = p->births;
  int pid = b ? births_pid(b, p->slot) : 0;
  int is_itself = p->pid > 0 && pid == p->pid;
  p->births = NULL;
  if (p->pid > 0 && p->ours && (own || (is_itself && p->child))) {
    children_await_end(c, is_itself ? b : NULL, p->slot, p->pid, own);
    own = NULL;
    if (is_itself)
      return;
  }
  if (!b)
    return;
  if (p->far && !(is_settled(p) && (pid <= 0 || is_itself))) {
    births_drop(&b); /* a late birth there must not meet another process */
  } else if (!own && is_settled(p) && (pid <= 0 || is_itself)) {
    births_put(b, p->slot);
    births_drop(&b);
  } else { /* a lying template has forked twice, or although it says that it has not */
    children_await_birth(c, b, p->slot, p->tree, own);
  }
}

void process_leave(struct mf_process *p) {
  leave_slot(p, leave_births(p));
  leave_child(p);
}

static void process_free(struct mf_process *p) {
  struct context *ctx = p->context;
  if (p->busy)
    context_count_busy(ctx, -1);
  process_trace_forget(p);
  process_far_leave(p);
  process_leave(p);
  process_forget_memory(p);
  process_forget_source(p);
  deadline_clear(&p->limit);
  deadline_clear(&p->response_timeout);
  deadline_clear(&p->retry);
  deadline_clear(&p->refill);
  deadline_clear(&p->word_due);
  list_remove(&p->spare_link);
  process_close_pidfd(p);
  process_close_channel(p);
  if (p->finish.fd >= 0)
    ctx->backend->ops->close(ctx->backend, &p->finish.fd);
  if (p->last_words)
    ctx->backend->ops->unshare(ctx->backend, p->last_words, sizeof *p->last_words);
  batch_free(ctx, p->batch);
  journal_drop(&p->journal);
  list_remove(&p->behind.link);
  far_link_drop(&p->far);
  failure_free(p->error);
  free(p->exit_text);
  free(p->life);
  free(p->name);
  free(p->program);
  task_clear(&p->write);
  task_clear(&p->read);
  task_clear(&p->tell);
  task_clear(&p->notify);
  task_clear(&p->free);
  task_clear(&p->closed);
  process_unask(p);
  registry_remove(p);
  blockpool_give(&registry_of(ctx)->records, p);
}

/* Marks a record to be freed that nothing needs any more: no handle, nobody whom it has
 * forked, and nothing to come that matters. The context frees it when no event is under
 * way.
 */
void process_release(struct mf_process *p) {
  if (p->open || p->internal || !list_empty(&p->forks) || p->pending ||
      task_waits(&p->closed))
    return;
  if (p->state != DEAD && p->state != RUNNING && p->state != DETACHED)
    return;
  if (p->child && p->state != DEAD && p->context->nopen && !p->context->stopping)
    return; /* while we are on the loop anyway, a child of ours is reaped when it ends */
  if (p->is_thread && p->state != DEAD && !p->context->stopping)
    return; /* its template's process ends with it */
  if (!task_waits(&p->free))
    context_task(p->context, PHASE_FREE, &p->free);
}

void process_set_source(struct mf_process *p, struct mf_process *source) {
  assert(!p->source);
  if (source->far && !p->far)
    process_far_join(p, far_link_hold(source->far));
  p->source = source;
  p->told_round = source->tell_round;
  list_push(&source->forks, &p->fork_link);
  if (p->is_thread)
    ending_hold(p);
}

int process_connect(struct mf_process *p, int fd) {
  return channel_open(&p->chan, p->context->backend, fd);
}

void process_enter(struct mf_process *p, enum process_state state) {
  process_check_entry(p, state);
  p->state = state;
  p->state_since_ms = context_now_ms(p->context);
  process_trace_state(p);
  if (state == DEAD || state == FAILED || state == ENDING)
    ending_let_go(p);
  if (state != BATCHED && state != FORKING && state != SERVING && state != FAILED &&
      !p->fork_refused)
    journal_drop(&p->journal); /* nobody is forked from it any more */
}

void process_abandon(struct mf_process *p) {
  p->open = 0;
  p->context->nopen--;
  process_enter(p, DEAD);
  process_update(p);
  process_release(p);
}

void process_set_limit(struct mf_process *p, unsigned limit_ms) {
  p->limit_ms = limit_ms;
  if (limit_ms && p->state != DEAD) /* one forked ahead may be */
    deadline_set(&p->context->deadlines, &p->limit, limit_ms);
}

void process_unpark(struct mf_process *p) {
  if (channel_unpark(&p->chan) < 0)
    deadline_set(&p->context->deadlines, &p->retry,
                 STALL_RETRY_MS); /* flushing watches again */
  process_watch_end(p);
  if (p->greeting)
    process_await_hello(p);
}

void process_park(struct mf_process *p) {
  struct context *ctx = p->context;
  struct default_template *def = &registry_of(ctx)->def;
  struct backend *s = ctx->backend;
  deadline_clear(&p->limit);
  deadline_clear(&p->response_timeout);
  deadline_clear(&p->retry);
  deadline_clear(&p->refill);
  deadline_clear(&p->word_due);
  if (def->process == p && !p->error &&
      !p->unstarted) { /* one that waits to be started can go */
    channel_park(&p->chan);
    s->ops->watch(s, &p->pid_watch, p->pidfd, 0);
    return;
  }
  if (def->process == p)
    def->process = NULL;
  if (p->hung_up && p->state == ENDING && p->ending != END_BY_THREADS && !p->gone)
    process_kill(p, SIGKILL); /* nobody will look after it any more */
  process_enter(p, DEAD);
  if (!task_waits(&p->closed)) {
    process_free(p);
    return;
  }
  /* Only the close callback is left. */
  process_leave(p);
  list_remove(&p->link);
  process_forget_source(p);
  process_close_pidfd(p);
  process_close_channel(p);
  process_far_leave(p);
  list_remove(&p->behind.link);
  far_link_drop(&p->far);
}
