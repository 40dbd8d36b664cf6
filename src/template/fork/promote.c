#include "template/fork/promote.h"

#include "os/term.h"
#include "template/fork/clone.h"
#include "template/lua/clone_exec.h"
#include "template/lua/on_term.h"
#include "template/lua/script.h"
#include "template/server/signals.h"
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static int deny_at(const char *origin, struct server *s, int code, int error,
                   const char *text) {
  failure_record_set_at(origin, &s->failure, code, PHASE_FORK, error, text);
  return -1;
}
#define deny(...) deny_at(ORIGIN, __VA_ARGS__)

/* What fork and seal have changed of a process that runs a function; and its heap is that
 * of a clone again, for it is shared now. */
static void go_on(struct server *s, const sigset_t *mask) {
  sigprocmask(SIG_SETMASK, mask, NULL);
  leash_run(&s->leash, s->leash_mode);
  if (s->heap) {
    heap_drop_mirrors(s->heap);
    heap_forked(s->heap);
    heap_keep(s->heap);
  }
  collector_forked(&s->collector, s->L);
  if (s->heap)
    heap_publish(s->heap, s->slot ? &s->slot->lua_live : NULL, 0);
}

/* What had grown old and is garbage a seal leaves alone, and two processes would finalise
 * it then. Twice, because what a finaliser has let go of is free only after the next. */
static void collect_garbage(struct server *s) {
  collector_collect_all(&s->collector, s->L);
  collector_collect_all(&s->collector, s->L);
  server_end_copy(s);
}

int promote_fork(struct server *s, const struct command *c) {
  static unsigned char body[PROMOTE_BODY_MAX]; /* the copy reads it after c has gone */
  struct command fork = *c;
  struct options o;
  sigset_t mask;
  int sibling, leash, r;
  if (c->lost_fds)
    return deny(s, FAILURE_LIMIT, EMFILE,
                "the worker has no free descriptor for the fork (limit nofile)");
  if (c->fds->n < 2 || c->length > sizeof body)
    return deny(s, FAILURE_PROTOCOL, EPROTO, "malformed fork request");
  leash = fdset_steal(c->fds, --c->fds->n);
  memcpy(body, c->body, c->length);
  fork.body = body;
  if (!clone_parse_fork(&o, &fork)) {
    fd_close(&leash);
    return deny(s, FAILURE_PROTOCOL, EPROTO, "malformed fork request");
  }
  if (!s->may_sibling) {
    fd_close(&leash);
    return deny(
        s, FAILURE_UNSUPPORTED, ENOSYS,
        "clones of this process can't be children of its parent (a sandbox, a pid "
        "namespace, or a process that was taken up)");
  }
  sigprocmask(SIG_SETMASK, NULL, &mask);
  signals_enter_user(); /* it has run: handlers are looked for */
  collect_garbage(s);
  collector_touch(&s->collector);
  audit_touch(&s->audit);
  r = clone_fork(s, &o, c->fds, &sibling);
  if (r == SERVED_BORN) {
    s->leash.source = leash; /* if it is to be by the pipe; else it is closed */
    return r;
  }
  fd_close(&leash);
  go_on(s, &mask);
  return r;
}

/* Standard streams that were the function's socket. */
static void part_streams(struct server *s) {
  int null_fd = -1;
  for (int i = 0; i < 3; i++)
    if (s->to_socket[i]) {
      null_fd = null_fd < 0 ? fd_open_null() : null_fd;
      dup2(null_fd, i);
    }
  fd_close(&null_fd);
}

static int (*settle_function)(struct server *s);

static int settle(struct server *s) {
  s->birth.settle = NULL; /* clones of ours are born as all are */
  part_streams(s);
  if (settle_function(s) < 0)
    return -1;
  return script_serve_again(s);
}

void promote_leave(struct server *s, int (*settle_own)(struct server *s)) {
  settle_function = settle_own;
  s->birth.settle = settle;
  s->birth.flags = 0;
  s->before_exit = NULL;
  clone_exec_prepare = NULL;
  on_term_leave();
}
