#include "parent/loop/context.h"

#include "os/fd.h"
#include "os/proc.h"
#include "parent/common/fork_watch.h"
#include "parent/private.h"
#include "wire/outbox.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

/* Every context of this process. Only the list is shared between threads; a context
 * belongs to its loop's thread. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list contexts = {&contexts, &contexts};

/* A loop needs four descriptors; the first of a process needs two more, and libuv ends
 * the process where it does not get them. */
enum { LOOP_DESCRIPTORS = 6 };

/* Of each phase in a turn. What a step costs: a fork to be written some 15 us, a fork
 * that is told 2 to 20 us, a record freed 2 us, a call 0.1 to 1 us, a deadline 0.2 to
 * 5 us, beside what callbacks do. */
static const unsigned steps_a_turn[PHASE_COUNT] = {
    [PHASE_WRITE] = 64,  [PHASE_READ] = 64,  [PHASE_TELL] = 64,   [PHASE_NOTIFY] = 512,
    [PHASE_WORK] = 1024, [PHASE_FREE] = 256, [PHASE_CLOSED] = 256};
enum { DUE_A_TURN = 256 }; /* deadlines */

/* Segments with descriptors of a dropped outbox that are dropped with it. */
enum { DROPPED_AT_ONCE = 64 };

static void on_begin(void *owner);
static void on_timer(void *owner);
static void on_turn(void *owner);
static void on_stopped(void *owner);
static void on_close_unsent(struct task *t);

/* ---- life ---- */

static void give_steps(struct context *ctx) {
  memcpy(ctx->steps, steps_a_turn, sizeof ctx->steps);
  ctx->due_left = DUE_A_TURN;
}

void context_init(struct context *ctx, struct backend *backend,
                  const struct context_ops *ops) {
  ctx->backend = backend;
  ctx->ops = ops;
  ctx->generation = fork_generation();
  ctx->has_own_fds = proc_has_own_fds();
  backend->owner = ctx;
  backend->on_begin = on_begin;
  backend->on_timer = on_timer;
  backend->on_turn = on_turn;
  backend->on_stopped = on_stopped;
  deadlines_init(&ctx->deadlines, backend);
  list_init(&ctx->link);
  list_init(&ctx->dump_entries);
  list_init(&ctx->unsent);
  task_init(&ctx->close_unsent, on_close_unsent);
  for (int i = 0; i < PHASE_COUNT; i++)
    list_init(&ctx->phases[i]);
  give_steps(ctx);
}

void context_publish(struct context *ctx, struct uv_loop_s *loop) {
  ctx->loop = loop;
  pthread_mutex_lock(&lock);
  list_push(&contexts, &ctx->link);
  pthread_mutex_unlock(&lock);
}

static _Atomic(uv_loop_t *)
    default_made; /* libuv's default loop, once we have asked for it */

struct context *context_find(struct uv_loop_s *loop) {
  struct context *found = NULL;
  if (!loop)
    loop = default_made;
  pthread_mutex_lock(&lock);
  list_each(it, &contexts) {
    struct context *ctx = list_entry(it, struct context, link);
    if (ctx->loop == loop && !context_foreign(ctx) && !ctx->dropped)
      found = ctx;
  }
  pthread_mutex_unlock(&lock);
  return found;
}

int mf_check_loop_room(void) {
  return fd_check_free(LOOP_DESCRIPTORS);
}

/* libuv says only that it has none, and aborts where its first loop finds too few. */
static int default_loop(struct uv_loop_s **ret) {
  uv_loop_t *loop = default_made;
  if (!loop) {
    int r = mf_check_loop_room();
    if (r < 0)
      return r;
    loop = uv_default_loop();
    if (!loop)
      return -ENOMEM;
    default_made = loop;
  }
  *ret = loop;
  return 0;
}

int context_choose_loop(struct uv_loop_s **loop) {
  return *loop ? 0 : default_loop(loop);
}

void context_each(void (*visit)(struct context *ctx)) {
  pthread_mutex_lock(&lock);
  list_each(it, &contexts) {
    visit(list_entry(it, struct context, link));
  }
  pthread_mutex_unlock(&lock);
}

int context_any(void) {
  int any = 0;
  pthread_mutex_lock(&lock);
  list_each(it, &contexts) {
    const struct context *ctx = list_entry(it, struct context, link);
    any |= !context_foreign(ctx) && !ctx->dropped;
  }
  pthread_mutex_unlock(&lock);
  return any;
}

/* ---- what other libraries print ---- */

static mf_dump_part *parts; /* as the list of contexts */

void mf_dump_add(mf_dump_part *part) {
  if (!part)
    return;
  pthread_mutex_lock(&lock);
  part->prev = NULL;
  part->next = parts;
  if (parts)
    parts->prev = part;
  parts = part;
  pthread_mutex_unlock(&lock);
}

void mf_dump_remove(mf_dump_part *part) {
  if (!part)
    return;
  pthread_mutex_lock(&lock);
  if (part->prev)
    part->prev->next = part->next;
  else
    parts = part->next;
  if (part->next)
    part->next->prev = part->prev;
  pthread_mutex_unlock(&lock);
}

/* Somebody has asked libuv for its default loop where a part says NULL; only then is it
 * asked for here. */
static int has_default_part(void) {
  for (const mf_dump_part *p = parts; p; p = p->next)
    if (!p->loop)
      return 1;
  return 0;
}

void context_dump_parts(struct uv_loop_s *loop, FILE *out) {
  pthread_mutex_lock(&lock);
  uv_loop_t *usual = has_default_part() ? uv_default_loop() : default_made;
  if (!loop)
    loop = usual;
  for (const mf_dump_part *p = parts; p; p = p->next)
    if (loop && (p->loop ? p->loop : usual) == loop)
      p->print(p->data, out);
  pthread_mutex_unlock(&lock);
}

void contexts_forked(void) {
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  lock = fresh; /* another thread of the original may have held it */
}

int context_foreign(const struct context *ctx) {
  return ctx->generation != fork_generation();
}

static void free_context(struct context *ctx) {
  context_close_unsent(ctx);
  pthread_mutex_lock(&lock);
  list_remove(&ctx->link);
  pthread_mutex_unlock(&lock);
  struct backend *backend = ctx->backend; /* what the owner frees is given back to it */
  blockcache_empty(&ctx->blockcache);
  ctx->ops->free(ctx);
  backend->ops->free(backend);
}

int context_start(struct context *ctx) {
  int r, waits = 0;
  if (ctx->started) {
    if (ctx->resting) {
      ctx->resting = 0;
      ctx->ops->on_start(ctx);
    }
    return 0;
  }
  r = ctx->backend->ops->start(ctx->backend);
  if (r < 0)
    return r;
  ctx->started = 1;
  ctx->stopping = 0;
  deadlines_restart(&ctx->deadlines);
  ctx->wants_turn = ctx->more_due = 0;
  ctx->backend->ops->busy(ctx->backend, ctx->nbusy != 0);
  for (int i = 0; i < PHASE_COUNT; i++)
    waits |= !list_empty(&ctx->phases[i]);
  if (waits)
    context_turn(ctx);
  ctx->ops->on_start(ctx);
  return 0;
}

/* The last handle is closed: nothing of ours stays on the loop. */
static void park(struct context *ctx) {
  ctx->stopping = 1;
  ctx->resting = 0;
  ctx->ops->on_park(ctx);
  ctx->started = 0;
  ctx->backend->ops->stop(ctx->backend);
}

static void on_stopped(void *owner) {
  struct context *ctx = owner;
  context_flush_phase(ctx, PHASE_CLOSED); /* which may start it again, or drop it */
  if (ctx->started)
    return;
  blockcache_empty(&ctx->blockcache);
  ctx->stopping = 0;
  if (ctx->dropped)
    free_context(ctx);
}

void context_drop(struct context *ctx) {
  ctx->dropped = 1;
  if (ctx->started)
    context_turn(ctx);
  else if (!ctx->stopping)
    free_context(ctx);
}

/* ---- dispatch ---- */

void context_enter(struct context *ctx) {
  ctx->in_dispatch++;
}

static void run_first(struct list *tasks) {
  struct task *t = list_entry(tasks->next, struct task, link);
  list_remove(&t->link);
  t->run(t);
}

unsigned context_steps(const struct context *ctx, enum task_phase phase) {
  return ctx->steps[phase];
}

void context_count_steps(struct context *ctx, enum task_phase phase, unsigned n) {
  ctx->steps[phase] -= n < ctx->steps[phase] ? n : ctx->steps[phase];
}

int context_step(struct context *ctx, enum task_phase phase) {
  if (ctx->steps[phase] == 0) {
    context_turn(ctx);
    return 0;
  }
  ctx->steps[phase]--;
  return 1;
}

void context_flush_phase(struct context *ctx, enum task_phase phase) {
  while (!list_empty(&ctx->phases[phase]))
    run_first(&ctx->phases[phase]);
}

/* Callbacks, and work, may ask for more; that is done on the next turn, so that what
 * always asks does not keep the loop. Other phases come to an end by themselves. What
 * this turn has no steps for stays before what is asked for later. */
static void run_phase(struct context *ctx, enum task_phase phase) {
  int once = phase == PHASE_READ || phase == PHASE_NOTIFY || phase == PHASE_WORK;
  struct list due, *tasks = &ctx->phases[phase];
  list_init(&due);
  if (once)
    list_move(&due, tasks);
  struct list *from = once ? &due : tasks;
  while (!list_empty(from) && context_step(ctx, phase))
    run_first(from);
  list_append(&due, tasks);
  list_move(tasks, &due);
}

static int has_tasks(const struct context *ctx) {
  for (int i = 0; i < PHASE_CLOSED; i++)
    if (!list_empty(&ctx->phases[i]))
      return 1;
  return 0;
}

/* Nobody uses it any more: what it has is let go of, and then it is parked. */
static void rest(struct context *ctx) {
  if (!ctx->started || ctx->nopen || ctx->nbusy ||
      !list_empty(&ctx->phases[PHASE_TELL]) || !list_empty(&ctx->phases[PHASE_NOTIFY])) {
    if (ctx->resting)
      context_start(ctx);
    return;
  }
  ctx->resting = 1;
  ctx->in_dispatch++;
  int more = ctx->ops->on_rest(ctx);
  ctx->in_dispatch--;
  more |= !list_empty(&ctx->unsent);
  if (more || (ctx->nopen && has_tasks(ctx))) /* a close callback has asked for them */
    context_turn(ctx);
  else if (!ctx->nopen)
    park(ctx);
}

void context_leave(struct context *ctx) {
  if (ctx->in_dispatch > 1) {
    ctx->in_dispatch--;
    return;
  }
  ctx->leaving = 1;
  run_phase(ctx, PHASE_TELL);
  run_phase(ctx, PHASE_NOTIFY);
  ctx->in_work = 1;
  run_phase(ctx, PHASE_WORK);
  ctx->in_work = 0;
  run_phase(ctx, PHASE_FREE);
  deadlines_rest(&ctx->deadlines);
  ctx->leaving = 0;
  ctx->in_dispatch--;
  if (has_tasks(ctx)) /* what was asked for by a callback that turns the loop itself */
    context_turn(ctx);
  else
    context_spare_turn(ctx);
  rest(ctx);
}

/* The template of thousands of forks that it has not executed has ended: each of them has
 * left the descriptor of a socket, and to close one takes 2 us. */
void context_drop_outbox(struct context *ctx, struct outbox *o) {
  outbox_deinit_some(o, DROPPED_AT_ONCE, &ctx->unsent);
  outbox_init(o);
  if (!list_empty(&ctx->unsent))
    context_task(ctx, PHASE_FREE, &ctx->close_unsent);
}

static void on_close_unsent(struct task *t) {
  struct context *ctx = list_entry(t, struct context, close_unsent);
  while (!list_empty(&ctx->unsent)) {
    if (!ctx->stopping && !context_step(ctx, PHASE_FREE)) {
      context_task(ctx, PHASE_FREE, t);
      return;
    }
    outbox_drop_rest(&ctx->unsent);
  }
}

void context_close_unsent(struct context *ctx) {
  while (!list_empty(&ctx->unsent))
    outbox_drop_rest(&ctx->unsent);
  task_clear(&ctx->close_unsent);
}

void task_init(struct task *t, void (*run)(struct task *t)) {
  list_init(&t->link);
  t->run = run;
}

void task_clear(struct task *t) {
  list_remove(&t->link);
}

void context_task(struct context *ctx, enum task_phase phase, struct task *t) {
  if (list_empty(&t->link))
    list_push(&ctx->phases[phase], &t->link);
  if (phase == PHASE_CLOSED ||
      (phase == PHASE_TELL && ctx->in_dispatch && !ctx->leaving) ||
      (phase == PHASE_WORK && ctx->in_dispatch && !ctx->in_work))
    return; /* its time comes without a turn */
  context_turn(ctx);
}

void context_admit(struct context *ctx, struct dump_entry *r,
                   void (*dump)(const struct dump_entry *r, FILE *out)) {
  r->made_ms = context_now_ms(ctx);
  r->dump = dump;
  list_push(&ctx->dump_entries, &r->link);
}

void context_turn(struct context *ctx) {
  if (!ctx->started || ctx->wants_turn)
    return;
  ctx->wants_turn = 1;
  ctx->backend->ops->turn(ctx->backend, 1);
}

void context_spare_turn(struct context *ctx) {
  if (!ctx->wants_turn || ctx->in_dispatch || ctx->dropped || !ctx->nopen ||
      ctx->more_due)
    return;
  for (int i = 0; i < PHASE_COUNT; i++)
    if (!list_empty(&ctx->phases[i]))
      return;
  ctx->wants_turn = 0;
  ctx->backend->ops->turn(ctx->backend, 0);
}

/* Timers and tasks come before that in a turn of libuv's. */
static void on_begin(void *owner) {
  struct context *ctx = owner;
  if (!ctx->began)
    give_steps(ctx);
  ctx->began = 0;
}

static void run_due(struct context *ctx) {
  ctx->more_due = deadlines_run(&ctx->deadlines, &ctx->due_left);
  if (ctx->more_due)
    context_turn(ctx);
}

static void on_timer(void *owner) {
  struct context *ctx = owner;
  context_enter(ctx);
  run_due(ctx);
  context_leave(ctx);
}

static void on_turn(void *owner) {
  struct context *ctx = owner;
  context_enter(ctx);
  ctx->wants_turn = 0;
  ctx->began = 1;
  give_steps(ctx);
  if (ctx->more_due)
    run_due(ctx);
  run_phase(ctx, PHASE_WRITE);
  run_phase(ctx, PHASE_READ);
  if (ctx->nopen) /* another one was opened meanwhile: the loop will not be empty */
    run_phase(ctx, PHASE_CLOSED);
  context_leave(ctx);
}

void context_count_busy(struct context *ctx, int delta) {
  int was = ctx->nbusy != 0;
  ctx->nbusy += (size_t)delta;
  if (was == (ctx->nbusy != 0))
    return;
  ctx->backend->ops->busy(ctx->backend, !was);
  if (was && !ctx->nopen)
    context_turn(ctx); /* it may be time to park */
}
