/* FORK: a clone that is a process, or one that is a thread. Runs in templates and
 * clones; of a process's birth also in the new one, from fork() on. */
#include "template/fork/clone.h"
#include "template/serve/commands.h"
#include "template/serve/entry.h"
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

int cmd_fork(struct server *s, struct command *c) {
  struct options o;
  int sibling = 1, r;
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
    if (r == SERVED_BORN)
      s->birth.id = c->id;
  }
  if (r < 0)
    return refuse(s, c);
  if (r == 0 && !o.thread && !s->thread)
    wakeup_after_fork();
  if (r == 0 && sibling && o.has_run)
    connection_tell_nothing(&s->conn);
  return r;
}
