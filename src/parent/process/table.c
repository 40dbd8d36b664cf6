/* The life of one process as its parent sees it: what an event does in a state.
 *
 *   BATCHED -> FORKING -> SERVING -> STARTING -> RUNNING -> DEAD
 *                |          |  \-> DETACHING -> DETACHED ---^
 *                |          \-> ENDING ---------------------/
 *                \-> FAILED -------------------------------/
 *
 * Only process_enter changes the state:
 *
 *   BATCHED              -> FORKING (process_flush), STARTING (cell_launch)
 *   FORKING              -> SERVING (process_on_word, cell_hello)
 *   FORKING, SERVING     -> STARTING (cell_run), DETACHING (cell_detach),
 *                           ENDING (cell_finish)
 *   STARTING             -> RUNNING (cell_enter), ENDING (cell_revoke)
 *   DETACHING            -> DETACHED (process_try_detach), ENDING (cell_close)
 *   FORKING to DETACHING -> FAILED (cell_failed), ENDING (cell_expire)
 *   ENDING               -> FAILED (cell_failed: its last answer)
 *   any with a socket    -> FAILED (process_cast_off)
 *   any                  -> DEAD (process_die; the record alone: process_abandon,
 *                           process_park)
 *
 * Debug builds and tests know this list as `entered_from`, and what holds between two
 * events as `process_broken_invariant`: they look at both, and abort. Every event goes
 * through one table, in which every cell is filled: `rules`. A cell's name there is that
 * of its function without cell_. Runs in the parent. */
#include "parent/process/cells.h"

#include "parent/process/internal.h"
#include <stdio.h>
#include <stdlib.h>

#ifdef MOONFORK_DEBUG
/* clang-format off */
enum {
  S_BATCHED = 1 << BATCHED, S_FORKING = 1 << FORKING, S_SERVING = 1 << SERVING,
  S_STARTING = 1 << STARTING, S_DETACHING = 1 << DETACHING, S_RUNNING = 1 << RUNNING,
  S_DETACHED = 1 << DETACHED, S_FAILED = 1 << FAILED, S_ENDING = 1 << ENDING, S_DEAD = 1 << DEAD,
  S_ALL = (1 << STATE_COUNT) - 1
};

/* From which states each is entered: the list at the head. */
static const unsigned entered_from[STATE_COUNT] = {
  [FORKING] = S_BATCHED,
  [SERVING] = S_FORKING,
  [STARTING] = S_BATCHED | S_FORKING | S_SERVING,
  [DETACHING] = S_FORKING | S_SERVING,
  [RUNNING] = S_STARTING,
  [DETACHED] = S_DETACHING,
  [FAILED] = S_FORKING | S_SERVING | S_STARTING | S_DETACHING | S_FAILED | S_ENDING,
  [ENDING] = S_FORKING | S_SERVING | S_STARTING | S_DETACHING,
  [DEAD] = S_ALL,
};

void process_check_entry(const struct mf_process *p, enum process_state to) {
  if (entered_from[to] >> p->state & 1)
    return;
  fprintf(stderr, "moonfork: process %llu enters %s from %s\n", (unsigned long long)p->id,
          state_names[to], state_names[p->state]);
  abort();
}

/* In these states, this. The states that are not in a mask are those that are left out of it. */
const char *process_broken_invariant(const struct mf_process *p) {
#define HOLDS(states, condition)                                                                \
  if (((states) >> p->state & 1) && !(condition))                                               \
    return #condition;
  /* the fork command: under construction in BATCHED, and nowhere else */
  HOLDS(S_BATCHED,                          p->batch)
  HOLDS(S_ALL & ~S_BATCHED,                 !p->batch)
  HOLDS(S_BATCHED,                          !p->was_asked && !p->forked && p->pid <= 0)
  HOLDS(S_SERVING | S_RUNNING | S_DETACHED | S_DEAD, p->forked)
  /* the socket: ours until the user has it, or nobody */
  HOLDS(S_BATCHED | S_RUNNING | S_DETACHED | S_DEAD, p->chan.fd < 0)
  HOLDS(S_SERVING | S_STARTING | S_DETACHING, p->chan.fd >= 0 || p->eof || p->far_fork.token)
  HOLDS(S_FAILED,                           p->refuses || p->eof)
  /* what was asked for: decided once, at the latest by the end */
  HOLDS(S_BATCHED | S_FORKING | S_SERVING,  p->finish.kind == FINISH_NONE)
  HOLDS(S_STARTING,                         p->finish.kind == FINISH_RUN)
  HOLDS(S_DETACHING,                        p->finish.kind == FINISH_TO_FD)
  HOLDS(S_STARTING | S_DETACHING,           !p->error || p->pending & PENDING_FINISH)
  HOLDS(S_ALL & ~(S_RUNNING | S_DETACHED | S_DEAD), p->finish.fd < 0)
  HOLDS(S_DEAD | S_FAILED,                  !p->finish.kind || p->pending & PENDING_FINISH)
  HOLDS(S_ALL,                              p->ndone <= p->nsent && p->nwork <= p->nsent)
  HOLDS(S_ALL,                              p->nsaid <= p->ndone)
  HOLDS(S_ALL,                              !p->pending || p->notifying || task_waits(&p->notify))
  /* deadlines */
  HOLDS(S_DETACHING | S_RUNNING | S_DETACHED | S_DEAD, deadline_at(&p->limit) == UINT64_MAX)
  HOLDS(S_DEAD,                             deadline_at(&p->response_timeout) == UINT64_MAX)
  HOLDS(S_DEAD,                             deadline_at(&p->retry) == UINT64_MAX)
  HOLDS(S_DEAD,                             deadline_at(&p->word_due) == UINT64_MAX)
  /* relations to others */
  HOLDS(S_ALL,                              (p->source == NULL) == list_empty(&p->fork_link))
  HOLDS(S_ALL,                              list_empty(&p->ask_link) || (p->source && p->was_asked))
  HOLDS(S_DEAD,                             !p->source && !p->internal)
  HOLDS(S_DEAD,                             !p->batched_child || task_waits(&p->tell))
  HOLDS(S_ALL & ~S_SERVING,                 list_empty(&p->spares) || p->state == FORKING)
  /* the process itself */
  HOLDS(S_DEAD,                             p->pidfd < 0)
  HOLDS(S_ALL,                              !p->child || p->ours || p->pid <= 0)
  /* its end: ending.c */
  HOLDS(S_ENDING,                           p->ending != END_UNASKED)
  HOLDS(S_BATCHED,                          p->ending == END_UNASKED)
  HOLDS(S_ALL & ~S_DEAD,                    p->ending != END_BY_THREADS || p->nthreads)
  HOLDS(S_FAILED | S_ENDING | S_DEAD,       !p->holds_source)
#undef HOLDS
  return NULL;
}
/* clang-format on */

static void check(const struct mf_process *p, const struct event *e) {
  const char *broken = process_broken_invariant(p);
  if (!broken)
    return;
  fprintf(stderr, "moonfork: process %llu after the event %s: %s without %s\n",
          (unsigned long long)p->id, event_names[e->kind], state_names[p->state], broken);
  abort();
}
#else
void process_check_entry(const struct mf_process *p, enum process_state to) {
}
static void check(const struct mf_process *p, const struct event *e) {
}
#endif

const char *const state_names[STATE_COUNT] = {
    "BATCHED", "FORKING",  "SERVING", "STARTING", "DETACHING",
    "RUNNING", "DETACHED", "FAILED",  "ENDING",   "DEAD"};
const char *const event_names[EVENT_COUNT] = {
    "command", "fork",  "run",           "to_fd",       "finish", "kill",
    "close",   "hello", "fork_failed",   "done",        "failed", "running",
    "eof",     "pidfd", "source_failed", "source_lost", "timeout"};

/* clang-format off */
#define R(kind, batched, forking, serving, starting, detaching, running, detached, failed,       \
          ending, dead)                                                                          \
  [EV_##kind] = {cell_##batched, cell_##forking, cell_##serving, cell_##starting,                \
                 cell_##detaching, cell_##running, cell_##detached, cell_##failed,               \
                 cell_##ending, cell_##dead},

/* `broken`: the process can't have sent that in this state. In RUNNING and DETACHED answers
 * can't come, since the socket is the user's. `to_fd` has disarmed the time-out of DETACHING.
 * FAILED and ENDING (by a time-out; what mf_finish has ended is refused by api.c) remember why:
 * `note`, `norun`. ENDING ignores *running*: it entered the function as it was cancelled. */
static cell_function *const rules[EVENT_COUNT][STATE_COUNT] = {
/*               BATCHED FORKING SERVING STARTING DETACHING RUNNING DETACHED FAILED  ENDING  DEAD */
R(COMMAND,       join,   queue,  queue,  reject,  reject,   reject, reject,  note,   note,   note)
R(FORK,          flush,  fork,   fork,   refuse,  refuse,   refuse, refuse,  nofork, nofork, nofork)
R(RUN,           launch, run,    run,    refuse,  refuse,   refuse, refuse,  norun,  norun,  norun)
R(TO_FD,         flush,  detach, detach, refuse,  refuse,   refuse, refuse,  nofd,   nofd,   nofd)
R(FINISH,        flush,  finish, finish, refuse,  refuse,   refuse, refuse,  grace,  ignore, ignore)
R(KILL,          flush,  kill,   kill,   kill,    kill,     kill,   kill,    kill,   kill,   nokill)
R(CLOSE,         drop,   close,  close,  revoke,  close,    forget, forget,  wait,   wait,   forget)
R(HELLO,         ignore, hello,  hello,  hello,   hello,    ignore, ignore,  broken, hello,  ignore)
R(FORK_FAILED,   ignore, denied, broken, denied,  denied,   ignore, ignore,  ignore, denied, ignore)
R(DONE,          ignore, done,   done,   done,    done,     ignore, ignore,  done,   done,   ignore)
R(FAILED,        ignore, failed, failed, failed,  failed,   ignore, ignore,  ignore, failed, ignore)
R(RUNNING,       ignore, broken, broken, enter,   broken,   ignore, ignore,  broken, ignore, ignore)
R(EOF,           ignore, eof,    eof,    eof,     eof,      ignore, ignore,  eof,    eof,    ignore)
R(PIDFD,         ignore, gone,   gone,   gone,    gone,     gone,   gone,    gone,   gone,   ignore)
R(SOURCE_FAILED, orphan, orphan, orphan, orphan,  orphan,   ignore, ignore,  orphan, orphan, ignore)
R(SOURCE_LOST,   lost,   lost,   lost,   lost,    lost,     lost,   lost,    lost,   lost,   ignore)
R(TIMEOUT,       expire, expire, expire, expire,  ignore,   ignore, ignore,  ignore, ignore, ignore)
};
#undef R
/* clang-format on */

int process_event(struct mf_process *p, const struct event *e) {
  int r;
  do
    r = rules[e->kind][p->state](p, e);
  while (r == CELL_AGAIN);
  check(p, e);
  process_update(p);
  process_release(p);
  return r;
}
