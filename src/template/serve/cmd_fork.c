/* FORK: a clone that is a process, or one that is a thread. Runs in templates and
 * clones; of a process's birth also in the new one, from fork() on. */
#include "template/fork/clone.h"
#include "template/lua/script.h"
#include "template/serve/commands.h"
#include "template/serve/entry.h"
#include "template/server/bare.h"
#include "template/server/signals.h"
#include "template/server/wakeup.h"
#include "template/thread/thread_clone.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* FORK_FAILED with s->failure; the template lives on. */
static int refuse(struct server *s, const struct command *c) {
  struct buf body;
  buf_init(&body, FRAME_BODY_MAX);
  if (failure_record_encode(&s->failure, &body) == 0)
    connection_answer(&s->conn, ANS_FORK_FAILED, c->id, buf_peek(&body), buf_size(&body));
  buf_deinit(&body);
  return 0;
}

static int refuse_lost(struct server *s, const struct command *c) {
  char text[256];
  if (c->lost_fds == LOST_AT_AGENT)
    snprintf(text, sizeof text,
             "the agent has no free descriptor for the new process (limit nofile)");
  else
    snprintf(text, sizeof text, "the template has no room for the descriptors: %s",
             strerror(EMFILE));
  failure_record_set(&s->failure, FAILURE_LIMIT, PHASE_FORK, EMFILE, text);
  return refuse(s, c);
}

/* The socket is where it stands in the frame of another fork. */
static int take_connection(struct server *s, const struct options *o, struct fdset *fds) {
  int fd = accepting_take(&s->accepting, o->connection);
  if (fd < 0 || fdset_push(fds, fd) < 0)
    return fd < 0 ? fd : -EMFILE;
  for (int i = fds->n - 1; i > 0; i--)
    fds->fd[i] = fds->fd[i - 1];
  fds->fd[0] = fd;
  return 0;
}

/* Between two forks no code of the user's runs then: what holds now holds at the next. */
static void answer(const struct server *s, const struct command *c) {
  if (s->may_sibling && !s->limits_nofile && !script_has_before_fork())
    bare_answer(s->intake_fd, c->id);
}

/* Its clone has the intake for a socket. The template keeps it. */
static int fork_bare(struct server *s, struct command *c) {
  struct options o;
  int sibling = 1;
  if (c->fds->n > 0 || s->intake_fd < 0)
    return server_malformed(s, "a fork without a socket that nobody asked for");
  fdset_push(c->fds, s->intake_fd);
  int is_fit =
      clone_parse_fork(&o, c) && !o.thread && !o.connection && o.has_run && !o.has_step;
  int r = is_fit ? clone_fork(s, &o, c->fds, &sibling) : 0;
  if (r == SERVED_BORN) {
    s->intake_fd = -1;
    s->birth.id = c->id;
    s->birth.flags = c->flags;
    return r;
  }
  fdset_steal(c->fds, 0);
  if (!is_fit)
    return server_malformed(s, "malformed fork command");
  if (r < 0)
    return refuse(s, c);
  wakeup_after_fork();
  connection_tell_nothing(&s->conn);
  return 0;
}

int cmd_fork(struct server *s, struct command *c) {
  struct options o;
  int sibling = 1, r;
  if (c->flags & FRAME_BARE)
    return fork_bare(s, c);
  if (c->lost_fds)
    return refuse_lost(s, c);
  if (!clone_parse_fork(&o, c))
    return server_malformed(s, "malformed fork command");
  r = o.connection ? take_connection(s, &o, c->fds) : 0;
  if (r == -EPROTO)
    return server_malformed(s, "fork by a connection that is none");
  if (r < 0)
    return refuse_lost(s, c);
  if (o.thread) {
    signals_enter_thread();
    audit_touch(&s->audit); /* C code in it may start a thread that outlives it */
    r = thread_fork(s, c, o.lazy, entry_thread);
  } else {
    r = clone_fork(s, &o, c->fds, &sibling);
    if (r == SERVED_BORN) {
      s->birth.id = c->id;
      s->birth.flags = 0;
    }
  }
  if (r < 0)
    return refuse(s, c);
  if (r == 0 && !o.thread && !s->thread)
    wakeup_after_fork();
  if (r == 0 && (c->flags & FRAME_ASK))
    answer(s, c);
  if (r == 0 && sibling && o.has_run)
    connection_tell_nothing(&s->conn);
  return r;
}
