/* Who a process is, and what the kernel knows of it: its number, its pidfd, its status.
 *
 * A process is our child as a rule, whoever forked it: its number stands in its slot
 * (births.h) before it runs, its status comes from the kernel. Where it is not (children
 * of a process that was taken up, sandboxes), its first word tells who it is, and its
 * pidfd when it ends. Runs in the parent. */
#include "parent/process/internal.h"

#include "base/result.h"
#include "parent/common/times.h"
#include "parent/process/children.h"
#include "parent/process/liveness.h"
#include "parent/process/process_trace.h"
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void set_exit(struct mf_process *p, int status) {
  p->exit.known = 1;
  if (WIFSIGNALED(status)) {
    p->exit.signal = WTERMSIG(status);
    p->exit.core = WCOREDUMP(status) != 0;
  } else {
    p->exit.code = WEXITSTATUS(status);
  }
}

static void take_status(struct mf_process *p, const struct proc_status *st) {
  set_exit(p, st->status);
  p->exit.has_rusage = 1;
  p->exit.utime_us = st->utime_us;
  p->exit.stime_us = st->stime_us;
  p->exit.maxrss_bytes = st->maxrss_bytes;
}

/* Signals by number reach nobody else while it is not reaped, which is up to us alone in
 * a host that does not care for children. */
static int owns_number(const struct mf_process *p) {
  struct backend *b = p->context->backend;
  return p->child && !b->ops->is_careless(b) &&
         b->ops->peek(b, p->pidfd, p->pid) != -ECHILD;
}

/* It has ended, and with it all that belongs to it: before it is reaped, where that is up
 * to us, for its group's number is free then. */
static void end_group(struct mf_process *p) {
  struct backend *b = p->context->backend;
  if (!p->tree || p->group_ended)
    return;
  p->group_ended = 1;
  b->ops->kill_group(b, p->pidfd, p->pid, owns_number(p), SIGKILL);
}

/* Reaps our child: 0 and its exit is known, MF_AGAIN: it lives, or -ECHILD: the host has
 * reaped it, or will not let it be reaped; its number may be another's by now. */
static int reap_child(struct mf_process *p) {
  struct backend *s = p->context->backend;
  struct proc_status st;
  if (p->tree && s->ops->peek(s, p->pidfd, p->pid) == 0)
    end_group(p);
  int r = s->ops->reap(s, p->pidfd, p->pid, &st);
  if (r == MF_AGAIN)
    return r;
  p->child = 0;
  children_release(p->pid);
  if (r == 0)
    take_status(p, &st);
  else
    s->ops->note_thief(s);
  return r;
}

/* What the kernel knows of it now. */
enum life_kernel process_ask_kernel(struct mf_process *p) {
  struct backend *s = p->context->backend;
  int status;
  if (p->is_thread)
    return process_thread_ask(p);
  if (p->far)
    return process_far_ask(p);
  if (p->pid <= 0 && p->pidfd < 0)
    return LIFE_KERNEL_MUTE;
  if (p->child) {
    int r = reap_child(p);
    if (r == 0)
      return LIFE_KERNEL_STATUS;
    if (r == MF_AGAIN)
      return LIFE_KERNEL_LIVES;
  }
  if (p->pidfd < 0)
    return p->gone ? LIFE_KERNEL_GONE : LIFE_KERNEL_MUTE;
  if (!p->gone && s->ops->kill(s, p->pidfd, p->pid, 0) != -ESRCH)
    return LIFE_KERNEL_LIVES; /* a zombie is there, too, until its pidfd tells */
  end_group(p);
  if (s->ops->status(s, p->pidfd, p->pid, &status) < 0)
    return LIFE_KERNEL_GONE;
  set_exit(p, status); /* somebody else reaped it, or nobody has */
  return LIFE_KERNEL_STATUS;
}

/* A child that no pidfd watches is asked for now and then, one that has ended but is
 * traced (its tracer has it first), and one that was hung up on before it was born: no
 * socket tells of its birth. */
int process_is_polled(const struct mf_process *p) {
  if (p->state == DEAD)
    return 0;
  if (p->pid <= 0)
    return p->hung_up && p->births;
  return p->child && (p->pidfd < 0 || p->gone) && !p->attended;
}

/* Without a pidfd the number is true only while it is ours to reap. */
int process_kill(struct mf_process *p, int signum) {
  struct backend *s = p->context->backend;
  if (p->is_thread) /* a signal would be its whole process's */
    return signum == SIGKILL ? process_thread_kill(p) : MF_EUNSUPPORTED;
  if (p->far)
    return process_far_kill(p, signum);
  if (p->pid <= 0 || (p->pidfd < 0 && !p->child))
    return MF_EUNSUPPORTED;
  if (p->pidfd < 0 && s->ops->peek(s, -1, p->pid) == -ECHILD)
    return -ESRCH;
  int r = p->tree ? s->ops->kill_tree(s, p->pidfd, p->pid, owns_number(p), signum)
                  : s->ops->kill(s, p->pidfd, p->pid, signum);
  if (r == 0)
    process_trace_kill(p, signum);
  return r;
}

void process_continue(struct mf_process *p) {
  struct backend *s = p->context->backend;
  if (p->is_thread || p->far || p->pid <= 0)
    return;
  if (p->pidfd >= 0 || (p->child && s->ops->peek(s, -1, p->pid) == MF_AGAIN))
    s->ops->kill(s, p->pidfd, p->pid, SIGCONT);
}

/* Without memory for it now, later: else its end would never be noticed. */
void process_watch_end(struct mf_process *p) {
  struct backend *s = p->context->backend;
  if (process_is_polled(p))
    deadline_set(&p->context->deadlines, &p->retry, CHILD_POLL_MS);
  else if (p->pidfd >= 0 && !p->gone && !p->pid_watch.events &&
           s->ops->watch(s, &p->pid_watch, p->pidfd, WATCH_READ) < 0)
    deadline_set(&p->context->deadlines, &p->retry, STALL_RETRY_MS);
}

/* The number of one that is no child of ours can be another's by now, unless its socket,
 * looked at after the pidfd was made, shows that it lives. */
static void doubt_pidfd(struct mf_process *p) {
  struct backend *s = p->context->backend;
  if (p->pidfd >= 0 && !p->child && p->chan.fd >= 0 && s->ops->hung_up(s, p->chan.fd))
    s->ops->close_now(s, &p->pidfd);
}

static void begin_watching(struct mf_process *p) {
  p->forked = 1;
  process_trace(p);
  process_watch_end(p);
  if (p->signal)
    process_kill(p, p->signal);
  p->signal = 0;
}

void process_set_pid(struct mf_process *p, int pid) {
  struct backend *s = p->context->backend;
  p->forked = 1;
  if (p->pid > 0 || pid <= 0)
    return;
  p->pid = pid;
  if (p->child && children_claim(pid) < 0)
    p->child = 0;
  p->ours = p->child;
  p->pidfd = s->ops->pidfd(s, pid);
  if (p->pidfd < 0)
    p->pidfd = -1;
  doubt_pidfd(p);
  begin_watching(p);
}

enum kinship { NO_CHILD, CHILD, ENDED_CHILD }; /* ours, and unreaped */
static void identify(struct mf_process *p, int pid, int pidfd, enum kinship kinship);

/* It has returned, and is about to end. A call that waits for it asks again by itself; with
 * others under way the loop has enough to do meanwhile. */
static int let_end(struct mf_process *p) {
  struct context *ctx = p->context;
  if (!p->has_returned || p->attended || (p->source && !list_empty(&p->source->asked)) ||
      !yielding_is_due(&ctx->yielding))
    return 0;
  yielding_took(&ctx->yielding, ctx->backend->ops->yield(ctx->backend));
  return 1;
}

static enum kinship ask_kinship(struct backend *s, int pidfd, int pid) {
  int r = s->ops->peek(s, pidfd, pid);
  return r == -ECHILD ? NO_CHILD : r == 0 ? ENDED_CHILD : CHILD;
}

/* The number in its slot, once it is there and believed. It is the claim of a template,
 * which may be hostile: it must be a child of ours, and no other record's. A host that
 * reaps what comes may have reaped this one, too, and have another under its number:
 * there its own word is waited for, which tells a pidfd. */
void process_learn(struct mf_process *p) {
  struct backend *s = p->context->backend;
  int pid, pidfd = -1;
  enum kinship kinship = CHILD;
  if (p->is_thread) {
    if (p->life && p->was_asked)
      process_thread_look(p);
    return;
  }
  if (p->far && p->pid <= 0)
    far_link_read(p->far);
  if (p->far && !p->was_asked && process_far_identify(p))
    begin_watching(p);
  if (p->pid > 0 || !p->births)
    return;
  pid = births_pid(p->births, p->slot);
  if (pid <= 0)
    return;
  p->forked = 1;
  process_show_fork(p);
  if (p->pid > 0)
    return;
  if (p->far) {
    if (process_far_identify(p))
      begin_watching(p);
    return;
  }
  if (s->ops->is_careless(s)) {
    pidfd = s->ops->pidfd(s, pid);
    if (pidfd < 0 || s->ops->peek(s, pidfd, pid) == -ECHILD || p->chan.fd < 0 ||
        s->ops->hung_up(s, p->chan.fd)) {
      if (pidfd >= 0)
        s->ops->close_now(s, &pidfd);
      return;
    }
  } else {
    kinship = ask_kinship(s, -1, pid);
    if (kinship == CHILD && let_end(p))
      kinship = ask_kinship(s, -1, pid);
    if (kinship == NO_CHILD) {
      s->ops->note_thief(s);
      return;
    }
  }
  identify(p, pid, pidfd, kinship);
}

/* It is known who it is, by the kernel's word. Takes pidfd (-1: none). */
void process_identify(struct mf_process *p, int pid, int pidfd) {
  identify(p, pid, pidfd, ask_kinship(p->context->backend, pidfd, pid));
}

/* One that has ended already needs no pidfd: who learns of it settles it. */
static void identify(struct mf_process *p, int pid, int pidfd, enum kinship kinship) {
  struct backend *s = p->context->backend;
  int ours = kinship != NO_CHILD;
  int in_slot = p->births ? births_pid(p->births, p->slot) : 0;
  int child = ours && p->pid <= 0 && p->state != DEAD && children_claim(pid) == 0;
  /* Another record's: what was taken up may be known here from before, a clone can't be.
   * Or our own. */
  int anothers = ours ? !child && !p->taken_up : pid == (int)getpid();
  if (p->pid > 0 || p->state == DEAD || anothers) {
    if (pidfd >= 0)
      s->ops->close_now(s, &pidfd);
    return;
  }
  p->pidfd = pidfd;
  p->ours = (unsigned)ours;
  p->child = (unsigned)child;
  if (in_slot == pid && p->ours) {
    births_confirm(p->births, p->slot);
    p->proven = 1;
    if (p->source)
      p->source->proven = 1;
  } else if (in_slot == 0 && p->births && p->source) {
    p->source->no_siblings = 1;
  }
  p->pid = pid;
  p->gone = p->child && pidfd < 0 && kinship == ENDED_CHILD;
  if (p->pidfd < 0 && !p->gone && !(p->attended && p->child))
    p->pidfd = s->ops->pidfd(s, pid);
  if (p->pidfd < 0)
    p->pidfd = -1;
  if (pidfd < 0)
    doubt_pidfd(p);
  begin_watching(p);
}

void process_open_pidfd(struct mf_process *p) {
  struct backend *s = p->context->backend;
  if (p->pidfd >= 0 || !p->child || p->pid <= 0 || p->state == DEAD)
    return;
  p->pidfd = s->ops->pidfd(s, p->pid);
  if (p->pidfd < 0)
    p->pidfd = -1;
  process_watch_end(p);
}

int process_pid(struct mf_process *p) {
  process_learn(p);
  return p->pid;
}
