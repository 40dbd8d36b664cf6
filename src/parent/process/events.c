/* Where events come from: frames, the pidfd, deadlines. Runs in the parent. */
#include "parent/process/internal.h"

#include "parent/common/times.h"
#include "parent/process/births.h"
#include "parent/process/greeting.h"
#include "parent/process/process_trace.h"
#include <signal.h>

static void on_pidfd(struct watch *w, unsigned events) {
  struct mf_process *p = list_entry(w, struct mf_process, pid_watch);
  struct context *ctx = p->context;
  context_enter(ctx);
  if (!p->is_thread || process_thread_look(p))
    process_event(p, &(struct event){EV_PIDFD});
  context_leave(ctx);
}

static void on_limit(struct deadline *d) {
  struct mf_process *p = list_entry(d, struct mf_process, limit);
  process_event(p, &(struct event){EV_TIMEOUT});
}

void process_await_hello(struct mf_process *p) {
  p->hello_by_ms = context_now_ms(p->context) + HELLO_TIMEOUT_MS;
  process_set_response_timeout(p, HELLO_TIMEOUT_MS);
}

/* Of one that was told to end, too, while somebody waits for a fork of it. */
static int is_overdue_hello(const struct mf_process *p) {
  struct backend *s = p->context->backend;
  return p->greeting && !p->eof && !ending_is_awaited(p) &&
         s->ops->now_ms(s) >= p->hello_by_ms;
}

static void miss_hello(struct mf_process *p) {
  char room[GREETING_NAME_MAX], hint[FAR_HINT_MAX];
  int is_killed;
  if (trace_is_on())
    process_trace_mark(p, "timeout",
                       TRACE_ARGS(TRACE_NUMBER("after_ms", HELLO_TIMEOUT_MS)));
  if (p->state == STARTING) {
    process_withdraw(p);
    if (p->state != STARTING)
      return; /* it has come just in time */
  }
  is_killed = process_kill(p, SIGKILL) == 0;
  process_fail(
      p, MF_ETEMPLATE_START, process_may_have_started(p), NULL,
      "%s sent no greeting for %d seconds, and %s%s%s%s", greeting_name(p, room),
      HELLO_TIMEOUT_MS / 1000, is_killed ? "was killed" : "the socket was closed",
      is_killed || !p->taken_up ? ""
                                : ": it is none that to_fd gave, or its process hangs",
      greeting_hint(p), process_far_hint(p, hint));
  process_cast_off(p);
}

/* A hello, a status, or the end of one that was told to end is overdue. It may be the
 * host that was busy: what has come meanwhile counts. */
static void on_response_timeout(struct deadline *d) {
  struct mf_process *p = list_entry(d, struct mf_process, response_timeout);
  channel_drain(&p->chan);
  process_decide(p, 1);
  if (p->state == DEAD || deadline_at(&p->response_timeout) != UINT64_MAX)
    return;
  if (is_overdue_hello(p))
    miss_hello(p);
  else if (p->state != RUNNING && p->state != DETACHED)
    ending_overdue(p); /* it hung up, or was closed, and lives: it runs nothing */
  process_update(p);
  process_release(p);
}

static void on_retry(struct deadline *d) {
  struct mf_process *p = list_entry(d, struct mf_process, retry);
  channel_ready(&p->chan, WATCH_READ);
  channel_flush(&p->chan); /* which watches again */
  process_try_detach(p);
  if (p->ends_thread && p->state != DEAD)
    process_kill(p, SIGKILL);
  process_poll_child(p);
}

void process_expect_stalls(struct mf_process *p) {
  p->retry.on_due = on_retry;
}

static struct mf_process *from_channel(struct channel *c) {
  return list_entry(c, struct mf_process, chan);
}

static int is_overdue_word(const struct mf_process *q) {
  return context_now_ms(q->context) >= q->made_ms + WORD_LOOK_MS &&
         births_pid(q->births, q->slot) > 0;
}

/* Clones of p that were born long ago and have said nothing: what stands in their slots
 * counts, and from now on the kernel tells of their ends. A socket does not end where
 * this program has forked itself in between, and the copy has the other end. */
static void on_word_due(struct deadline *d) {
  struct mf_process *p = list_entry(d, struct mf_process, word_due), *last = NULL;
  while (!list_empty(&p->asked)) {
    struct mf_process *q = list_entry(p->asked.next, struct mf_process, ask_link);
    if (q == last || !q->births || !is_overdue_word(q))
      break;
    if (!process_hear_return(q))
      process_learn(q); /* and it is not among them any more */
    last = q;
  }
  process_await_word(p);
}

void process_await_word(struct mf_process *p) {
  if (!p->far && !list_empty(&p->asked) && deadline_at(&p->word_due) == UINT64_MAX)
    deadline_set(&p->context->deadlines, &p->word_due, WORD_LOOK_MS);
}

/* The process with that number, if p is the one that was asked to fork it; what it says
 * of others is not believed. */
static struct mf_process *reported(struct mf_process *p, uint64_t id) {
  struct mf_process *q = registry_find(p->context, id);
  if (!q || !q->source)
    return NULL;
  return q->source == p ? q : NULL;
}

/* The birth of a clone in a thread that runs at once is no news by itself: it is looked
 * at when the clone has answered, or has hung up. A wake-up less on the way to its
 * function.
 */
static void watch_thread(struct mf_process *p) {
  if (p->is_thread && p->was_asked && p->state != DEAD)
    process_watch_end(p);
}

static void on_frame(struct channel *c, const struct frame *f) {
  struct mf_process *p = from_channel(c), *q;
  if (!p->spoke)
    process_confirm_fork(p);
  watch_thread(p);
  switch (f->type) {
  case ANS_HELLO:
    process_event(p, &(struct event){EV_HELLO, .frame = f});
    break;
  case ANS_DONE:
    process_event(p, &(struct event){EV_DONE, .ndone = f->id});
    break;
  case ANS_FORK_FAILED:
    q = reported(p, f->id);
    if (q)
      process_event(q, &(struct event){EV_FORK_FAILED, .frame = f});
    process_confirm_forks(p); /* those behind it are in doubt no more */
    break;
  case ANS_FAILED:
    process_event(p, &(struct event){EV_FAILED, .frame = f});
    break;
  case ANS_RUNNING:
    process_event(p, &(struct event){EV_RUNNING, .pid = (int)f->id});
    break;
  case ANS_MEMORY:
    q = f->id ? reported(p, f->id) : p;
    if (q)
      process_take_memory(q, f);
    break;
  case ANS_SAVED:
    process_take_saved(p, f);
    break;
  default:
    process_broken_by(p, "unknown answer");
  }
}

int process_hear_return(struct mf_process *p) {
  if (p->state != STARTING || p->error || !p->births)
    return 0;
  if (p->far)
    far_link_read(p->far);
  if (!births_returned(p->births, p->slot, p->id))
    return 0;
  p->has_returned = 1;
  process_confirm_fork(p);
  p->is_withdrawn = 0; /* its socket is at its end, whoever has shut it */
  process_event(p, &(struct event){EV_RUNNING, .pid = p->pid});
  return 1;
}

void process_hear_end(struct mf_process *p, int why) {
  if (why != 0 || !process_hear_return(p))
    process_event(p, &(struct event){EV_EOF, .why = why});
}

static void on_end(struct channel *c, int why) {
  struct mf_process *p = from_channel(c);
  watch_thread(p);
  process_hear_end(p, why);
}

static void on_ready(struct channel *c, unsigned events) {
  struct mf_process *p = from_channel(c);
  struct context *ctx = p->context;
  context_enter(ctx);
  channel_ready(c, events);
  process_try_detach(p);
  context_leave(ctx);
}

static void on_stalled(struct channel *c) {
  struct mf_process *p = from_channel(c);
  deadline_set(&p->context->deadlines, &p->retry, STALL_RETRY_MS);
}

static void on_more(struct channel *c) {
  struct mf_process *p = from_channel(c);
  context_task(p->context, PHASE_READ, &p->read);
}

void process_on_read(struct task *t) {
  struct mf_process *p = list_entry(t, struct mf_process, read);
  channel_ready(&p->chan, WATCH_READ);
  process_try_detach(p);
}

static void on_unsent(struct channel *c) {
  context_drop_outbox(from_channel(c)->context, &c->out);
}

static void on_writer(struct channel *c, int pid, int pidfd) {
  struct mf_process *p = from_channel(c);
  if (p->taken_up &&
      p->greeting) { /* whoever it is has to show that it is a process of ours */
    p->peer_pid = pid;
    p->peer_pidfd = pidfd;
  } else {
    process_identify(p, pid, pidfd);
  }
}

static const struct channel_events channel_events = {
    on_frame, on_end, on_ready, on_stalled, on_more, on_unsent, on_writer};

/* What happens to p comes here. */
void process_listen(struct mf_process *p) {
  p->pid_watch.on_ready = on_pidfd;
  deadline_init(&p->limit, on_limit);
  deadline_init(&p->response_timeout, on_response_timeout);
  deadline_init(&p->retry, on_retry);
  deadline_init(&p->word_due, on_word_due);
  channel_init(&p->chan, &channel_events);
}
