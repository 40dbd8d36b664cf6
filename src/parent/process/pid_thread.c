/* Who a clone in a thread is, and how it ends: pid.c's questions, answered by its life
 * (wire/life.h). What stands there a template has written, perhaps a hostile one; it can
 * only lie about its own. Runs in the parent. */
#include "parent/process/internal.h"

#include "parent/process/process_trace.h"
#include "wire/life.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
  KILL_AGAIN_MS = 20,
  CRASH_LOOKS_MAX = 5000 / LIFE_LOOK_MS /* that the end of its process may take */
};

struct thread_life {
  int born, ended; /* what it has said; ended: also what can't be read any further */
  int told;        /* the end came with a status */
  int nlooks;      /* for that of its process, in vain */
  size_t n;        /* bytes */
  unsigned char bytes[2 * sizeof(struct life_record) + LIFE_TEXT_MAX];
};

int process_thread_begin(struct mf_process *p, struct fdset *fds) {
  struct backend *s = p->context->backend;
  int pair[2], r;
  p->life = calloc(1, sizeof *p->life);
  if (!p->life)
    return -ENOMEM;
  r = s->ops->pair(s, pair);
  if (r < 0)
    return r;
  s->ops->refuse_fds(s, pair[0], 1);
  p->pidfd = pair[0];
  fdset_push(fds, pair[1]);
  return 0;
}

static void take_born(struct mf_process *p, const struct life_record *record) {
  p->life->born = 1;
  if (p->pid > 0 || record->number <= 0)
    return;
  p->pid = record->number;
  p->forked = 1;
  process_trace(p);
}

static void take_end(struct mf_process *p, const struct life_record *record,
                     const unsigned char *text) {
  p->life->ended = p->life->told = 1;
  p->exit.known = 1;
  p->exit.signal = record->signal == SIGKILL ? SIGKILL : 0;
  p->exit.code = p->exit.signal ? 0 : record->number & 0xff;
  p->exit.has_rusage = 1;
  p->exit.utime_us = record->utime_us;
  p->exit.stime_us = record->stime_us;
  if (record->text_size && p->exit.code && !p->exit_text) {
    p->exit_text = strndup((const char *)text, record->text_size);
    p->exit.error = p->exit_text;
  }
}

/* Takes the record at the beginning, if it is here: its size, 0, or -EPROTO. */
static ssize_t take_record(struct mf_process *p, const unsigned char *at, size_t left) {
  struct life_record record;
  if (left < sizeof record)
    return 0;
  memcpy(&record, at, sizeof record);
  if (record.kind == LIFE_BORN && !p->life->born && record.text_size == 0) {
    take_born(p, &record);
    return (ssize_t)sizeof record;
  }
  if (record.kind != LIFE_ENDED || !p->life->born || record.text_size > LIFE_TEXT_MAX)
    return -EPROTO;
  if (left < sizeof record + record.text_size)
    return 0;
  take_end(p, &record, at + sizeof record);
  return (ssize_t)(sizeof record + record.text_size);
}

static void take_records(struct mf_process *p) {
  struct thread_life *life = p->life;
  size_t at = 0;
  ssize_t n = 1;
  while (n > 0 && !life->ended) {
    n = take_record(p, life->bytes + at, life->n - at);
    if (n < 0)
      life->ended = 1;
    else
      at += (size_t)n;
  }
  life->n -= at;
  memmove(life->bytes, life->bytes + at, life->n);
}

static void read_life(struct mf_process *p) {
  struct backend *s = p->context->backend;
  struct thread_life *life = p->life;
  while (!life->ended && p->pidfd >= 0) {
    size_t room = sizeof life->bytes - life->n;
    ssize_t n = room ? s->ops->read(s, p->pidfd, life->bytes + life->n, room) : 0;
    if (n == -EAGAIN || n == -EINTR)
      return;
    if (n <= 0) {
      life->ended = 1; /* with its process, or never born */
      return;
    }
    life->n += (size_t)n;
    take_records(p);
  }
}

/* To kill it looks at its life, too: so not while that is read. */
static void send_early_signal(struct mf_process *p) {
  int signum = p->signal;
  if (signum == 0 || p->pid <= 0)
    return;
  p->signal = 0;
  process_kill(p, signum);
}

int process_thread_look(struct mf_process *p) {
  int was_born = p->life->born;
  read_life(p);
  send_early_signal(p);
  if (p->life->born && !was_born)
    process_show_fork(p);
  return p->life->ended;
}

int process_thread_is_born(const struct mf_process *p) {
  return p->life && p->life->born;
}

/* One that has not told its end has not ended by itself: what its process is given by C
 * code, exit(0) for one, is no success of it. */
static void end_with(struct mf_process *p, const struct mf_exit *process) {
  p->exit.known = 1;
  p->exit.signal = process->signal;
  p->exit.code = process->signal || process->code ? process->code : 1;
  p->exit.core = process->core;
  if (process->signal || p->exit_text)
    return;
  if (asprintf(
          &p->exit_text,
          "the template's process, in which this clone was a thread, ended with exit "
          "status %d",
          process->code) < 0)
    p->exit_text = NULL;
  p->exit.error = p->exit_text;
}

/* It went down with its process: how that ended is how it has ended. */
static enum life_kernel ask_process(struct mf_process *p) {
  const struct mf_process *source = p->source;
  p->gone = 1;
  if (source && source->state != DEAD && p->life->nlooks++ < CRASH_LOOKS_MAX)
    p->nlooks = 0; /* its descriptors go first, then perhaps a core is written */
  if (!source || source->state != DEAD)
    return LIFE_KERNEL_GONE;
  if (source->exit.known) {
    end_with(p, &source->exit);
    return LIFE_KERNEL_STATUS;
  }
  p->nlooks = LIFE_LOOKS_MAX; /* nobody will ever tell */
  return LIFE_KERNEL_GONE;
}

enum life_kernel process_thread_ask(struct mf_process *p) {
  if (!p->life || !p->was_asked)
    return LIFE_KERNEL_MUTE;
  process_thread_look(p);
  if (p->life->told)
    return LIFE_KERNEL_STATUS;
  if (p->life->ended &&
      (p->life->born || p->forked)) /* it may have had no time to tell */
    return ask_process(p);
  return p->life->born ? LIFE_KERNEL_LIVES : LIFE_KERNEL_MUTE;
}

/* Whom the number means only the template knows: while that lives, and by the number of
 * the clone, nobody else is reached. Sent again until the end is told. */
int process_thread_kill(struct mf_process *p) {
  struct backend *s = p->context->backend;
  const struct mf_process *source = p->source;
  process_thread_look(p);
  if (p->life->ended)
    return -ESRCH;
  if (p->pid <= 0 || !source || source->pid <= 0 || !source->ours)
    return MF_EUNSUPPORTED;
  int r = s->ops->kill_thread(s, source->pid, p->pid, THREAD_END_SIGNAL,
                              THREAD_END_VALUE(p->id));
  p->ends_thread = 1;
  deadline_set(&p->context->deadlines, &p->retry, KILL_AGAIN_MS);
  return r;
}
