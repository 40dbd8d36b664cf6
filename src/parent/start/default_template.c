#include "parent/start/default_template.h"

#include "parent/process/internal.h"
#include "parent/process/journal.h"
#include "parent/process/registry.h"
#include "parent/start/boot.h"
#include "parent/start/early_process.h"
#include <signal.h>

static void make_default(struct context *ctx, struct mf_process *p) {
  p->open = 0;
  p->internal = 1;
  ctx->nopen--;
  registry_of(ctx)->def.process = p;
  process_update(p);
}

/* What of the caller's options concerns the template that its process is forked from. */
static void template_options(mf_options *t, const mf_options *o) {
  mf_options_init(t);
  if (!o)
    return;
  t->program = o->program;
  t->lua_path = o->lua_path;
  t->lua_cpath = o->lua_cpath;
  t->gc = o->gc;
  t->heap_reserve = o->heap_reserve;
  t->dumpable = o->dumpable;
}

int default_early(struct context *ctx, const mf_options *o) {
  struct default_template *def = &registry_of(ctx)->def;
  mf_options t;
  struct mf_process *p;
  int pid = -1, fd, r;
  if (def->process)
    return def->early;
  fd = early_process_take(&pid);
  if (fd < 0)
    return 0;
  template_options(&t, o);
  r = boot_adopt(ctx, &t, fd, pid, 1, &p);
  if (r < 0)
    return r;
  make_default(ctx, p);
  def->early = 1;
  def->gc = t.gc;
  return 1;
}

/* It has waited for that. */
static void start_late(struct mf_process *p) {
  deadline_clear(&p->retry);
  process_expect_stalls(p);
  if (p->state == FORKING && p->unstarted)
    boot_spawn(p, NULL);
  else
    p->unstarted = 0;
}

static void on_backoff(struct deadline *d) {
  start_late(list_entry(d, struct mf_process, retry));
}

int default_template(struct context *ctx, const mf_options *o, struct mf_process **ret) {
  struct default_template *def = &registry_of(ctx)->def;
  mf_options t;
  struct mf_process *p;
  uint64_t now = context_now_ms(ctx);
  int r;
  /* One that was parked may have ended unnoticed. */
  if (def->process && def->process->chan.fd >= 0 &&
      ctx->backend->ops->hung_up(ctx->backend, def->process->chan.fd))
    channel_drain(&def->process->chan);
  r = default_early(ctx, o);
  if (r < 0)
    return r;
  if (!def->process) {
    template_options(&t, o);
    p = process_new(ctx, FORKING);
    if (!p)
      return MF_ENOMEM;
    def->early = 0;
    p->journal = journal_new(JOURNAL_DEFAULT, &t);
    r = boot_prepare(p, &t);
    if (r < 0) {
      process_abandon(p);
      return r;
    }
    make_default(ctx, p);
    if (def->not_before_ms > now) {
      /* It came to nothing several times in a row: wait a little, asynchronously. */
      p->unstarted = 1;
      p->retry.on_due = on_backoff;
      deadline_set(&ctx->deadlines, &p->retry, def->not_before_ms - now);
    } else {
      boot_spawn(p, &t);
    }
    if (!def->process) { /* it failed at once; the process that asked gets its error */
      *ret = p;
      return 0;
    }
  }
  *ret = def->process;
  return 0;
}

/* Nothing of ours is on the loop: the end of its socket ends it, and nobody looks after
 * it. Nor after what it would fork before that, for processes that are closed: each would
 * be a zombie. */
static void end_unattended(struct mf_process *p) {
  if (!children_may_come(&registry_of(p->context)->children, p->own_births) ||
      process_kill(p, SIGKILL) < 0)
    process_continue(p);
}

void default_reset(struct context *ctx) {
  struct default_template *def = &registry_of(ctx)->def;
  struct mf_process *p = def->process;
  /* Processes were asked of one that waits to be started: it is started now, serves them
   * and ends. Else it never would be, and they would wait for ever. */
  if (p && p->unstarted && process_has_pending_fork(p))
    start_late(p);
  p = def->process; /* it may have failed at once */
  def->failures = 0;
  def->not_before_ms = 0;
  if (!p)
    return;
  def->process = NULL;
  p->internal = 0;
  if (!ctx->started) {
    end_unattended(p);
    process_park(p);
  } else if (p->unstarted) {
    process_end_unstarted(p);
  } else {
    process_event(p, &(struct event){EV_CLOSE});
  }
}

void default_close(struct context *ctx) {
  default_reset(ctx);
  context_drop(ctx);
}
