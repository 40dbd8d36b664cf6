/* The end of a process. liveness.c decides what the news of it mean; `process_settle`
 * asks it, whenever something has been heard. Before a death is believed the socket is
 * drained. Runs in the parent. */
#include "parent/process/internal.h"

#include "parent/common/times.h"
#include "parent/private.h"
#include "parent/process/greeting.h"
#include "parent/process/journal.h"
#include "parent/process/liveness.h"
#include "wire/slot_layout.h"
#include <signal.h>
#include <string.h>

/* It may write while we read. */
static size_t copy_words(const struct last_words *w, char *text) {
  size_t n = w->text_size;
  if (n > SLOT_TEXT_MAX)
    n = SLOT_TEXT_MAX;
  memcpy(text, w->text, n);
  return n;
}

/* What a function that failed has left in its slot, or in memory of its own. */
static void take_words(struct mf_process *p) {
  char text[SLOT_TEXT_MAX];
  size_t n;
  if (!p->exit.known || p->exit.code == 0 || p->exit_text)
    return;
  n = p->births       ? births_words(p->births, p->slot, text)
      : p->last_words ? copy_words(p->last_words, text)
                      : 0;
  if (n == 0)
    return;
  p->exit_text = strndup(text, n);
  p->exit.error = p->exit_text;
}

/* Sent something whose fate is open, or somebody waits for an answer. */
static int has_work(const struct mf_process *p) {
  return p->finish.kind != FINISH_NONE || p->state == BATCHED || p->ndone < p->nwork;
}

/* Of one over there it is told before the end of its socket, and its own: never when a
 * link is lost that had an agent, and not in time for who does not wait. */
static int is_on_its_way(const struct mf_process *p) {
  const struct far_process *q = p->far_process;
  int is_cut_off = p->far && far_link_is_lost(p->far) && far_link_had_template(p->far);
  return p->far && (q ? !q->gone : is_cut_off || p->is_adrift);
}

int process_was_told_to_run(const struct mf_process *p) {
  const struct channel *asker = p->source ? &p->source->chan : NULL;
  int is_withheld =
      asker && asker->write_closed && asker->nwritten < p->fork_end; /* its FORK */
  return p->state == STARTING && !is_withheld && p->chan.nwritten >= p->run_end;
}

int process_may_have_started(const struct mf_process *p) {
  int possible =
      p->chan.unread || p->chan.undrained || p->has_entered || is_on_its_way(p);
  return process_was_told_to_run(p) && possible ? MF_STARTED_UNKNOWN : MF_STARTED_NO;
}

/* p executes nothing any more: what it has not forked by now it never will. */
void process_lose_source(struct mf_process *p) {
  process_post_to_forks(p, EV_SOURCE_LOST);
}

/* It has ended (p->exit says how, as far as it is known). */
void process_die(struct mf_process *p) {
  if (p->state == DEAD)
    return;
  process_far_settle_socket(p);
  channel_drain(&p->chan); /* queued bytes outlive their writer */
  process_hear_return(p);
  if (p->state == DEAD)
    return;
  p->forked = 1;
  if (p->state != RUNNING && p->state != DETACHED && p->state != ENDING && !p->error) {
    char how[512];
    process_describe_end(p, how, sizeof how);
    /* What a new process is told before its hello is more than what the caller asked for. */
    p->idle_death = !has_work(p) || (p->greeting && p->dying);
    if (p->greeting && p->far) {
      char room[GREETING_NAME_MAX], hint[FAR_HINT_MAX];
      process_fail(p, p->dying ? MF_ECLONE_DIED : MF_ETEMPLATE_START,
                   process_may_have_started(p), NULL, "%s %s%s", greeting_name(p, room),
                   far_link_is_up(p->far) ? "ended before its template said hello"
                                          : "did not lead to an agent",
                   process_far_hint(p, hint));
    } else if (p->greeting && !p->dying) {
      char room[GREETING_NAME_MAX];
      process_fail(p, MF_ETEMPLATE_START, process_may_have_started(p), NULL,
                   "%s ended before it said hello (%s)%s", greeting_name(p, room), how,
                   greeting_hint(p));
    } else
      process_fail(p, MF_ECLONE_DIED, process_may_have_started(p), NULL,
                   "the process ended instead of answering (%s)", how);
  }
  process_enter(p, DEAD);
  if (process_may_fork(p))
    process_leave(p); /* whoever keeps the record keeps no child of ours from its end */
  else
    process_end_births(p);
  deadline_clear(&p->limit);
  deadline_clear(&p->response_timeout);
  deadline_clear(&p->retry);
  deadline_clear(&p->word_due);
  spares_drop(p);
  spares_lose(p);
  process_close_pidfd(p);
  process_far_leave(p);
  if (p->exit_to.cb || p->exit_hook.cb)
    process_pend(p, PENDING_EXIT);
  process_fail_memory(p, p->error ? p->error->code : MF_ECLONE_DIED);
  if (!p->open && p->close_to.cb && !task_waits(&p->closed))
    process_pend(p, PENDING_CLOSE);
  process_lose_source(p);
  process_close_channel(p);
  batch_free(p->context, p->batch);
  p->batch = NULL;
  task_clear(&p->write);
  registry_lose_default(p);
  p->internal = 0;
  process_forget_source(p);
  process_update(p);
  process_release(p);
}

void process_never_starts(struct mf_process *p) {
  p->refuses |= p->source && p->source->refuses;
  if (p->source && p->source->fork_refused) {
    p->fork_refused = 1;
    if (p->batch)
      journal_batch(&p->journal, p->batch);
  }
  process_fail_like_source(p);
  process_die(p);
}

void process_end_unstarted(struct mf_process *p) {
  process_die(p);
  process_update(p);
}

static enum life_source ask_source(const struct mf_process *p) {
  const struct mf_process *source = p->source;
  if (!p->was_asked)
    return LIFE_SOURCE_NONE;
  if (p->forked || (source && p->fork_number <= source->nsaid))
    return LIFE_SOURCE_EXECUTED;
  /* One that hung up has not ended before it is known how: that is what p is told. */
  return source && !source->refuses && source->state != DEAD ? LIFE_SOURCE_SERVES
                                                             : LIFE_SOURCE_ENDED;
}

void process_set_response_timeout(struct mf_process *p, unsigned ms) {
  deadline_set(&p->context->deadlines, &p->response_timeout, ms);
}

/* At most so long, and not longer than before. What hung up without a hello is no
 * template, and its end is awaited only for the sake of its status. */
static void be_patient(struct mf_process *p, unsigned ms) {
  if (p->greeting && p->eof && ms > HANGUP_TIMEOUT_MS)
    ms = HANGUP_TIMEOUT_MS;
  if (deadline_at(&p->response_timeout) > context_now_ms(p->context) + ms)
    process_set_response_timeout(p, ms);
}

/* The link tells of its end beside its socket, on which its last words may still be on
 * their way: those are complete where the socket ends, or after some time, since a
 * process that it has forked may hold it. */
static int is_behind_its_end(const struct mf_process *p, const struct life *l) {
  return p->far && l->kernel == LIFE_KERNEL_STATUS && !p->eof && !l->unheard &&
         (p->chan.fd >= 0 || p->far_fork.token);
}

/* Is it alive? overdue: it has had its grace. */
void process_decide(struct mf_process *p, int overdue) {
  struct life l;
  unsigned wait_ms = 0;
  if (p->state == DEAD || p->state == BATCHED)
    return;
  process_learn(p);
  if (p->state == DEAD) /* its number told so much that it was decided at once */
    return;
  l = (struct life){.kernel = process_ask_kernel(p),
                    .source = ask_source(p),
                    .hung_up = p->eof,
                    .spoke = p->spoke,
                    .numbered = process_thread_is_born(p) ||
                                (p->births && births_pid(p->births, p->slot) > 0),
                    .unheard = p->state == RUNNING || p->state == DETACHED,
                    .nlooks = (int)p->nlooks};
  if (is_behind_its_end(p, &l) && !overdue) {
    be_patient(p, LIFE_GRACE_MS);
    return;
  }
  switch (life_decide(&l, &wait_ms)) {
  case LIFE_NOTHING:
    break;
  case LIFE_WAIT:
    if (overdue && l.kernel == LIFE_KERNEL_LIVES)
      break;
    p->nlooks += l.kernel == LIFE_KERNEL_GONE;
    be_patient(p, wait_ms);
    break;
  case LIFE_DEAD:
    take_words(p);
    process_die(p);
    break;
  case LIFE_NEVER_STARTED:
    process_never_starts(p);
    break;
  }
}

/* Something was heard of p, or of its source. */
void process_settle(struct mf_process *p) {
  process_decide(p, 0);
}

void process_poll_child(struct mf_process *p) {
  if (process_is_polled(p))
    process_settle(p);
  if (p->state != DEAD)
    process_watch_end(p);
}

/* Nothing can be made of it any more. */
int process_cast_off(struct mf_process *p) {
  process_kill(p, SIGKILL);
  p->eof = 1;
  spares_drop(p);
  process_enter(p, FAILED);
  process_close_channel(p);
  process_lose_source(p);
  process_settle(p);
  return 0;
}

/* The other side did what the protocol does not allow. */
int process_broken_at(const char *origin, struct mf_process *p, const char *what) {
  char room[GREETING_NAME_MAX];
  if (p->greeting) /* of what was taken up it is not known whose the other end is */
    process_fail_at(
        origin, p, MF_ETEMPLATE_START, MF_STARTED_NO, NULL,
        "%s does not speak moonfork's protocol (%s), and %s", greeting_name(p, room),
        what, process_kill(p, SIGKILL) == 0 ? "was killed" : "the socket was closed");
  else
    process_fail_at(origin, p, MF_EPROTOCOL,
                    process_was_told_to_run(p) ? MF_STARTED_UNKNOWN : MF_STARTED_NO, NULL,
                    "protocol error of the process: %s", what);
  return process_cast_off(p);
}

int process_has_pending_fork(const struct mf_process *p) {
  list_each(it, &p->forks) {
    const struct mf_process *q = list_entry(it, struct mf_process, fork_link);
    if (!q->forked && q->open && q->state != DEAD && q->state != ENDING)
      return 1;
  }
  return 0;
}

int process_end_by_force(struct mf_process *p) {
  int r = process_check(p);
  return r ? r : process_event(p, &(struct event){EV_KILL, .signum = SIGKILL});
}
