#include "parent/loop/context.h"

#include "os/drop.h"
#include "os/fd.h"
#include "parent/private.h"
#include "parent/process/children.h"
#include "parent/process/process.h"
#include "parent/start/boot.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
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

static void on_timer(void *owner);
static void on_turn(void *owner);
static void on_stopped(void *owner);

/* ---- life ---- */

struct context *context_new_on(struct backend *backend) {
  struct context *ctx = calloc(1, sizeof *ctx);
  uint32_t start;
  if (!ctx) {
    backend->ops->free(backend);
    return NULL;
  }
  ctx->backend = backend;
  ctx->generation = fork_generation();
  backend->owner = ctx;
  backend->on_timer = on_timer;
  backend->on_turn = on_turn;
  backend->on_stopped = on_stopped;
  /* Numbers differ between owners of one process, so that a report meant for a former one
   * is not taken for ours; 0 means "none" on the wire. */
  proc_random(&start, sizeof start);
  ctx->next_id = ((uint64_t)start << 31) + 1;
  deadlines_init(&ctx->deadlines, backend);
  list_init(&ctx->link);
  list_init(&ctx->processes);
  list_init(&ctx->posts);
  list_init(&ctx->todo);
  list_init(&ctx->tasks);
  list_init(&ctx->held);
  list_init(&ctx->orphans);
  list_init(&ctx->unborn);
  deadline_init(&ctx->births_due, children_on_births_due);
  list_init(&ctx->more);
  list_init(&ctx->dump_entries);
  list_init(&ctx->to_free);
  list_init(&ctx->closing);
  return ctx;
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

int context_get(struct uv_loop_s *loop, struct context **ret) {
  struct backend *backend;
  struct context *ctx;
  int r = 0;
  if (!loop)
    r = default_loop(&loop);
  if (r < 0)
    return r;
  ctx = context_find(loop);
  if (!ctx) {
    drop_aside();
    backend = backend_uv_new(loop);
    ctx = backend ? context_new_on(backend) : NULL;
    if (!ctx)
      return -ENOMEM;
    ctx->loop = loop;
    pthread_mutex_lock(&lock);
    list_push(&contexts, &ctx->link);
    pthread_mutex_unlock(&lock);
  }
  *ret = ctx;
  return 0;
}

void context_each(void (*visit)(struct context *ctx)) {
  pthread_mutex_lock(&lock);
  list_each(it, &contexts) {
    visit(list_entry(it, struct context, link));
  }
  pthread_mutex_unlock(&lock);
}

void contexts_forked(void) {
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  lock = fresh; /* another thread of the original may have held it */
}

int context_foreign(const struct context *ctx) {
  return ctx->generation != fork_generation();
}

static void context_free(struct context *ctx) {
  children_forget_unborn(ctx);
  pthread_mutex_lock(&lock);
  list_remove(&ctx->link);
  pthread_mutex_unlock(&lock);
  ctx->backend->ops->free(ctx->backend);
  blockcache_empty(&ctx->blockcache);
  free(ctx->table);
  free(ctx);
}

int context_start(struct context *ctx) {
  int r;
  if (ctx->started)
    return 0;
  r = ctx->backend->ops->start(ctx->backend);
  if (r < 0)
    return r;
  ctx->started = 1;
  ctx->stopping = 0;
  deadlines_restart(&ctx->deadlines);
  ctx->wants_turn = 0;
  ctx->backend->ops->busy(ctx->backend, ctx->nbusy != 0);
  if (!list_empty(&ctx->closing) || !list_empty(&ctx->todo) || !list_empty(&ctx->held) ||
      !list_empty(&ctx->to_free) || !list_empty(&ctx->tasks) || !list_empty(&ctx->more))
    context_turn(ctx);
  if (ctx->def)
    process_unpark(ctx->def);
  children_look_for_unborn(ctx);
  children_watch(ctx);
  return 0;
}

static void sweep(struct context *ctx) {
  while (!list_empty(&ctx->to_free))
    process_free(list_entry(ctx->to_free.next, struct mf_process, free_link));
}

/* The last handle is closed: nothing of ours stays on the loop. Records whose close
 * callback is pending wait in `closing` until the loop has let go; a default template
 * stays. */
static void park(struct context *ctx) {
  struct mf_process *def = ctx->def;
  ctx->stopping = 1;
  list_each(it, &ctx->processes) {
    process_forget_source(list_entry(it, struct mf_process, link));
  }
  if (def)
    list_remove(&def->link);
  while (!list_empty(&ctx->processes))
    process_park(list_entry(ctx->processes.next, struct mf_process, link));
  if (def) {
    list_push(&ctx->processes, &def->link);
    process_park(def);
  }
  sweep(ctx);
  deadline_clear(&ctx->births_due);
  children_look_for_unborn(ctx);
  children_unwatch(ctx);
  ctx->started = 0;
  ctx->backend->ops->stop(ctx->backend);
}

static void call_parting(struct context *ctx) {
  while (!list_empty(&ctx->closing)) {
    struct mf_process *p = list_entry(ctx->closing.next, struct mf_process, closing_link);
    mf_close_cb cb = p->close_to.cb;
    list_remove(&p->closing_link);
    p->close_to.cb = NULL;
    cb(p, p->close_to.data);
    if (list_empty(&p->link))
      process_free(p); /* the parking has taken it out */
    else
      process_release(p);
  }
}

static void on_stopped(void *owner) {
  struct context *ctx = owner;
  call_parting(ctx); /* which may start it again, or drop it */
  if (ctx->started)
    return;
  blockcache_empty(&ctx->blockcache);
  ctx->stopping = 0;
  if (ctx->dropped)
    context_free(ctx);
}

void context_drop(struct context *ctx) {
  boot_reset(ctx);
  ctx->dropped = 1;
  if (ctx->started)
    context_turn(ctx);
  else if (!ctx->stopping)
    context_free(ctx);
}

/* ---- dispatch ---- */

void context_enter(struct context *ctx) {
  ctx->in_dispatch++;
}

static void write_held(struct context *ctx) {
  while (!list_empty(&ctx->held))
    process_unhold(list_entry(ctx->held.next, struct mf_process, held_link));
}

static void run_tasks(struct context *ctx) {
  struct list due;
  list_move(&due, &ctx->tasks);
  ctx->in_tasks = 1;
  while (!list_empty(&due)) {
    struct task *t = list_entry(due.next, struct task, link);
    list_remove(&t->link);
    t->run(t);
  }
  ctx->in_tasks = 0;
}

void context_leave(struct context *ctx) {
  if (ctx->in_dispatch > 1) {
    ctx->in_dispatch--;
    return;
  }
  /* Callbacks may ask for more; what they ask for is paid on the next turn, so that a
   * callback that always asks does not keep the loop. */
  struct list due;
  list_move(&due, &ctx->todo);
  while (!list_empty(&due)) {
    struct mf_process *p = list_entry(due.next, struct mf_process, todo_link);
    list_remove(&p->todo_link);
    process_deliver(p);
  }
  run_tasks(ctx);
  sweep(ctx);
  deadlines_rest(&ctx->deadlines);
  ctx->in_dispatch--;
  if (ctx->started && !ctx->nopen && !ctx->nbusy && list_empty(&ctx->todo))
    park(ctx);
}

void task_init(struct task *t, void (*run)(struct task *t)) {
  list_init(&t->link);
  t->run = run;
}

void context_admit(struct context *ctx, struct dump_entry *r,
                   void (*dump)(const struct dump_entry *r, FILE *out)) {
  r->made_ms = context_now_ms(ctx);
  r->dump = dump;
  list_push(&ctx->dump_entries, &r->link);
}

void task_clear(struct task *t) {
  list_remove(&t->link);
}

void context_task(struct context *ctx, struct task *t) {
  if (list_empty(&t->link))
    list_push(&ctx->tasks, &t->link);
  if (!ctx->in_dispatch || ctx->in_tasks)
    context_turn(ctx);
}

void context_turn(struct context *ctx) {
  if (!ctx->started || ctx->wants_turn)
    return;
  ctx->wants_turn = 1;
  ctx->backend->ops->turn(ctx->backend);
}

static void on_timer(void *owner) {
  struct context *ctx = owner;
  context_enter(ctx);
  deadlines_run(&ctx->deadlines);
  context_leave(ctx);
}

static void read_more(struct context *ctx) {
  struct list due;
  list_move(&due, &ctx->more);
  while (!list_empty(&due))
    process_read_more(list_entry(due.next, struct mf_process, more_link));
}

static void on_turn(void *owner) {
  struct context *ctx = owner;
  context_enter(ctx);
  ctx->wants_turn = 0;
  write_held(ctx);
  read_more(ctx);
  if (ctx->nopen) /* another one was opened meanwhile: the loop will not be empty */
    call_parting(ctx);
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

/* ---- by id ---- */

static struct mf_process **slot(struct context *ctx, uint64_t id) {
  struct mf_process **p = &ctx->table[id & (ctx->table_size - 1)];
  while (*p && (*p)->id != id)
    p = &(*p)->hash_next;
  return p;
}

static int grow(struct context *ctx) {
  size_t size = ctx->table_size ? ctx->table_size * 2 : 64, i;
  struct mf_process **old = ctx->table, *p, *next;
  struct mf_process **table = calloc(size, sizeof *table);
  if (!table)
    return ctx->table ? 0 : -ENOMEM; /* longer chains will do */
  ctx->table = table;
  for (i = 0; i < ctx->table_size; i++)
    for (p = old[i]; p; p = next) {
      next = p->hash_next;
      p->hash_next = table[p->id & (size - 1)];
      table[p->id & (size - 1)] = p;
    }
  ctx->table_size = size;
  free(old);
  return 0;
}

int context_insert(struct context *ctx, struct mf_process *p) {
  struct mf_process **at;
  if (ctx->table_used >= ctx->table_size && grow(ctx) < 0)
    return -ENOMEM;
  at = slot(ctx, p->id);
  p->hash_next = *at;
  *at = p;
  ctx->table_used++;
  return 0;
}

void context_remove(struct context *ctx, struct mf_process *p) {
  struct mf_process **at = &ctx->table[p->id & (ctx->table_size - 1)];
  while (*at && *at != p)
    at = &(*at)->hash_next;
  if (!*at)
    return;
  *at = p->hash_next;
  p->hash_next = NULL;
  ctx->table_used--;
}

struct mf_process *context_lookup(struct context *ctx, uint64_t id) {
  return ctx->table ? *slot(ctx, id) : NULL;
}
