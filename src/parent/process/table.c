/* The life of one process as its parent sees it: what an event does in a state.
 *
 *   HELD -> FORKING -> SERVING -> STARTING -> RUNNING -> DEAD
 *             |          |  \-> GIVING -> GIVEN ---------^
 *             |          \-> ENDING --------------------/
 *             \-> FAILED ------------------------------/
 *
 * Only process_enter changes the state:
 *
 *   HELD              -> FORKING (process_unhold), STARTING (cell_launch)
 *   FORKING           -> SERVING (process_on_word, cell_hello)
 *   FORKING, SERVING  -> STARTING (cell_run), GIVING (cell_give), ENDING (cell_finish)
 *   STARTING          -> RUNNING (cell_enter), ENDING (cell_revoke)
 *   GIVING            -> GIVEN (process_try_give), ENDING (cell_close)
 *   any from FORKING to GIVING -> FAILED (cell_failed), ENDING (cell_expire)
 *   any that has a socket      -> FAILED (process_cast_off)
 *   any               -> DEAD (process_die; process_abandon and process_park: of the
 * record)
 *
 * What holds between two events: HELD has its fork command (`hold`) and no socket;
 * RUNNING and GIVEN have no socket of ours any more; DEAD has neither socket, command,
 * source nor deadline. Every event goes through one table, in which every cell is filled:
 * `rules`. A cell's name there is that of its function without cell_. Runs in the parent.
 */
#include "parent/process/cells.h"

#include "parent/process/process.h"

const char *const state_names[STATE_COUNT] = {"HELD",   "FORKING", "SERVING", "STARTING",
                                              "GIVING", "RUNNING", "GIVEN",   "FAILED",
                                              "ENDING", "DEAD"};
const char *const event_names[EVENT_COUNT] = {
    "command", "fork",  "run",           "to_fd",       "finish", "kill",
    "close",   "hello", "fork_failed",   "done",        "failed", "running",
    "eof",     "pidfd", "source_failed", "source_lost", "timeout"};

/* clang-format off */
#define R(kind, held, forking, serving, starting, giving, running, given, failed, ending, dead) \
  [EV_##kind] = {cell_##held, cell_##forking, cell_##serving, cell_##starting, cell_##giving,   \
                 cell_##running, cell_##given, cell_##failed, cell_##ending, cell_##dead},

/* `broken`: the process can't have sent that in this state. In RUNNING and GIVEN answers can't
 * come, since the socket is the user's. `to_fd` has disarmed the time-out of GIVING. FAILED and
 * ENDING (by a time-out; what mf_finish has ended is refused by api.c) remember why: `note`,
 * `norun`. ENDING ignores *running*: it entered the function as it was cancelled. */
static cell_function *const rules[EVENT_COUNT][STATE_COUNT] = {
/*             HELD    FORKING  SERVING  STARTING  GIVING  RUNNING  GIVEN   FAILED  ENDING  DEAD */
R(COMMAND,     join,   queue,   queue,   reject,   reject, reject,  reject, note,   note,   note)
R(FORK,        unhold, fork,    fork,    refuse,   refuse, refuse,  refuse, nofork, nofork, nofork)
R(RUN,         launch, run,     run,     refuse,   refuse, refuse,  refuse, norun,  norun,  norun)
R(TO_FD,       unhold, give,    give,    refuse,   refuse, refuse,  refuse, nogive, nogive, nogive)
R(FINISH,      unhold, finish,  finish,  refuse,   refuse, refuse,  refuse, grace,  ignore, ignore)
R(KILL,        unhold, kill,    kill,    kill,     kill,   kill,    kill,   kill,   kill,   nokill)
R(CLOSE,       drop,   close,   close,   revoke,   close,  forget,  forget, wait,   wait,   forget)
R(HELLO,       ignore, hello,   hello,   hello,    hello,  ignore,  ignore, broken, hello,  ignore)
R(FORK_FAILED, ignore, denied,  broken,  denied,   denied, ignore,  ignore, ignore, denied, ignore)
R(DONE,        ignore, done,    done,    done,     done,   ignore,  ignore, done,   done,   ignore)
R(FAILED,      ignore, failed,  failed,  failed,   failed, ignore,  ignore, ignore, failed, ignore)
R(RUNNING,     ignore, broken,  broken,  enter,    broken, ignore,  ignore, broken, ignore, ignore)
R(EOF,         ignore, eof,     eof,     eof,      eof,    ignore,  ignore, eof,    eof,    ignore)
R(PIDFD,       ignore, gone,    gone,    gone,     gone,   gone,    gone,   gone,   gone,   ignore)
R(SOURCE_FAILED, orphan, orphan, orphan, orphan, orphan, ignore, ignore, orphan, orphan, ignore)
R(SOURCE_LOST, lost,   lost,    lost,    lost,     lost,   lost,    lost,   lost,   lost,   ignore)
R(TIMEOUT,     expire, expire,  expire,  expire,   ignore, ignore,  ignore, ignore, ignore, ignore)
};
#undef R
/* clang-format on */

int process_rule_kind(enum state s, enum event_kind k) {
  cell_function *c = rules[k][s];
  if (c == cell_refuse || c == cell_reject)
    return 0;
  if (c == cell_ignore || c == cell_note)
    return 2;
  return c == cell_broken ? 3 : 1;
}

int process_event(struct mf_process *p, const struct event *e) {
  int r;
  do
    r = rules[e->kind][p->state](p, e);
  while (r == CELL_AGAIN);
  process_update(p);
  process_release(p);
  return r;
}
