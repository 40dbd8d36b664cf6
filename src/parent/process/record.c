/* One record: made, connected, parked, freed. Runs in the parent. */
#include "parent/process/internal.h"

#include "parent/process/children.h"
#include "parent/process/journal.h"
#include "parent/times.h"
#include <assert.h>
#include <signal.h>
#include <stdlib.h>

struct mf_process *process_new(struct context *ctx, enum state state) {
  struct mf_process *p = calloc(1, sizeof *p);
  if (!p)
    return NULL;
  p->context = ctx;
  p->state = state;
  p->made_ms = p->state_since_ms = context_now_ms(ctx);
  p->pid = p->pidfd = p->peer_pidfd = -1;
  p->finish.fd = -1;
  p->open = 1;
  list_init(&p->forks);
  list_init(&p->fork_link);
  list_init(&p->post_link);
  list_init(&p->todo_link);
  list_init(&p->held_link);
  list_init(&p->asked);
  list_init(&p->ask_link);
  list_init(&p->more_link);
  list_init(&p->closing_link);
  list_init(&p->free_link);
  list_init(&p->memory);
  deadline_init(&p->refill, spares_on_refill);
  list_init(&p->spares);
  list_init(&p->spare_link);
  process_listen(p);
  p->id = ctx->next_id++;
  if (context_insert(ctx, p) < 0) {
    free(p);
    return NULL;
  }
  list_push(&ctx->processes, &p->link);
  ctx->nopen++;
  if (!list_empty(&ctx->closing)) /* the loop will not be empty: they are told without */
    context_turn(ctx);
  return p;
}

void process_close_pidfd(struct mf_process *p) {
  struct backend *s = p->context->backend;
  if (p->peer_pidfd >= 0)
    s->ops->close_pidfd(s, &p->peer_pidfd);
  s->ops->watch(s, &p->pid_watch, p->pidfd, 0);
  if (p->pidfd >= 0)
    s->ops->close_pidfd(s, &p->pidfd);
}

void process_forget_source(struct mf_process *p) {
  struct mf_process *source = p->source;
  if (!source)
    return;
  p->source = NULL;
  if (source->held_child == p)
    source->held_child = NULL;
  list_remove(&p->fork_link);
  list_remove(&p->ask_link);
  process_release(source);
}

/* Our child is reaped at its end, by whoever. */
static void leave_child(struct mf_process *p) {
  if (p->child && p->pid > 0)
    children_orphan(p->context, p->pid);
  p->child = 0;
}

/* A slot whose process may still be born is looked after by the context. */
static void leave_slot(struct mf_process *p) {
  struct births *b = p->births;
  p->births = NULL;
  if (!b)
    return;
  if (p->pid > 0 || p->fork_refused || p->state == HELD) {
    births_put(b, p->slot);
    births_drop(&b);
  } else {
    children_unborn(p->context, b, p->slot);
  }
}

void process_free(struct mf_process *p) {
  struct context *ctx = p->context;
  if (p->busy)
    context_count_busy(ctx, -1);
  leave_child(p);
  leave_slot(p);
  process_forget_memory(p);
  process_forget_source(p);
  deadline_clear(&p->limit);
  deadline_clear(&p->response_timeout);
  deadline_clear(&p->retry);
  deadline_clear(&p->refill);
  list_remove(&p->spare_link);
  process_close_pidfd(p);
  channel_close(&p->chan);
  if (p->finish.fd >= 0)
    ctx->backend->ops->close(ctx->backend, &p->finish.fd);
  hold_free(p->hold);
  journal_drop(&p->journal);
  births_drop(&p->own_births);
  failure_free(p->error);
  free(p->exit_text);
  free(p->name);
  free(p->program);
  list_remove(&p->post_link);
  list_remove(&p->todo_link);
  list_remove(&p->ask_link);
  list_remove(&p->more_link);
  list_remove(&p->held_link);
  list_remove(&p->closing_link);
  list_remove(&p->free_link);
  list_remove(&p->link);
  context_remove(ctx, p);
  free(p);
}

/* Marks a record to be freed that nothing needs any more: no handle, nobody whom it has
 * forked, and nothing to come that matters. The context frees it when no event is under
 * way.
 */
void process_release(struct mf_process *p) {
  if (p->open || p->internal || !list_empty(&p->forks) || p->pending ||
      !list_empty(&p->closing_link))
    return;
  if (p->state != DEAD && p->state != RUNNING && p->state != GIVEN)
    return;
  if (p->child && p->state != DEAD && p->context->nopen && !p->context->stopping)
    return; /* while we are on the loop anyway, a child of ours is reaped when it ends */
  if (!list_empty(&p->free_link))
    return;
  list_push(&p->context->to_free, &p->free_link);
  context_turn(p->context);
}

void process_set_source(struct mf_process *p, struct mf_process *source) {
  assert(!p->source);
  p->source = source;
  list_push(&source->forks, &p->fork_link);
}

int process_connect(struct mf_process *p, int fd) {
  return channel_open(&p->chan, p->context->backend, fd);
}

void process_enter(struct mf_process *p, enum state state) {
  p->state = state;
  p->state_since_ms = context_now_ms(p->context);
  if (state != HELD && state != FORKING && state != SERVING && state != FAILED &&
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
  if (limit_ms)
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
  struct backend *s = ctx->backend;
  deadline_clear(&p->limit);
  deadline_clear(&p->response_timeout);
  deadline_clear(&p->retry);
  deadline_clear(&p->refill);
  if (ctx->def == p && !p->error &&
      !p->unstarted) { /* one that waits to be started can go */
    channel_park(&p->chan);
    s->ops->watch(s, &p->pid_watch, p->pidfd, 0);
    return;
  }
  if (ctx->def == p)
    ctx->def = NULL;
  if (p->hung_up && p->state == ENDING && !p->gone)
    process_kill(p, SIGKILL); /* nobody will look after it any more */
  process_enter(p, DEAD);
  if (list_empty(&p->closing_link)) {
    process_free(p);
    return;
  }
  /* Only the close callback is left. */
  leave_child(p);
  leave_slot(p);
  list_remove(&p->link);
  process_forget_source(p);
  process_close_pidfd(p);
  channel_close(&p->chan);
}
