/* Who a process behind a link is, and what the link knows of it: pid.c's questions,
 * answered by far.c. Runs in the parent. */
#include "parent/process/internal.h"

#include "parent/process/births.h"
#include "parent/process/process_trace.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static void take_status(struct mf_process *p, const struct far_process *q) {
  p->exit.known = 1;
  if (WIFSIGNALED(q->status)) {
    p->exit.signal = WTERMSIG(q->status);
    p->exit.core = WCOREDUMP(q->status) != 0;
  } else {
    p->exit.code = WEXITSTATUS(q->status);
  }
  p->exit.has_rusage = 1;
  p->exit.utime_us = q->utime_us;
  p->exit.stime_us = q->stime_us;
  p->exit.maxrss_bytes = q->maxrss_bytes;
  if (q->words && p->exit.code && !p->exit_text) {
    p->exit_text = strdup(q->words);
    p->exit.error = p->exit_text;
  }
}

static void explain_loss(struct mf_process *p) {
  if (p->exit_text || !*far_link_reason(p->far))
    return;
  if (asprintf(&p->exit_text, "the connection is lost: %s", far_link_reason(p->far)) < 0)
    p->exit_text = NULL;
  p->exit.error = p->exit_text;
}

/* Of one that was never born its socket and its source tell, as here. */
enum life_kernel process_far_ask(struct mf_process *p) {
  struct far_process *q = p->far_process;
  far_link_read(p->far);
  if (q && q->gone) {
    p->gone = 1;
    if (q->status_is_unknown) {
      p->nlooks = LIFE_LOOKS_MAX;
      return LIFE_KERNEL_GONE;
    }
    take_status(p, q);
    return LIFE_KERNEL_STATUS;
  }
  if (far_link_is_lost(p->far) && (q || !p->was_asked)) {
    p->gone = 1;
    if (far_link_ended_by(p->far)) { /* as one here that is killed before its birth */
      p->exit.known = 1;
      p->exit.signal = far_link_ended_by(p->far);
      return LIFE_KERNEL_STATUS;
    }
    explain_loss(p);
    p->nlooks = LIFE_LOOKS_MAX; /* nobody will ever tell */
    return LIFE_KERNEL_GONE;
  }
  if (p->eof)
    far_link_listen(p->far);
  return q || !p->was_asked ? LIFE_KERNEL_LIVES : LIFE_KERNEL_MUTE;
}

/* A far template without a number does not exist yet: there is only the command. */
int process_far_kill(struct mf_process *p, int signum) {
  struct far_process *q = p->far_process;
  if (!q && !p->was_asked) {
    if (signum)
      far_link_end(p->far, signum);
    process_trace_kill(p, signum);
    return 0;
  }
  if (!q)
    return MF_EUNSUPPORTED;
  if (q->gone)
    return -ESRCH;
  uint32_t numbers[3] = {q->serial, (uint32_t)signum, p->tree};
  int r = signum ? far_tell(p->far, LINK_KILL, numbers, 3) : 0;
  if (r == 0 && signum)
    process_trace_kill(p, signum);
  return r;
}

int process_far_identify(struct mf_process *p) {
  struct far_process *q;
  uint32_t table, index;
  if (p->far_process || p->state == DEAD)
    return 0;
  if (p->births) {
    births_place(p->births, p->slot, &table, &index);
    q = far_born(p->far, table, index);
  } else {
    q = p->was_asked ? NULL : far_root(p->far);
  }
  if (!q || q->process)
    return 0;
  p->far_process = q;
  p->pid = q->pid;
  if (p->births)
    births_confirm(p->births, p->slot);
  p->proven = 1;
  if (p->source)
    p->source->proven = 1;
  far_claim(p->far, q, p);
  return 1;
}

void process_far_leave(struct mf_process *p) {
  if (p->far_process)
    far_leave(p->far, p->far_process);
  p->far_process = NULL;
}

void process_far_mark_tree(const struct mf_process *p) {
  uint32_t place[3];
  if (!p->far || !p->tree)
    return;
  if (!p->births) {
    static const uint32_t root[3] = {LINK_TABLE_NONE, 0, 0};
    far_tell(p->far, LINK_TREE, root, 3);
    return;
  }
  births_place(p->births, p->slot, &place[0], &place[2]);
  place[1] = far_step_count(p->far, place[0]);
  far_tell(p->far, LINK_TREE, place, 3);
}

/* ---- what the link tells ---- */

static void take_socket(struct mf_process *p, int fd) {
  struct backend *b = p->context->backend;
  if (fd < 0) {
    process_hear_end(p, 0);
    return;
  }
  (void)b->ops->unblock(b, fd);
  int r = process_connect(p, fd);
  if (r < 0)
    process_hear_end(p, r);
}

static void on_socket(struct far_fork *fork, int fd) {
  struct mf_process *p = list_entry(fork, struct mf_process, far_fork);
  take_socket(p, fd);
  if (fd < 0)
    return;
  channel_ready(&p->chan, WATCH_READ);
  process_try_detach(p);
}

void process_far_settle_socket(struct mf_process *p) {
  if (!p->far_fork.token)
    return;
  far_link_read(p->far);
  if (p->far_fork.is_told) {
    take_socket(p, far_fork_take(p->far, &p->far_fork));
  } else {
    far_fork_forget(p->far, &p->far_fork);
    p->is_adrift = 1;
    if (p->state != DEAD)
      p->eof = 1;
  }
}

void process_close_channel(struct mf_process *p) {
  if (p->is_early && p->far)
    far_fork_forget(p->far, &p->far_fork);
  channel_close(&p->chan);
}

static void on_gone(struct mf_process *p) {
  process_event(p, &(struct event){EV_PIDFD});
}

static void visit(struct far_record *r, unsigned what) {
  struct mf_process *p = list_entry(r, struct mf_process, behind);
  if ((what & FAR_BORN) && p->state != DEAD && !p->was_asked)
    process_learn(p);
  if ((what & FAR_UNCLAIMED) && p->state != DEAD && !p->far_process && p->eof)
    on_gone(p);
  if ((what & FAR_LOST) && p->state != DEAD)
    on_gone(p);
}

void process_far_join(struct mf_process *p, struct far_link *far) {
  p->far = far;
  far_join(far, &p->behind);
}

static void on_measured(struct mf_process *p, int error, const uint64_t values[4]) {
  list_each(it, &p->memory) {
    struct memory_request *m = list_entry(it, struct memory_request, link);
    if (m->done || m->waits || m->file)
      continue;
    m->done = 1;
    m->error = error;
    m->info.pss = values[0];
    m->info.uss = values[1];
    m->info.rss = values[2];
    m->info.shared = values[3];
  }
  process_pend(p, PENDING_MEMORY);
}

void process_far_measure(struct mf_process *p, struct memory_request *m) {
  int r = p->far_process ? far_measure(p->far, p->far_process) : MF_EUNSUPPORTED;
  if (r == 0)
    return;
  m->done = 1;
  m->error = r == -ENOMEM ? MF_ENOMEM : r == -ESRCH ? MF_ECLONE_DIED : r;
  process_pend(p, PENDING_MEMORY);
}

const char *process_far_hint(const struct mf_process *p, char *room) {
  const char *printed, *reason;
  if (!p->far)
    return "";
  far_link_read(p->far);
  printed = far_link_printed(p->far);
  reason = far_link_reason(p->far);
  size_t n = strlen(printed);
  while (n && (printed[n - 1] == '\n' || printed[n - 1] == ' '))
    n--;
  if (far_link_is_up(p->far)) {
    snprintf(room, FAR_HINT_MAX, "%s%s", *reason ? ": " : "", reason);
    return room;
  }
  snprintf(room, FAR_HINT_MAX, "%s%s%s%.*s%s", *reason ? ": " : "", reason,
           n ? "; it printed: " : "", (int)n, printed, n ? "" : "; it printed nothing");
  return room;
}

const struct far_ops process_far_ops = {on_socket, on_gone, on_measured, visit};
