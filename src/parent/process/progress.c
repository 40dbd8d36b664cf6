/* What a process has executed, as it says itself. Runs in the parent. */
#include "parent/process/internal.h"

#include "os/drop.h"
#include "parent/process/births.h"

/* The socket goes to the user: what ends from now on only the kernel tells. */
void process_leave_to_kernel(struct mf_process *p) {
  process_learn(p);
  if (p->gone)
    process_settle(p);
  else if (!process_end_is_told(p))
    process_set_response_timeout(
        p, 0); /* nobody will notice its end: report it as unknown at once */
}

/* All is executed: the socket can go. */
void process_try_detach(struct mf_process *p) {
  if (p->state != DETACHING || !p->forked || p->expects_hello || p->ndone < p->nsent ||
      !channel_written(&p->chan) || inbox_pending(&p->chan.in))
    return;
  p->finish.fd = channel_steal(&p->chan);
  process_enter(p, DETACHED);
  process_lose_source(p);
  process_pend(p, PENDING_FINISH);
  process_ask_waiting(p);
  process_leave_to_kernel(p);
}

/* It exists. */
int process_on_word(struct mf_process *p) {
  p->forked = 1;
  if (p->state == FORKING)
    process_enter(p, SERVING);
  process_try_detach(p);
  return 0;
}

/* Its socket goes to its source in a message, unless that is on another machine. */
void process_ask(struct mf_process *source, struct mf_process *q) {
  q->is_counted = !q->far && !q->connects;
  if (q->is_counted)
    drop_count_sent(1);
  list_push(&source->asked, &q->ask_link);
}

void process_unask(struct mf_process *q) {
  if (q->is_counted)
    drop_count_sent(-1);
  q->is_counted = 0;
  list_remove(&q->ask_link);
}

void process_answered(struct mf_process *q) {
  listener_hear(q);
  process_unask(q);
  if (q->source && list_empty(&q->source->asked))
    deadline_clear(&q->source->word_due);
}

/* Only a later fork shows that its source was at this one, too, which it has perhaps
 * refused: the refusal is on its way then, on another socket than what shows it. */
static int is_doubtful(const struct mf_process *q) {
  if (q->spoke || q->fork_number <= q->source->nsaid)
    return 0;
  if (q->is_thread)
    return q->life && !process_thread_is_born(q);
  return q->births && births_pid(q->births, q->slot) <= 0;
}

static void confirm(struct mf_process *q) {
  process_answered(q);
  q->forked = 1;
  process_learn(q);
  process_on_word(q);
  if (q->eof)
    process_settle(q);
  process_update(q);
}

void process_confirm_forks(struct mf_process *p) {
  while (!list_empty(&p->asked)) {
    struct mf_process *q = list_entry(p->asked.next, struct mf_process, ask_link);
    if (q->fork_number > p->ndone || is_doubtful(q))
      return;
    if (!context_step(p->context, PHASE_TELL)) {
      context_task(p->context, PHASE_TELL, &p->tell);
      return;
    }
    confirm(q);
  }
}

static void execute(struct mf_process *p, uint64_t n) {
  if (n > p->ndone)
    p->ndone = n;
  process_confirm_forks(p);
  registry_prove_default(p);
  spares_want(p);
}

void process_advance(struct mf_process *p, uint64_t n) {
  if (n <= p->nsaid)
    return;
  p->nsaid = n;
  execute(p, n);
}

void process_show_fork(struct mf_process *p) {
  struct mf_process *source = p->source;
  if (source && !list_empty(&p->ask_link))
    execute(source, p->fork_number);
}

void process_confirm_fork(struct mf_process *p) {
  p->spoke = 1;
  process_show_fork(p);
  if (p->source && !list_empty(&p->ask_link)) /* an earlier one is in doubt */
    confirm(p);
}
