/* Functions of moonfork.h that make a process: from the default template, by a program of
 * its own, by a fork, or of one that exists already. Runs in the parent. */
#include "parent/api/make.h"

#include "os/sock.h"
#include "parent/api/api.h"
#include "parent/private.h"
#include "parent/process/journal.h"
#include "parent/process/registry.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "parent/trace/trace.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The caller's options in full, and the context that they name. */
static int open_context(const mf_options *from, mf_options *o, struct context **ret) {
  int r = options_load(from, o);
  if (!r && o->isolation) /* of forks of a template that the caller has */
    r = MF_EINVAL;
  if (r)
    return r;
  trace_from_environment();
  r = registry_get(o->loop, ret);
  return api_result(r ? r : context_start(*ret));
}

/* What a function that was to make a process returns: where it made none, a context that
 * was started for it has to leave the loop again. */
static int made(struct context *ctx, int r) {
  if (r && !ctx->nopen)
    context_turn(ctx);
  return api_result(r);
}

/* Whether a fork with these options has a tree; they then say it only where it differs
 * from what it inherits, as far as that is known of one that was taken up. */
static unsigned settle_tree(const struct mf_process *source, mf_options *o) {
  unsigned tree = o->tree == MF_TREE_INHERIT ? source->tree : o->tree == MF_TREE_YES;
  if (tree == source->tree && !(source->taken_up && source->greeting))
    o->tree = MF_TREE_INHERIT;
  return tree;
}

/* What a link can't carry stays here. */
static int check_streams(const mf_options *o) {
  for (int i = 0; i < 3; i++) {
    int r = o->stdio[i].kind == MF_STDIO_FD ? sock_stream_kind(o->stdio[i].fd) : 1;
    if (r <= 0)
      return r == 0 ? MF_EUNSUPPORTED : r == -EBADF ? MF_EINVAL : r;
  }
  return 0;
}

/* What a thread can't have of its own, and where there can be none. */
static int check_thread(const struct mf_process *source, const mf_options *o) {
  if (source->far || source->tree || (o->env && *o->env) || o->leash || o->new_session ||
      o->dumpable || o->tree == MF_TREE_YES || o->stdio[0].kind || o->stdio[1].kind ||
      o->stdio[2].kind)
    return MF_EUNSUPPORTED;
  return 0;
}

static int fork_from(struct mf_process *source, const mf_options *given,
                     mf_process **ret) {
  mf_options own = MF_OPTIONS_INIT, *o = &own;
  if (given)
    own = *given;
  int refused = source->far ? check_streams(o) : 0;
  if (!refused && o->isolation == MF_ISOLATION_THREAD)
    refused = check_thread(source, o);
  if (refused)
    return refused;
  unsigned tree = settle_tree(source, o);
  struct mf_process *q = spares_take(source, o);
  struct batch *batch;
  int r;
  if (q) {
    q->journal = journal_hold(source->journal);
    q->has_image = source->has_image;
    if (o->timeout_ms)
      process_set_limit(q, o->timeout_ms);
    *ret = q;
    return 0;
  }
  r = batch_new(source->context, o, &batch);
  if (r)
    return r;
  q = process_new(source->context, BATCHED);
  if (!q) {
    batch_free(source->context, batch);
    return MF_ENOMEM;
  }
  q->batch = batch;
  q->has_image = source->has_image;
  q->is_thread = o->isolation == MF_ISOLATION_THREAD;
  q->tree = tree;
  q->leash = (unsigned)o->leash;
  q->inherits_tree = o->tree == MF_TREE_INHERIT;
  q->journal = journal_fork(source->journal, o);
  if (o->name)
    q->name = strdup(o->name);
  r = process_event(source, &(struct event){EV_FORK, .fork = q});
  if (r < 0) {
    process_abandon(q);
    return r;
  }
  if (o->timeout_ms && q->state != DEAD)
    process_set_limit(q, o->timeout_ms);
  process_update(q);
  *ret = q;
  return 0;
}

static int make_default(struct context *ctx, const mf_options *o, mf_process **ret) {
  struct mf_process *def;
  int r = api_result(default_template(ctx, o, &def));
  return r ? r : fork_from(def, o, ret);
}

int mf_new(const mf_options *options, mf_process **ret) {
  struct context *ctx;
  mf_options o;
  int r = ret ? open_context(options, &o, &ctx) : MF_EINVAL;
  return r ? r : made(ctx, make_default(ctx, &o, ret));
}

static int send_path(struct mf_process *p, const char *name, const char *path) {
  static const char code[] = "package[(...)] = select(2, ...)";
  const char *argv[2] = {name, path};
  return path ? mf_eval_named(p, "moonfork", code, sizeof code - 1, 2, argv, NULL) : 0;
}

/* What a program that is executed is told at its start; this is a fork of the early
 * process instead, whose collector has the mode gc. */
static int catch_up(struct mf_process *p, const mf_options *o, int gc) {
  int r = send_path(p, "path", o->lua_path);
  if (!r)
    r = send_path(p, "cpath", o->lua_cpath);
  if (!r && o->gc != gc)
    r = mf_seal(p, o->gc);
  return r;
}

static int make_exec(struct context *ctx, const mf_options *o, mf_process **ret) {
  struct mf_process *p;
  int r = o && (o->program || o->command || o->image) ? 0 : default_early(ctx, o);
  if (r > 0) { /* the early process stands in for the program */
    r = fork_from(registry_of(ctx)->def.process, o, &p);
    if (!r && o) {
      r = catch_up(p, o, registry_of(ctx)->def.gc);
      if (r)
        mf_close(p, NULL, NULL);
    }
  } else if (!r) {
    r = boot_exec(ctx, o, &p);
    if (!r && o)
      p->has_image = o->image != NULL;
    if (!r && o && o->timeout_ms)
      process_set_limit(p, o->timeout_ms);
  }
  if (r)
    return api_result(r);
  if (o) {
    p->spares_min = o->spares_min;
    p->spares_max = o->spares_max;
  }
  process_update(p);
  *ret = p;
  return 0;
}

int mf_new_exec(const mf_options *options, mf_process **ret) {
  struct context *ctx;
  mf_options o;
  int r = ret ? open_context(options, &o, &ctx) : MF_EINVAL;
  o.command = NULL;
  return r ? r : made(ctx, make_exec(ctx, &o, ret));
}

int mf_remote(const mf_options *options, mf_process **ret) {
  struct context *ctx;
  mf_options o;
  int r = ret ? open_context(options, &o, &ctx) : MF_EINVAL;
  if (r)
    return r;
  if (!o.command || !*o.command || !**o.command || o.program)
    r = MF_EINVAL;
  else
    r = check_streams(&o);
  return made(ctx, r ? r : make_exec(ctx, &o, ret));
}

int process_make(struct context *ctx, int exec, const mf_options *o, mf_process **ret) {
  return exec ? make_exec(ctx, o, ret) : make_default(ctx, o, ret);
}

int mf_fork_options(mf_process *p, const mf_options *options, mf_process **ret) {
  mf_options o;
  int r = ret ? process_check_unfinished(p) : MF_EINVAL;
  if (!r)
    r = options_load(options, &o);
  if (r)
    return r;
  r = api_result(context_start(p->context));
  return r ? r : fork_from(p, &o, ret);
}

int mf_fork(mf_process *p, mf_process **ret) {
  return mf_fork_options(p, NULL, ret);
}

int process_take_up(struct context *ctx, const mf_options *o, int fd, mf_process **ret) {
  mf_process *p;
  int r = boot_take_up(ctx, fd, &p);
  if (r)
    return r;
  p->has_image = 1; /* it is not known here */
  if (o && o->name)
    p->name = strdup(o->name);
  if (o && o->timeout_ms)
    process_set_limit(p, o->timeout_ms);
  *ret = p;
  return 0;
}

int mf_from_fd(const mf_options *options, int fd, mf_process **ret) {
  struct context *ctx;
  mf_options o;
  int r = ret ? open_context(options, &o, &ctx) : MF_EINVAL;
  if (r) {
    fd_close(&fd);
    return r;
  }
  fd = fd_raise(fd); /* closes what it can't raise */
  if (fd < 0)
    return made(ctx, fd == -EBADF ? MF_EINVAL : fd);
  if (!sock_is_nameless(fd)) {
    fd_close(&fd);
    return made(ctx, MF_EINVAL);
  }
  fd_set_nonblocking(fd, 1);
  return made(ctx, process_take_up(ctx, &o, fd, ret));
}

int mf_adopt_fd(const mf_options *options, int fd, int pid, int child, mf_process **ret) {
  struct context *ctx;
  mf_options o;
  int r = open_context(options, &o, &ctx);
  if (r) {
    fd_close(&fd);
    return r;
  }
  r = boot_adopt(ctx, &o, fd, pid, child, ret);
  if (!r && o.timeout_ms)
    process_set_limit(*ret, o.timeout_ms);
  return made(ctx, r);
}

int mf_may_go_on(const mf_process *p) {
  return p->has_image;
}

int mf_is_remote(const mf_process *p) {
  return p->far != NULL;
}
