/* The library and the loops of its host: what is outstanding, reset, the end, and a copy
 * of the host. Runs in the parent. */
#include "parent/api/api.h"

#include "os/drop.h"
#include "parent/private.h"
#include "parent/process/children.h"
#include "parent/process/registry.h"
#include "parent/start/default_template.h"
#include "parent/start/early_process.h"
#include "parent/trace/trace.h"

int mf_reset(struct uv_loop_s *loop) {
  struct context *ctx;
  int r = registry_get(loop, &ctx);
  if (r < 0)
    return api_result(r);
  default_reset(ctx);
  early_process_drop();
  children_adopt(&registry_of(ctx)->children);
  return 0;
}

void mf_drop_early(void) {
  early_process_drop();
}

int mf_busy(struct uv_loop_s *loop) {
  struct context *ctx = context_find(loop);
  return ctx ? (int)ctx->nbusy : 0;
}

void mf_reap(struct uv_loop_s *loop) {
  struct context *ctx = context_find(loop);
  if (!ctx)
    return;
  children_adopt(&registry_of(ctx)->children);
  children_reap(ctx->backend);
}

int mf_has_deadline(struct uv_loop_s *loop) {
  struct context *ctx = context_find(loop);
  return ctx && deadlines_any(&ctx->deadlines);
}

uint64_t mf_busy_wait(struct uv_loop_s *loop) {
  struct context *ctx = context_find(loop);
  return ctx ? busy_wait_begin(&ctx->busy_wait) : 0;
}

void mf_busy_waited(struct uv_loop_s *loop, int came) {
  struct context *ctx = context_find(loop);
  if (ctx)
    busy_wait_end(&ctx->busy_wait, came);
}

int mf_context_keep(struct uv_loop_s *loop) {
  struct context *ctx;
  trace_from_environment();
  int r = registry_get(loop, &ctx);
  if (!r)
    r = context_start(ctx);
  if (r < 0 || ctx->kept)
    return api_result(r);
  ctx->kept = 1;
  ctx->nopen++;
  return 0;
}

int mf_context_close(struct uv_loop_s *loop) {
  struct context *ctx = context_find(loop);
  if (!ctx)
    return 0;
  if (ctx->kept)
    ctx->nopen--;
  ctx->kept = 0;
  default_close(ctx);
  return 0;
}

/* Descriptors of a context that a forked copy must not keep. The copy's memory is its
 * own: the records stay as they are, inert. */
static void close_descriptors(struct context *ctx) {
  if (ctx->has_own_fds) /* their numbers may be others' here */
    return;
  if (ctx->backend->ops->forked)
    ctx->backend->ops->forked(ctx->backend);
  children_close(&registry_of(ctx)->children);
  context_close_unsent(ctx);
  list_each(it, &registry_of(ctx)->processes) {
    struct mf_process *p = list_entry(it, struct mf_process, link);
    fd_close(&p->chan.fd);
    fd_close(&p->far_fork.fd);
    fd_close(&p->far_fork.dead);
    fd_close(&p->pidfd);
    fd_close(&p->peer_pidfd);
    fd_close(&p->finish.fd);
    if (p->own_births)
      births_forked(p->own_births);
    if (p->births)
      births_forked(p->births);
    if (p->far)
      far_link_forked(p->far);
    outbox_deinit(&p->chan.out);
    outbox_init(&p->chan.out);
    if (p->batch)
      fdset_close(&p->batch->fds);
    if (p->forked_hook.close)
      p->forked_hook.close(p->forked_hook.data);
  }
}

void mf_forked_child(void) {
  early_process_forget();
  contexts_forked();
  drop_forked();
  context_each(close_descriptors);
}
