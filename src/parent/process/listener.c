/* How the sockets of clones come to a template of which many are asked for: not in the
 * messages of their forks. Linux looks for circles of sockets at the end of each one while
 * any is in a message, in a thread of its own (decision 008). So the template gets a
 * listening socket of ours (CMD_LISTEN), and a fork is told by the number of our connection
 * to it. The template says in the slots of its clones that it takes connections; until it
 * has, and after each command that may change that, sockets go in messages. Runs in the
 * parent.
 *
 *   LISTENER_NONE -> many forks at once: LISTENER_SENT <-> a slot tells: LISTENER_OPEN
 *   any -> it can't be had, or reached: LISTENER_NEVER
 */
#include "parent/process/internal.h"

#include "parent/process/births.h"
#include <errno.h>

enum { CROWDED = 64 }; /* so many forks beside others make it worth while */

/* One that forks children of ours, and executes what we send alone. */
static int may_listen(const struct mf_process *source) {
  const struct backend_ops *ops = source->context->backend->ops;
  return source->proven && source->ours && !source->far && !source->is_thread &&
         !source->taken_up && !source->error && source->chan.fd >= 0 && ops->listen;
}

static void begin(struct mf_process *source) {
  struct process_listener *l = &source->listener;
  struct backend *s = source->context->backend;
  struct fdset fds;
  struct process_command c = {.type = CMD_LISTEN, .fds = &fds};
  int fd = -1;
  l->state = LISTENER_NEVER;
  if (s->ops->listen(s, &l->name, &fd) < 0)
    return;
  fdset_init(&fds);
  fdset_push(&fds, fd);
  if (command_send(source, &c) < 0)
    return;
  l->state = LISTENER_SENT;
  l->since = source->nsent;
}

static void count(struct mf_process *source) {
  struct process_listener *l = &source->listener;
  if (l->state == LISTENER_NONE && !list_empty(&source->asked) &&
      ++l->ncrowded >= CROWDED && may_listen(source))
    begin(source);
}

/* Some that it is to accept: else nobody takes away what is there. */
static int has_connections(const struct mf_process *source) {
  list_each(it, &source->asked) {
    if (list_entry(it, struct mf_process, ask_link)->connects)
      return 1;
  }
  return 0;
}

int listener_connect(struct mf_process *p, struct mf_process *source) {
  struct process_listener *l = &source->listener;
  struct backend *s = source->context->backend;
  if (p->is_thread || p->finish.kind != FINISH_RUN)
    return -1;
  if (l->nmade == UINT32_MAX) /* another one, whose connections are counted from 1 on */
    *l = (struct process_listener){0};
  if (l->state != LISTENER_OPEN) {
    count(source);
    return -1;
  }
  int fd = s->ops->connect(s, &l->name);
  if (fd >= 0) {
    l->nmade++;
    p->connects = 1;
    return fd;
  }
  int is_full = fd == -EAGAIN && has_connections(source);
  if (!is_full && fd != -EMFILE && fd != -ENFILE && fd != -ENOMEM && fd != -ENOBUFS)
    l->state = LISTENER_NEVER; /* it has ended, somebody forbids it, or fills it */
  return -1;
}

void listener_doubt(struct mf_process *source, unsigned type) {
  struct process_listener *l = &source->listener;
  if (type == CMD_FORK || l->state == LISTENER_NONE || l->state == LISTENER_NEVER)
    return;
  l->state = LISTENER_SENT;
  l->since = source->nsent;
}

void listener_hear(const struct mf_process *p) {
  struct mf_process *source = p->source;
  if (!source || source->listener.state != LISTENER_SENT || !p->births ||
      p->fork_number <= source->listener.since)
    return;
  if (births_listens(p->births, p->slot))
    source->listener.state = LISTENER_OPEN;
}
