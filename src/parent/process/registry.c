#include "parent/process/registry.h"

#include "os/drop.h"
#include "os/proc.h"
#include "parent/common/times.h"
#include "parent/process/process.h"
#include <errno.h>
#include <stdlib.h>

static void on_start(struct context *ctx) {
  struct registry *r = registry_of(ctx);
  if (r->def.process && r->parked)
    process_unpark(r->def.process);
  r->parked = 0;
  children_look_for_births(&r->children);
  children_watch(&r->children);
}

/* The first that is not the default template, and that nobody is forked from; NULL: none.
 */
static struct mf_process *first_leaf(const struct registry *r) {
  struct list *first = r->processes.next;
  if (first != &r->processes &&
      list_entry(first, struct mf_process, link) == r->def.process)
    first = first->next;
  if (first == &r->processes)
    return NULL;
  struct mf_process *p = list_entry(first, struct mf_process, link);
  while (!list_empty(&p->forks))
    p = list_entry(p->forks.next, struct mf_process, fork_link);
  return p;
}

/* What would be parked at once otherwise. Of the close callbacks the last one says that
 * the loop is empty, and waits for that. */
static int on_rest(struct context *ctx) {
  struct registry *r = registry_of(ctx);
  struct list *closed = &ctx->phases[PHASE_CLOSED];
  while (!list_empty(closed) && closed->next != closed->prev) {
    if (!context_step(ctx, PHASE_CLOSED))
      return 1;
    struct task *t = list_entry(closed->next, struct task, link);
    task_clear(t);
    t->run(t);
    if (ctx->nopen)
      return 0;
  }
  for (struct mf_process *p; (p = first_leaf(r));) {
    if (!context_step(ctx, PHASE_FREE))
      return 1;
    process_forget_source(p);
    process_park(p);
  }
  return 0;
}

/* Records whose close callback is still to come wait for the loop to have let go; a
 * default template stays. */
static void on_park(struct context *ctx) {
  struct registry *r = registry_of(ctx);
  struct mf_process *def = r->def.process;
  r->parked = 1;
  list_each(it, &r->processes) {
    process_forget_source(list_entry(it, struct mf_process, link));
  }
  if (def)
    list_remove(&def->link);
  while (!list_empty(&r->processes))
    process_park(list_entry(r->processes.next, struct mf_process, link));
  if (def) {
    list_push(&r->processes, &def->link);
    process_park(def);
  }
  context_flush_phase(ctx, PHASE_FREE);
  deadline_clear(&r->children.births_due);
  children_look_for_births(&r->children);
  children_unwatch(&r->children);
  blockpool_empty(&r->records);
  blockpool_empty(&r->batches);
}

static void registry_free(struct context *ctx) {
  struct registry *r = registry_of(ctx);
  children_leave_births(&r->children);
  idmap_deinit(&r->ids);
  blockpool_empty(&r->records);
  blockpool_empty(&r->batches);
  free(r);
}

struct context *registry_new_on(struct backend *backend) {
  static const struct context_ops ops = {on_start, on_rest, on_park, registry_free};
  struct registry *r = calloc(1, sizeof *r);
  uint32_t start;
  if (!r) {
    backend->ops->free(backend);
    return NULL;
  }
  context_init(&r->context, backend, &ops);
  children_init(&r->children, &r->context);
  list_init(&r->processes);
  idmap_init(&r->ids);
  /* Numbers differ between owners of one process, so that a report meant for a former one
   * is not taken for ours; 0 means "none" on the wire. */
  proc_random(&start, sizeof start);
  r->ids.next = ((uint64_t)start << 31) + 1;
  return &r->context;
}

int registry_get(struct uv_loop_s *loop, struct context **ret) {
  int r = context_choose_loop(&loop);
  if (r < 0)
    return r;
  struct context *ctx = context_find(loop);
  if (!ctx) {
    drop_aside();
    struct backend *backend = backend_uv_new(loop);
    ctx = backend ? registry_new_on(backend) : NULL;
    if (!ctx)
      return -ENOMEM;
    context_publish(ctx, loop);
  }
  *ret = ctx;
  return 0;
}

int registry_add(struct mf_process *p) {
  struct registry *r = registry_of(p->context);
  if (idmap_add(&r->ids, p, &p->id) < 0)
    return -ENOMEM;
  list_push(&r->processes, &p->link);
  return 0;
}

void registry_remove(struct mf_process *p) {
  list_remove(&p->link);
  idmap_remove(&registry_of(p->context)->ids, p->id);
}

struct mf_process *registry_find(struct context *ctx, uint64_t id) {
  return idmap_get(&registry_of(ctx)->ids, id);
}

/* ---- the default template ---- */

static uint64_t backoff_ms(unsigned failures) {
  uint64_t ms = TEMPLATE_BACKOFF_FIRST_MS;
  if (failures < 2)
    return 0;
  while (failures-- > 2 && ms < TEMPLATE_BACKOFF_MAX_MS)
    ms *= 2;
  return ms < TEMPLATE_BACKOFF_MAX_MS ? ms : TEMPLATE_BACKOFF_MAX_MS;
}

void registry_lose_default(struct mf_process *p) {
  struct default_template *def = &registry_of(p->context)->def;
  if (def->process != p)
    return;
  def->process = NULL;
  def->early = 0;
  p->internal = 0;
  def->failures++;
  def->not_before_ms = context_now_ms(p->context) + backoff_ms(def->failures);
}

void registry_prove_default(struct mf_process *p) {
  struct default_template *def = &registry_of(p->context)->def;
  if (def->process == p)
    def->failures = 0;
}
