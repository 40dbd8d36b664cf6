/* How a process ends that was told to, or has hung up: in time, by force, or with the last
 * of its clones that are threads of it. Runs in the parent.
 *
 *   state           what it is                          who closes it waits   it ends
 *   END_UNASKED     nobody wants its end yet            -                     -
 *   END_IN_GRACE    told to end: it executes what is    yes; not while        by itself, in
 *                   queued                              threads run           CLOSE_GRACE_MS
 *   END_BY_THREADS  the same, and clones of it run in   no                    with the last
 *                   threads                                                   of them
 *   END_BY_FORCE    sent SIGKILL                        yes                   in
 *                                                                             REPORT_TIMEOUT_MS
 *
 *   event                                      UNASKED     IN_GRACE    BY_THREADS  BY_FORCE
 *   told to end: closed, finished, given up
 *     (ending_begin)                           IN_GRACE    IN_GRACE    -           -
 *   closed, all is executed, threads run
 *     (ending_look)                            -           BY_THREADS  -           -
 *   its time is over (ending_overdue), and
 *     somebody waits for a fork of it          -           IN_GRACE    -           DEAD
 *     threads run                              -           BY_THREADS  -           DEAD
 *     neither, or it has hung up by itself     BY_FORCE    BY_FORCE    BY_FORCE    DEAD
 *   the last thread is over (ending_let_go)    -           -           IN_GRACE    -
 *
 * What can't be killed is DEAD in the place of BY_FORCE. A process that has hung up by
 * itself serves its clones no more: C code may have taken its first thread.
 *
 * A clone in a thread holds its template's process, from its fork until it is over: until
 * it has ended or failed, is closed before it ran, or is killed, which may take long where
 * it does not come to an instruction of Lua, or is stopped. The template counts those that
 * hold it (nthreads). So the record of a clone that runs is kept without the user's handle,
 * until it has ended or all records leave the loop. */
#include "parent/process/internal.h"

#include "parent/common/times.h"
#include <signal.h>

/* ---- the clone's side ---- */

void ending_hold(struct mf_process *p) {
  p->holds_source = 1;
  p->source->nthreads++;
}

void ending_let_go(struct mf_process *p) {
  struct mf_process *source = p->source;
  if (!p->holds_source)
    return;
  p->holds_source = 0;
  if (!source || --source->nthreads > 0)
    return;
  if (source->ending == END_BY_THREADS)
    ending_begin(source);
  process_update(source);
}

/* ---- the process's ---- */

static int runs_threads(const struct mf_process *p) {
  return p->nthreads && (!p->eof || p->hung_up);
}

/* Whoever gave up its run does not wait for its end either. */
int ending_is_awaited(const struct mf_process *p) {
  int ends = p->ending == END_BY_FORCE || (p->ending == END_IN_GRACE && !runs_threads(p));
  int is_given_up = p->hung_up && p->finish.quiet;
  return ends && !p->open && p->child && p->state != DEAD && !is_given_up;
}

/* Who has hung up, or is gone, may have less time already. */
void ending_begin(struct mf_process *p) {
  uint64_t end_ms = context_now_ms(p->context) + CLOSE_GRACE_MS;
  int is_left = p->ending == END_BY_THREADS && p->nthreads;
  if (p->state == DEAD || is_left || p->ending == END_BY_FORCE)
    return;
  p->ending = END_IN_GRACE;
  if (!p->eof || deadline_at(&p->response_timeout) > end_ms)
    process_set_response_timeout(p, CLOSE_GRACE_MS);
}

static void leave_to_threads(struct mf_process *p) {
  if (p->ending == END_BY_THREADS)
    return;
  p->ending = END_BY_THREADS;
  if (p->threads_hook.cb)
    p->threads_hook.cb(p->threads_hook.data);
}

/* Of what it executes, the command that ends it is the last. */
void ending_look(struct mf_process *p) {
  int is_idle = p->state == FAILED || p->eof || p->nsent - p->ndone <= 1;
  if (p->ending == END_IN_GRACE && !p->open && runs_threads(p) && is_idle)
    leave_to_threads(p);
}

static void kill_it(struct mf_process *p) {
  if (process_kill(p, SIGKILL) < 0 || !process_end_is_told(p)) {
    process_die(p);
    return;
  }
  p->ending = END_BY_FORCE;
  process_set_response_timeout(p, REPORT_TIMEOUT_MS);
}

/* What does not end by a signal either (one that does not exist yet, that changed its
 * user, or that waits in the kernel) is not waited for. */
void ending_overdue(struct mf_process *p) {
  int forks = p->state == ENDING && !p->eof && p->ndone < p->nsent;
  if (p->ending == END_BY_FORCE)
    process_die(p);
  else if (forks && process_has_pending_fork(p))
    process_set_response_timeout(p, CLOSE_GRACE_MS);
  else if (runs_threads(p))
    leave_to_threads(p);
  else
    kill_it(p);
}
