/* The functions of moonfork.h: they check, make one event of what was asked, and say what
 * the table answered. Runs in the parent. */
#include "os/sock.h"
#include "parent/private.h"
#include "parent/process/children.h"
#include "parent/process/journal.h"
#include "parent/process/process.h"
#include "parent/process/registry.h"
#include "parent/start/boot.h"
#include "parent/trace/trace.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* Results of the layers below, as the user knows them. */
static int result(int r) {
  return r == -ENOMEM ? MF_ENOMEM : r;
}

int process_check(const mf_process *p) {
  if (!p || !p->open)
    return MF_EINVAL;
  return context_foreign(p->context) ? MF_EFORKED : 0;
}

/* The same for what a process that was finished, run or given away can't be asked, ended
 * already or not. */
int process_check_unfinished(const mf_process *p) {
  int r = process_check(p);
  return !r && (p->finished || p->used) ? MF_ESTATE : r;
}

/* The caller's options in full, and the context that they name. */
static int open_context(const mf_options *from, mf_options *o, struct context **ret) {
  int r = options_load(from, o);
  if (r)
    return r;
  trace_from_environment();
  r = registry_get(o->loop, ret);
  return result(r ? r : context_start(*ret));
}

/* ---- make ---- */

/* What a function that was to make a process returns: where it made none, a context that
 * was started for it has to leave the loop again. */
static int made(struct context *ctx, int r) {
  if (r && !ctx->nopen)
    context_turn(ctx);
  return result(r);
}

/* Whether a fork with these options has a tree; they then say it only where it differs
 * from what it inherits, as far as that is known of one that was taken up. */
static unsigned settle_tree(const struct mf_process *source, mf_options *o) {
  unsigned tree = o->tree == MF_TREE_INHERIT ? source->tree : o->tree == MF_TREE_YES;
  if (tree == source->tree && !(source->taken_up && source->greeting))
    o->tree = MF_TREE_INHERIT;
  return tree;
}

static int fork_from(struct mf_process *source, const mf_options *given,
                     mf_process **ret) {
  mf_options own = MF_OPTIONS_INIT, *o = &own;
  if (given)
    own = *given;
  unsigned tree = settle_tree(source, o);
  struct mf_process *q = spares_take(source, o);
  struct hold *hold;
  int r;
  if (q) {
    q->journal = journal_hold(source->journal);
    if (o->timeout_ms)
      process_set_limit(q, o->timeout_ms);
    *ret = q;
    return 0;
  }
  r = hold_new(o, &hold);
  if (r)
    return r;
  q = process_new(source->context, HELD);
  if (!q) {
    hold_free(hold);
    return MF_ENOMEM;
  }
  q->hold = hold;
  q->tree = tree;
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
  int r = result(boot_default(ctx, o, &def));
  return r ? r : fork_from(def, o, ret);
}

int mf_new(const mf_options *options, mf_process **ret) {
  struct context *ctx;
  mf_options o;
  int r = ret ? open_context(options, &o, &ctx) : MF_EINVAL;
  return r ? r : made(ctx, make_default(ctx, &o, ret));
}

/* package.path and package.cpath of a process that was not executed for it. */
static int send_paths(struct mf_process *p, const mf_options *o) {
  static const char code[] = "package.path, package.cpath = ..., select(2, ...)";
  const char *argv[2] = {o->lua_path, o->lua_cpath};
  return mf_eval_named(p, "moonfork", code, sizeof code - 1, 2, argv, NULL);
}

static int make_exec(struct context *ctx, const mf_options *o, mf_process **ret) {
  struct mf_process *p;
  int r = o && o->program ? 0 : boot_early(ctx, o);
  if (r > 0) { /* the early process stands in for the program */
    r = fork_from(registry_of(ctx)->def.process, o, &p);
    if (!r && o && o->lua_path && o->lua_cpath) {
      r = send_paths(p, o);
      if (r)
        mf_close(p, NULL, NULL);
    }
  } else if (!r) {
    r = boot_exec(ctx, o, &p);
    if (!r && o) {
      p->spares_min = o->spares_min;
      p->spares_max = o->spares_max;
    }
    if (!r && o && o->timeout_ms)
      process_set_limit(p, o->timeout_ms);
  }
  if (r)
    return result(r);
  process_update(p);
  *ret = p;
  return 0;
}

int mf_new_exec(const mf_options *options, mf_process **ret) {
  struct context *ctx;
  mf_options o;
  int r = ret ? open_context(options, &o, &ctx) : MF_EINVAL;
  return r ? r : made(ctx, make_exec(ctx, &o, ret));
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
  r = result(context_start(p->context));
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

int mf_reset(struct uv_loop_s *loop) {
  struct context *ctx;
  int r = registry_get(loop, &ctx);
  if (r < 0)
    return result(r);
  boot_reset(ctx);
  return 0;
}

/* ---- prepare ---- */

static int queue(mf_process *p, struct process_command *c) {
  return result(process_event(p, &(struct event){EV_COMMAND, .command = c}));
}

static int queue_bytes(mf_process *p, unsigned type, const void *body, size_t length) {
  struct process_command c = {.type = type, .body = body, .length = length};
  int r = process_check_unfinished(p);
  return r ? r : queue(p, &c);
}

int mf_require(mf_process *p, const char *module) {
  if (!module || !*module)
    return MF_EINVAL;
  return queue_bytes(p, CMD_REQUIRE, module, strlen(module));
}

int mf_eval(mf_process *p, const char *code, size_t length, int argc,
            const char *const *argv, const size_t *lengths) {
  return mf_eval_named(p, NULL, code, length, argc, argv, lengths);
}

int mf_eval_named(mf_process *p, const char *name, const char *code, size_t length,
                  int argc, const char *const *argv, const size_t *lengths) {
  struct buf body;
  int r = process_check_unfinished(p), i;
  if (r)
    return r;
  if (!code || argc < 0 || (argc && !argv))
    return MF_EINVAL;
  buf_init(&body, PROTO_PAYLOAD_MAX);
  r = buf_put_u32(&body, (uint32_t)argc);
  if (!r)
    r = buf_put_str(&body, code, length);
  for (i = 0; !r && i < argc; i++)
    r = buf_put_str(&body, argv[i] ? argv[i] : "",
                    !argv[i]  ? 0
                    : lengths ? lengths[i]
                              : strlen(argv[i]));
  if (!r && name)
    r = buf_put_str(&body, name, strlen(name));
  r = r == -E2BIG ? MF_ELIMIT
      : r         ? MF_ENOMEM
                  : queue_bytes(p, CMD_EVAL, buf_peek(&body), buf_size(&body));
  buf_deinit(&body);
  return r;
}

/* A control socket passed over itself would keep itself alive: none of ours may be, by
 * its number, and p's own and its sources' by no other number either. */
int process_is_control_socket(const mf_process *p, int fd) {
  if (!sock_is_nameless(
          fd)) /* most are not: with thousands of processes the rest is long */
    return 0;
  list_each(it, &registry_of(p->context)->processes) {
    if (list_entry(it, struct mf_process, link)->chan.fd == fd)
      return 1;
  }
  for (; p; p = p->source)
    if (p->chan.fd >= 0 && fd_same(p->chan.fd, fd))
      return 1;
  return 0;
}

int mf_send_fd(mf_process *p, int fd) {
  struct fdset fds;
  struct process_command c = {.type = CMD_FD, .fds = &fds};
  int r = process_check_unfinished(p), copy;
  if (r)
    return r;
  if (fd < 0 || process_is_control_socket(p, fd))
    return MF_EINVAL;
  copy = fd_dup(fd);
  if (copy < 0)
    return copy == -EBADF ? MF_EINVAL : copy;
  fdset_init(&fds);
  fdset_push(&fds, copy);
  return queue(p, &c);
}

static int count_argument(mf_process *p, uint64_t length) {
  if (length > PROTO_PAYLOAD_MAX || p->narg_bytes > PROTO_PAYLOAD_MAX - length)
    return MF_ELIMIT;
  p->narg_bytes += length;
  return 0;
}

int mf_send_arg(mf_process *p, const void *data, size_t length) {
  int r = process_check_unfinished(p);
  if (!r && !data && length)
    r = MF_EINVAL;
  if (!r)
    r = count_argument(p, length);
  return r ? r : queue_bytes(p, CMD_ARG, data, length);
}

int mf_send_arg_ref(mf_process *p, const void *data, size_t length,
                    void (*release)(void *), void *release_data) {
  struct process_command c = {.type = CMD_ARG,
                              .body = data,
                              .length = length,
                              .release = release,
                              .release_data = release_data};
  int r = process_check_unfinished(p);
  if (!r && !data && length)
    r = MF_EINVAL;
  if (!r)
    r = count_argument(p, length);
  if (r) {
    release(release_data);
    return r;
  }
  return queue(p, &c);
}

int mf_take_args(mf_process *p) {
  int r = queue_bytes(p, CMD_TAKE_ARGS, NULL, 0);
  if (!r)
    p->narg_bytes = 0;
  return r;
}

int mf_chdir(mf_process *p, const char *path) {
  return path && *path ? queue_bytes(p, CMD_CHDIR, path, strlen(path)) : MF_EINVAL;
}

int mf_setenv(mf_process *p, const char *name, const char *value) {
  struct buf body;
  int r;
  if (!name || !*name || strchr(name, '='))
    return MF_EINVAL;
  buf_init(&body, PROTO_PAYLOAD_MAX);
  r = buf_put_str(&body, name, strlen(name));
  if (!r)
    r = buf_put_str(&body, value, value ? strlen(value) : 0);
  r = r == -E2BIG ? MF_ELIMIT
      : r         ? MF_ENOMEM
                  : queue_bytes(p, CMD_SETENV, buf_peek(&body), buf_size(&body));
  buf_deinit(&body);
  return r;
}

int mf_seal(mf_process *p, int flags) {
  struct process_command c = {.type = CMD_SEAL, .id = (uint64_t)flags};
  int r = process_check_unfinished(p);
  if (!r && (flags & ~0x73))
    r = MF_EINVAL;
  return r ? r : queue(p, &c);
}

#define LIMIT_NAME(part, text) [LIMIT_##part] = text,
static const char *const limit_names[] = {PROTO_LIMITS(LIMIT_NAME)};
#undef LIMIT_NAME
_Static_assert(sizeof limit_names / sizeof *limit_names == LIMIT_LAST + 1,
               "a name for each");

const char *mf_limit_name(unsigned i) {
  return i < LIMIT_LAST ? limit_names[i + 1] : NULL;
}

/* 0: there is none of that name. */
static unsigned limit_number(const char *name) {
  for (unsigned i = LIMIT_LAST; name && i > 0; i--)
    if (!strcmp(limit_names[i], name))
      return i;
  return 0;
}

int mf_limit(mf_process *p, const mf_rlimit *limits, size_t count) {
  struct buf body;
  size_t i;
  int r = process_check_unfinished(p);
  if (!r && !limits && count)
    r = MF_EINVAL;
  buf_init(&body, FRAME_BODY_MAX);
  for (i = 0; !r && i < count; i++) {
    unsigned number = limit_number(limits[i].name);
    r = number ? buf_put_u32(&body, number) : MF_EINVAL;
    if (!r)
      r = buf_put_u32(&body, 0);
    if (!r)
      r = buf_put_u64(&body, limits[i].value);
  }
  if (!r)
    r = queue_bytes(p, CMD_LIMIT, buf_peek(&body), buf_size(&body));
  buf_deinit(&body);
  return result(r);
}

/* ---- finish ---- */

/* The loop may not have turned since the time ran out. */
static void look_at_the_clock(mf_process *p) {
  struct context *ctx = p->context;
  if (context_now_ms(ctx) < deadline_at(&p->limit))
    return;
  deadline_clear(&p->limit);
  process_event(p, &(struct event){EV_TIMEOUT});
}

static int finish_with(mf_process *p, enum event_kind kind, struct run_request *run) {
  int r = process_check_unfinished(p);
  if (!r && kind == EV_RUN)
    look_at_the_clock(p);
  if (!r)
    r = result(process_event(p, &(struct event){kind, .run = run}));
  if (!r)
    p->used = 1;
  return r;
}

int mf_run(mf_process *p, const char *function, mf_run_cb cb, void *data) {
  struct run_request run = {function, cb, data};
  if (!function || !*function)
    return MF_EINVAL;
  return finish_with(p, EV_RUN, &run);
}

int mf_to_fd(mf_process *p, mf_run_cb cb, void *data) {
  struct run_request to = {NULL, cb, data};
  return finish_with(p, EV_TO_FD, &to);
}

int mf_finish(mf_process *p) {
  int r = process_check(p);
  if (!r && p->used)
    r = MF_ESTATE;
  if (!r)
    r = result(process_event(p, &(struct event){EV_FINISH}));
  if (!r)
    p->finished = 1;
  return r;
}

/* ---- ask ---- */

int mf_on_error(mf_process *p, mf_error_cb cb, void *data) {
  int r = process_check(p);
  if (r)
    return r;
  p->error_to.cb = cb;
  p->error_to.data = data;
  if (cb && p->error && !p->idle_death && !p->error_told && p->finish.kind == FINISH_NONE)
    process_pend(p, PENDING_ERROR);
  process_update(p);
  return 0;
}

int mf_on_exit(mf_process *p, mf_exit_cb cb, void *data) {
  int r = process_check(p);
  if (r)
    return r;
  p->exit_to.cb = cb;
  p->exit_to.data = data;
  if (cb && p->state == DEAD)
    process_pend(p, PENDING_EXIT);
  process_update(p);
  return 0;
}

void mf_exit_quiet(mf_process *p, int quiet) {
  if (process_check(p))
    return;
  p->quiet = quiet != 0;
  process_update(p);
}

void mf_run_quiet(mf_process *p) {
  if (process_check(p))
    return;
  p->finish.quiet = 1;
  process_update(p);
}

int mf_kill(mf_process *p, int signum) {
  int r = process_check(p);
  if (r)
    return r;
  if (signum < 0 || signum >= NSIG)
    return MF_EINVAL;
  return process_event(p, &(struct event){EV_KILL, .signum = signum});
}

int mf_pid(const mf_process *p) {
  if (process_check(p) < 0)
    return p && p->pid > 0 ? p->pid : -1;
  return process_pid((mf_process *)(uintptr_t)p);
}

int mf_memory(mf_process *p, mf_memory_cb cb, void *data) {
  struct memory_request *m;
  int r = cb ? process_check(p) : MF_EINVAL;
  if (r)
    return r;
  m = calloc(1, sizeof *m);
  if (!m)
    return MF_ENOMEM;
  m->process = p;
  m->cb = cb;
  m->data = data;
  list_push(&p->memory, &m->link);
  if (p->state == HELD)
    process_unhold(p);
  r = process_ask_memory(p, m);
  if (r < 0) {
    list_remove(&m->link);
    free(m);
  }
  process_update(p);
  return result(r);
}

void mf_memory_quiet(mf_process *p, const void *data) {
  if (process_check(p))
    return;
  list_each(it, &p->memory) {
    struct memory_request *m = list_entry(it, struct memory_request, link);
    m->quiet |= m->data == data;
  }
  process_update(p);
}

void mf_memory_cancel(mf_process *p) {
  if (process_check(p))
    return;
  process_fail_memory(p, MF_ECANCELLED);
  process_update(p);
}

/* ---- end ---- */

void mf_close(mf_process *p, mf_close_cb cb, void *data) {
  if (process_check(p) < 0)
    return;
  mf_attend(p, 0);
  p->open = 0;
  p->context->nopen--;
  p->close_to.cb = cb;
  p->close_to.data = data;
  p->error_to.cb = NULL;
  process_event(p, &(struct event){EV_CLOSE});
  if (!p->close_waits)
    process_pend(p, PENDING_CLOSE);
  process_update(p);
}

/* ---- for the binding ---- */

int mf_busy(struct uv_loop_s *loop) {
  struct context *ctx = context_find(loop);
  return ctx ? (int)ctx->nbusy : 0;
}

void mf_reap(struct uv_loop_s *loop) {
  struct context *ctx = context_find(loop);
  if (ctx)
    children_reap(ctx->backend);
}

int mf_has_deadline(struct uv_loop_s *loop) {
  struct context *ctx = context_find(loop);
  return ctx && deadlines_any(&ctx->deadlines);
}

int mf_context_keep(struct uv_loop_s *loop) {
  struct context *ctx;
  trace_from_environment();
  int r = registry_get(loop, &ctx);
  if (!r)
    r = context_start(ctx);
  if (r < 0 || ctx->kept)
    return result(r);
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
  boot_close(ctx);
  return 0;
}

/* Descriptors of a context that a forked copy must not keep. The copy's memory is its
 * own: the records stay as they are, inert. */
static void close_descriptors(struct context *ctx) {
  if (ctx->backend->ops->forked)
    ctx->backend->ops->forked(ctx->backend);
  list_each(it, &registry_of(ctx)->processes) {
    struct mf_process *p = list_entry(it, struct mf_process, link);
    fd_close(&p->chan.fd);
    fd_close(&p->pidfd);
    fd_close(&p->finish.fd);
    outbox_deinit(&p->chan.out);
    outbox_init(&p->chan.out);
    if (p->hold)
      fdset_close(&p->hold->fds);
    if (p->forked_hook.close)
      p->forked_hook.close(p->forked_hook.guest);
  }
}

void mf_forked_child(void) {
  boot_forget_early();
  contexts_forked();
  context_each(close_descriptors);
}
