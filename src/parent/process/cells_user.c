/* The cells of the table: what the user asks. Runs in the parent. */
#include "parent/process/cells.h"

#include "parent/common/times.h"
#include "parent/process/internal.h"
#include "parent/process/journal.h"
#include "parent/process/process_trace.h"
#include <errno.h>
#include <signal.h>
#include <string.h>

int cell_refuse(struct mf_process *p, const struct event *e) {
  return MF_ESTATE;
}

int cell_ignore(struct mf_process *p, const struct event *e) {
  return 0;
}

int cell_reject(struct mf_process *p, const struct event *e) {
  command_discard(e->command);
  return MF_ESTATE;
}

int cell_note(struct mf_process *p, const struct event *e) {
  if (p->fork_refused)
    journal_command(&p->journal, e->command);
  command_discard(e->command);
  return 0;
}

int cell_join(struct mf_process *p, const struct event *e) {
  struct process_command *c = e->command;
  if ((c->type == CMD_ARG || c->type == CMD_FD) && batch_join(p, c))
    return 0;
  process_flush(p);
  return CELL_AGAIN;
}

int cell_queue(struct mf_process *p, const struct event *e) {
  struct process_command *c = e->command;
  process_flush_child(p);
  if (c->type != CMD_MEMORY && c->type != CMD_SAVE && c->type != CMD_WHO)
    spares_drop(p);
  if (c->type != CMD_ARG && c->type != CMD_FD)
    process_flush(p);
  return command_send_noted(p, c);
}

int cell_fork(struct mf_process *p, const struct event *e) {
  struct mf_process *q = e->fork;
  process_flush_child(p);
  process_flush(p); /* a taken spare */
  process_set_source(q, p);
  p->batched_child = q;
  deadline_clear(&p->limit);
  context_task(p->context, PHASE_WRITE, &q->write);
  return 0;
}

/* The fork command is written first; what is asked is the new state's business. */
int cell_flush(struct mf_process *p, const struct event *e) {
  process_flush(p);
  return CELL_AGAIN;
}

int cell_nofork(struct mf_process *p, const struct event *e) {
  struct mf_process *q = e->fork;
  process_set_source(q, p);
  process_never_starts(q);
  return 0;
}

static void expect_finish(struct mf_process *p, enum finish_kind kind, mf_run_cb cb,
                          void *data) {
  p->finish.kind = kind;
  p->finish.quiet = 0;
  p->finish.cb = cb;
  p->finish.data = data;
}

int cell_run(struct mf_process *p, const struct event *e) {
  const struct run_request *run = e->run;
  struct process_command c = {.type = CMD_RUN, .body = run->function};
  int r;
  c.length = strlen(run->function);
  process_flush_child(p);
  spares_drop(p);
  process_open_to_fds(p);
  r = command_send(p, &c);
  if (r < 0)
    return r;
  p->run_end = channel_end(&p->chan);
  channel_exact(&p->chan);
  expect_finish(p, FINISH_RUN, run->cb, run->data);
  process_trace_function(p, *run->function ? run->function : "(continued)");
  process_enter(p, STARTING);
  process_flush(p);
  return 0;
}

int cell_launch(struct mf_process *p, const struct event *e) {
  const struct run_request *run = e->run;
  struct process_command c = {.type = CMD_RUN, .body = run->function};
  c.length = strlen(run->function);
  if (!batch_join(p, &c)) {
    process_flush(p);
    return CELL_AGAIN;
  }
  expect_finish(p, FINISH_RUN, run->cb, run->data);
  process_trace_function(p, *run->function ? run->function : "(continued)");
  channel_exact(&p->chan);
  process_enter(p, STARTING);
  process_flush(p);
  return 0;
}

int cell_norun(struct mf_process *p, const struct event *e) {
  const struct run_request *run = e->run;
  if (!p->error)
    process_fail(p, MF_ECLONE_DIED, MF_STARTED_NO, NULL, "the process has ended");
  expect_finish(p, FINISH_RUN, run->cb, run->data);
  process_pend(p, PENDING_FINISH);
  return 0;
}

int cell_detach(struct mf_process *p, const struct event *e) {
  const struct run_request *to = e->run;
  int r = 0;
  process_flush_child(p);
  process_flush(p);
  spares_drop(p);
  /* Its answer tells of what tells nothing by itself: forks with their function; and the
   * birth of a clone, whose options and hooks may fail after the template's DONE. */
  if (!list_empty(&p->asked) || !p->nsent)
    r = command_send_simple(p, CMD_MEMORY, 0, NULL, 0);
  if (r < 0)
    return r;
  deadline_clear(&p->limit);
  channel_exact(&p->chan);
  expect_finish(p, FINISH_TO_FD, to->cb, to->data);
  process_enter(p, DETACHING);
  process_try_detach(p);
  return 0;
}

int cell_nofd(struct mf_process *p, const struct event *e) {
  const struct run_request *to = e->run;
  cell_norun(p, e);
  expect_finish(p, FINISH_TO_FD, to->cb, to->data);
  return 0;
}

int cell_finish(struct mf_process *p, const struct event *e) {
  int r;
  process_flush_child(p);
  process_flush(p);
  spares_drop(p);
  r = command_send_simple(p, CMD_CLOSE, 0, NULL, 0);
  if (r < 0)
    return r;
  deadline_clear(&p->limit);
  process_enter(p, ENDING);
  ending_begin(p);
  return 0;
}

/* It ends by itself, unless it is stopped, or hangs. */
int cell_grace(struct mf_process *p, const struct event *e) {
  ending_begin(p);
  return 0;
}

/* What ends a process that serves: its dispositions are the defaults. */
static int ends_processes(int signum) {
  return signum == SIGKILL || signum == SIGTERM || signum == SIGINT ||
         signum == SIGQUIT || signum == SIGHUP || signum == SIGABRT || signum == SIGSEGV;
}

int cell_kill(struct mf_process *p, const struct event *e) {
  int signum = e->signum;
  process_flush_child(p);
  if (p->is_thread)
    ending_let_go(p);
  if (p->gone)
    return -ESRCH;
  process_learn(p);
  int is_command = p->far && !p->was_asked && !far_link_is_up(p->far) && /* as yet */
                   ends_processes(signum);
  if (p->pid > 0 || is_command) {
    int r = process_kill(p, signum);
    if (r != MF_EUNSUPPORTED)
      p->dying |= ends_processes(signum);
    return r;
  }
  if (p->state == RUNNING || p->state == DETACHED)
    return MF_EUNSUPPORTED; /* its number will never be known */
  p->signal = signum;
  p->dying |= ends_processes(signum);
  return 0;
}

int cell_nokill(struct mf_process *p, const struct event *e) {
  return -ESRCH;
}

/* Over there p may have entered its function already, or does before it hears that it is
 * given up: the near end passes a clone's FORK on once an agent greets, and nothing of
 * the template's own before. */
static int is_adrift(const struct mf_process *p) {
  if (!p->far || p->eof)
    return 0;
  return p->source ? !far_link_is_lost(p->far) : far_link_is_up(p->far);
}

/* Makes it certain whether the function was entered: from now on the process can't write
 * its *running* any more, without which it does not enter; what it wrote before is read.
 * What has come by now came in time; what comes while it is refused has a socket that is
 * of no use to anybody. */
void process_withdraw(struct mf_process *p) {
  struct backend *s = p->context->backend;
  if (p->far)
    far_link_read(p->far);
  process_far_settle_socket(p);
  channel_drain(&p->chan);
  if (p->state != STARTING)
    return;
  p->is_adrift |= is_adrift(p);
  if (p->chan.fd < 0)
    return;
  p->is_withdrawn = 1;
  s->ops->refuse(s, p->chan.fd);
  channel_drain(&p->chan);
  if (p->state == STARTING && !channel_written(&p->chan))
    channel_stop_writing(&p->chan);
}

static void cancel(struct mf_process *p) {
  if (p->finish.kind != FINISH_NONE && !(p->pending & PENDING_FINISH)) {
    if (!p->error)
      p->error = failure_new(MF_ECANCELLED, process_may_have_started(p),
                             failure_text(p, "closed by the caller"), NULL);
    process_pend(p, PENDING_FINISH);
  }
  process_fail_memory(p, MF_ECANCELLED);
  if (p->exit_to.cb && !(p->pending & PENDING_EXIT))
    process_pend(p, PENDING_EXIT);
}

int cell_drop(struct mf_process *p, const struct event *e) {
  cancel(p);
  p->exit.known = 0;
  if (!p->error)
    p->idle_death = 1;
  process_fail(p, MF_ECANCELLED, MF_STARTED_NO, NULL, "closed by the caller");
  process_die(p);
  return 0;
}

/* It ends because nobody speaks to it any more. */
static void hang_up(struct mf_process *p) {
  process_close_channel(p);
  p->eof = 1;
  p->hung_up = 1;
  spares_drop(p);
  process_enter(p, ENDING);
  process_lose_source(p);
  ending_begin(p);
  process_poll_child(p); /* it may have been born already */
}

int cell_close(struct mf_process *p, const struct event *e) {
  int r = cell_finish(p, e);
  if (p->state == DEAD) /* it went down with its batched fork */
    return CELL_AGAIN;
  cancel(p);
  if (r < 0)
    hang_up(p);
  return 0;
}

int cell_revoke(struct mf_process *p, const struct event *e) {
  process_withdraw(p);
  if (p->state != STARTING)
    return CELL_AGAIN;
  cancel(p);
  hang_up(p);
  return 0;
}

int cell_forget(struct mf_process *p, const struct event *e) {
  if (p->far_process)
    far_disregard(p->far, p->far_process);
  cancel(p);
  return 0;
}

int cell_wait(struct mf_process *p, const struct event *e) {
  cancel(p);
  ending_begin(p);
  return 0;
}
