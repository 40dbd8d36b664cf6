#include "parent/api/replay.h"

#include "parent/api/api.h"
#include "parent/api/make.h"
#include "parent/process/process.h"

struct replay {
  struct context *context;
  struct mf_process *process; /* the latest; NULL: none yet */
};

static int begin(void *data, enum journal_root root, const mf_options *o) {
  struct replay *r = data;
  return process_make(r->context, root == JOURNAL_EXEC, o, &r->process);
}

/* What is forked from is closed: it ends when it has executed the fork. */
static int fork_again(void *data, const mf_options *o) {
  struct replay *r = data;
  struct mf_process *q;
  int rc = mf_fork_options(r->process, o, &q);
  if (rc)
    return rc;
  mf_close(r->process, NULL, NULL);
  r->process = q;
  return 0;
}

static int command(void *data, struct process_command *c) {
  struct replay *r = data;
  return process_event(r->process, &(struct event){EV_COMMAND, .command = c});
}

int replay_journal(const struct journal *j, struct context *ctx, mf_process **ret) {
  static const struct journal_reader reader = {begin, fork_again, command};
  struct replay replay = {ctx, NULL};
  int r = j ? journal_read(j, &reader, &replay) : MF_ETEMPLATE_DIED;
  if (r && replay.process)
    mf_close(replay.process, NULL, NULL);
  if (!r)
    *ret = replay.process;
  return api_result(r);
}
