/* The cells of the table: answers of the process, and its end. Runs in the parent. */
#include "parent/process/cells.h"

#include "parent/common/times.h"
#include "parent/process/greeting.h"
#include "parent/process/internal.h"
#include "parent/process/process_trace.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* It is of another build: it has executed nothing, and says so itself in its next frame.
 */
static int foreign_build(struct mf_process *p, const struct greeting *g) {
  char *text = greeting_complaint(g, p);
  process_fail(p, MF_ETEMPLATE_START, MF_STARTED_NO, NULL, "%s",
               text ? text : "the template program is of another build of moonfork");
  free(text);
  return process_cast_off(p);
}

int cell_broken(struct mf_process *p, const struct event *e) {
  return process_broken_by(p, "answer not allowed in this state");
}

/* What was forked from it meanwhile has one, too. */
static void learn_of_tree(struct mf_process *p) {
  p->tree = 1;
  list_each(it, &p->forks) {
    struct mf_process *q = list_entry(it, struct mf_process, fork_link);
    if (q->inherits_tree)
      q->tree = 1;
  }
}

int cell_hello(struct mf_process *p, const struct event *e) {
  const struct frame *f = e->frame;
  struct greeting g;
  if (p->was_asked && !p->introduced) { /* who it is the kernel has told */
    p->introduced = 1;
    p->expects_hello = 0;
    if (p->takes_word)
      process_set_pid(p, (int)f->id);
    return process_on_word(p);
  }
  if (!p->greeting)
    return process_broken_by(p, "second hello");
  if (greeting_read(f, &g) < 0)
    return process_broken_at(origin_of_code(ORIGIN), p, "malformed hello");
  if (!greeting_is_ours(&g))
    return foreign_build(p, &g);
  p->greeting = 0;
  /* What is left to one that was closed meanwhile is no deadline of the hello. */
  if (p->state != ENDING && deadline_at(&p->response_timeout) >= p->hello_by_ms)
    deadline_clear(&p->response_timeout);
  if (p->peer_pid > 0) {
    process_identify(p, p->peer_pid, p->peer_pidfd);
    p->peer_pid = 0;
    p->peer_pidfd = -1;
  }
  if (p->taken_up) { /* commands of former owners count before ours */
    p->nsent += g.executed;
    p->nwork += g.executed;
    p->ndone += g.executed;
    p->nsaid += g.executed;
    if (g.tree)
      learn_of_tree(p);
  }
  if (p->takes_word)
    process_set_pid(p, (int)f->id);
  p->forked = 1;
  if (p->state == FORKING)
    process_enter(p, SERVING);
  process_try_detach(p);
  return 0;
}

int cell_denied(struct mf_process *p, const struct event *e) {
  struct failure *f = failure_decode(p, e->frame);
  if (!f)
    f = failure_new(MF_EFORK_FAILED, MF_STARTED_NO, failure_text(p, "the fork failed"),
                    NULL);
  p->fork_refused = 1;
  process_fail_with(p, f);
  process_die(p);
  return 0;
}

int cell_done(struct mf_process *p, const struct event *e) {
  uint64_t n = e->ndone;
  if (n > p->nsent)
    return process_broken_by(p, "impossible count of executed commands");
  process_advance(p, n);
  process_try_detach(p);
  spares_go_on(p);
  spares_want(p);
  return 0;
}

/* No interpreter, the wrong version: the program's failure, and not an option's. */
static int is_about_start(const struct frame *f) {
  return f->length > 1 && f->body[1] == PHASE_START;
}

static void name_program(const struct mf_process *p, struct failure *f) {
  char room[GREETING_NAME_MAX], *text = NULL;
  size_t lead = p->name ? strlen(p->name) + 2 : 0; /* see copy_message */
  if (asprintf(&text, "%s could not start: %s", greeting_name(p, room),
               f->message ? f->message + lead : "no reason was given") < 0)
    return;
  free(f->message);
  f->message = failure_message(p, text, strlen(text));
  free(text);
}

int cell_failed(struct mf_process *p, const struct event *e) {
  uint64_t number = e->frame->id; /* of the command that failed */
  struct failure *f = failure_decode(p, e->frame);
  if (!f || number == 0 || number - 1 > p->nsent) {
    failure_free(f);
    return process_broken_at(origin_of_code(ORIGIN), p, "malformed failure report");
  }
  process_advance(p, number - 1); /* which it may not have told */
  if (p->greeting && is_about_start(e->frame)) {
    f->code = MF_ETEMPLATE_START;
    name_program(p, f);
  }
  p->greeting = 0;
  p->forked = 1;
  p->refuses = 1;
  spares_drop(p);
  deadline_clear(&p->limit);
  process_enter(p, FAILED);
  process_fail_memory(p, f->code);
  process_measure_clones(p);
  process_fail_with(p, f);
  registry_lose_default(p);
  return 0;
}

int cell_enter(struct mf_process *p, const struct event *e) {
  deadline_clear(&p->limit);
  if (p->takes_word)
    process_set_pid(p, e->pid);
  p->forked = 1;
  if (p->is_withdrawn) {
    p->has_entered = 1;
    p->eof = 1;
    process_close_channel(p);
    return 0;
  }
  process_advance(p, p->nsent);
  p->finish.fd = channel_steal(&p->chan);
  if (p->finish.fd < 0) { /* it has ended, and was never made */
    p->finish.fd = p->far_fork.dead;
    p->far_fork.dead = -1;
  }
  process_enter(p, RUNNING);
  process_pend(p, PENDING_FINISH);
  process_ask_waiting(p);
  process_leave_to_kernel(p);
  return 0;
}

/* Its socket has ended. Whether it has, the kernel or its source will tell soon. */
int cell_eof(struct mf_process *p, const struct event *e) {
  int why = e->why;
  if (why == -EPROTO)
    return process_broken_at(origin_of_code(ORIGIN), p, "malformed frame");
  p->eof = 1;
  if (p->is_withdrawn) /* it is we who have ended it, and who say what becomes of it */
    return 0;
  registry_lose_default(p);
  if (p->forked) /* else there is nobody yet who could have forked */
    process_lose_source(p);
  if (!p->was_asked && p->pid <= 0 && !p->far) {
    process_fail(
        p, p->greeting ? MF_ETEMPLATE_START : MF_ECLONE_DIED, MF_STARTED_NO, NULL,
        p->taken_up && p->greeting
            ? "whoever had the other end of that socket closed it without the "
              "first word of a process: it had ended, or the socket is none that "
              "to_fd gave"
            : "the process closed its socket before its pid was known");
    process_die(p);
    return 0;
  }
  process_settle(p);
  return 0;
}

int cell_gone(struct mf_process *p, const struct event *e) {
  struct backend *s = p->context->backend;
  p->gone = 1;
  s->ops->watch(s, &p->pid_watch, p->pidfd, 0);
  process_settle(p);
  if (p->state != DEAD && p->child) /* it was traced, or is about to be reapable */
    deadline_set(&p->context->deadlines, &p->retry, CHILD_POLL_MS);
  return 0;
}

/* Its source executes nothing more, or will not for long. Where it has said so, what it
 * had not executed never will be; else it may have been forked, and is asked for. */
int cell_orphan(struct mf_process *p, const struct event *e) {
  const struct mf_process *source = p->source;
  process_learn(p);
  if (p->state == DEAD || p->forked || !source)
    return 0;
  if (p->state == BATCHED || (source->refuses && p->fork_number > source->ndone))
    process_never_starts(p);
  else
    process_settle(p);
  return 0;
}

/* Nothing of what was asked of its source will be executed any more. Its own socket tells
 * whether it has been forked before: it ends where nobody has the other end. */
int cell_lost(struct mf_process *p, const struct event *e) {
  const struct mf_process *source = p->source;
  if (p->state == RUNNING)
    process_measure(p); /* its template was to answer */
  if (p->state == BATCHED ||
      (source && source->refuses && !p->forked && p->fork_number > source->ndone))
    process_never_starts(p);
  else
    process_settle(p);
  return 0;
}

int cell_expire(struct mf_process *p, const struct event *e) {
  if (p->state == STARTING)
    process_withdraw(p);
  if (p->state == RUNNING || p->state == FAILED || p->state == DEAD)
    return 0; /* it came just in time, or has its own error */
  if (trace_is_on())
    process_trace_mark(p, "timeout", TRACE_ARGS(TRACE_NUMBER("after_ms", p->limit_ms)));
  char hint[FAR_HINT_MAX] = "";
  process_fail(
      p, MF_ETIMEOUT, process_may_have_started(p), NULL,
      "the function was not entered within %u ms of the process's creation (option "
      "timeout)%s%s",
      p->limit_ms,
      p->greeting && p->far && !far_link_is_up(p->far) ? "; no agent has greeted" : "",
      p->greeting ? process_far_hint(p, hint) : "");
  if (p->state == BATCHED) {
    process_die(p);
    return 0;
  }
  cell_kill(p, &(struct event){EV_KILL, .signum = SIGKILL});
  if (p->pid <= 0) { /* not forked yet: it will find its socket hung up */
    process_close_channel(p);
    p->eof = 1;
    process_lose_source(p);
  }
  spares_drop(p);
  process_enter(p, ENDING);
  ending_begin(p); /* the news of its end may not come: its template may hang */
  process_settle(p);
  return 0;
}
