/* Commands on their way to a process. Runs in the parent. */
#include "parent/process/internal.h"

#include "parent/process/journal.h"
#include "parent/process/process_trace.h"

int command_send(struct mf_process *p, const struct process_command *c) {
  int r;
  p->nsent++;
  listener_doubt(p, c->type);
  process_trace_command(p, c); /* whose body may be gone when it is sent */
  if (c->pieces)
    r = channel_put_pieces(&p->chan, c->type, c->id, c->pieces, c->npieces, c->fds,
                           c->release, c->release_data);
  else if (c->release)
    r = channel_put_ref(&p->chan, c->type, c->id, c->body, c->length, c->release,
                        c->release_data);
  else
    r = channel_put(&p->chan, c->type, c->id, c->body, c->length, c->fds);
  if (r < 0)
    p->nsent--;
  else if (c->type != CMD_MEMORY && c->type != CMD_SAVE && c->type != CMD_WHO &&
           c->type != CMD_FORK && c->type != CMD_LISTEN)
    p->nwork = p->nsent;
  return r;
}

int command_send_simple(struct mf_process *p, unsigned type, uint64_t id,
                        const void *body, size_t length) {
  struct process_command c = {.type = type, .id = id, .body = body, .length = length};
  return command_send(p, &c);
}

void command_discard(struct process_command *c) {
  if (c->fds)
    fdset_close(c->fds);
  if (c->release)
    c->release(c->release_data);
}

/* Sent and kept for a pool that starts p again; or neither. (The sending consumes it.) */
int command_send_noted(struct mf_process *p, struct process_command *c) {
  struct journal *before = journal_hold(p->journal);
  int r;
  journal_command(&p->journal, c);
  r = command_send(p, c);
  if (r < 0) {
    journal_drop(&p->journal);
    p->journal = before;
    return r;
  }
  journal_drop(&before);
  return 0;
}
