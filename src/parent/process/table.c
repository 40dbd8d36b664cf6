/* The life of one process as its parent sees it: what an event does in a state.
 *
 *   HELD -> FORKING -> SERVING -> STARTING -> RUNNING -> DEAD
 *             |          |  \-> GIVING -> GIVEN ---------^
 *             |          \-> ENDING --------------------/
 *             \-> FAILED ------------------------------/
 *
 * Every event goes through one table, in which every cell is filled: `rules`. Only
 * process_enter changes the state. Runs in the parent. */
#include "parent/process/cells.h"

#include "parent/process/process.h"

const char *const state_names[STATE_COUNT] = {"HELD",   "FORKING", "SERVING", "STARTING",
                                              "GIVING", "RUNNING", "GIVEN",   "FAILED",
                                              "ENDING", "DEAD"};
const char *const event_names[EVENT_COUNT] = {
    "command", "fork",   "run",     "to_fd", "finish", "kill",        "close",  "hello",
    "fork_failed", "done", "failed", "running", "eof",   "pidfd", "source_lost", "timeout"};

/* `broken` in a column of answers: the process can't have sent that in this state. */
static cell_function *const rules[STATE_COUNT][EVENT_COUNT] = {
    [HELD] =
        {
            [EV_COMMAND] = cell_hold_command,
            [EV_FORK] = cell_unhold_fork,
            [EV_RUN] = cell_hold_run,
            [EV_TO_FD] = cell_hold_giving,
            [EV_FINISH] = cell_hold_finish,
            [EV_KILL] = cell_hold_signal,
            [EV_CLOSE] = cell_close_held,
            [EV_HELLO] = cell_ignore,
            [EV_FORK_FAILED] = cell_ignore,
            [EV_DONE] = cell_ignore,
            [EV_FAILED] = cell_ignore,
            [EV_RUNNING] = cell_ignore,
            [EV_EOF] = cell_ignore,
            [EV_PIDFD] = cell_ignore,
            [EV_SOURCE_LOST] = cell_source_lost,
            [EV_TIMEOUT] = cell_time_out,
        },
    [FORKING] =
        {
            [EV_COMMAND] = cell_queue_command,
            [EV_FORK] = cell_hold_fork,
            [EV_RUN] = cell_start_run,
            [EV_TO_FD] = cell_start_giving,
            [EV_FINISH] = cell_finish,
            [EV_KILL] = cell_send_signal,
            [EV_CLOSE] = cell_close_serving,
            [EV_HELLO] = cell_on_hello,
            [EV_FORK_FAILED] = cell_on_fork_failed,
            [EV_DONE] = cell_on_done,
            [EV_FAILED] = cell_on_failed,
            [EV_RUNNING] = cell_broken,
            [EV_EOF] = cell_on_eof,
            [EV_PIDFD] = cell_on_gone,
            [EV_SOURCE_LOST] = cell_source_lost,
            [EV_TIMEOUT] = cell_time_out,
        },
    [SERVING] =
        {
            [EV_COMMAND] = cell_queue_command,
            [EV_FORK] = cell_hold_fork,
            [EV_RUN] = cell_start_run,
            [EV_TO_FD] = cell_start_giving,
            [EV_FINISH] = cell_finish,
            [EV_KILL] = cell_send_signal,
            [EV_CLOSE] = cell_close_serving,
            [EV_HELLO] = cell_on_hello,
            [EV_FORK_FAILED] = cell_broken,
            [EV_DONE] = cell_on_done,
            [EV_FAILED] = cell_on_failed,
            [EV_RUNNING] = cell_broken,
            [EV_EOF] = cell_on_eof,
            [EV_PIDFD] = cell_on_gone,
            [EV_SOURCE_LOST] = cell_source_lost,
            [EV_TIMEOUT] = cell_time_out,
        },
    [STARTING] =
        {
            [EV_COMMAND] = cell_refuse_command,
            [EV_FORK] = cell_refuse,
            [EV_RUN] = cell_refuse,
            [EV_TO_FD] = cell_refuse,
            [EV_FINISH] = cell_refuse,
            [EV_KILL] = cell_send_signal,
            [EV_CLOSE] = cell_close_starting,
            [EV_HELLO] = cell_on_hello,
            [EV_FORK_FAILED] = cell_on_fork_failed,
            [EV_DONE] = cell_on_done,
            [EV_FAILED] = cell_on_failed,
            [EV_RUNNING] = cell_on_running,
            [EV_EOF] = cell_on_eof,
            [EV_PIDFD] = cell_on_gone,
            [EV_SOURCE_LOST] = cell_source_lost,
            [EV_TIMEOUT] = cell_time_out,
        },
    [GIVING] =
        {
            [EV_COMMAND] = cell_refuse_command,
            [EV_FORK] = cell_refuse,
            [EV_RUN] = cell_refuse,
            [EV_TO_FD] = cell_refuse,
            [EV_FINISH] = cell_refuse,
            [EV_KILL] = cell_send_signal,
            [EV_CLOSE] = cell_close_serving,
            [EV_HELLO] = cell_on_hello,
            [EV_FORK_FAILED] = cell_on_fork_failed,
            [EV_DONE] = cell_on_done,
            [EV_FAILED] = cell_on_failed,
            [EV_RUNNING] = cell_broken,
            [EV_EOF] = cell_on_eof,
            [EV_PIDFD] = cell_on_gone,
            [EV_SOURCE_LOST] = cell_source_lost,
            [EV_TIMEOUT] = cell_ignore, /* to_fd has disarmed it */
        },
    [RUNNING] =
        {
            [EV_COMMAND] = cell_refuse_command,
            [EV_FORK] = cell_refuse,
            [EV_RUN] = cell_refuse,
            [EV_TO_FD] = cell_refuse,
            [EV_FINISH] = cell_refuse,
            [EV_KILL] = cell_send_signal,
            [EV_CLOSE] = cell_close_quietly,
            [EV_HELLO] = cell_ignore, /* answers can't come: the socket is the user's */
            [EV_FORK_FAILED] = cell_ignore,
            [EV_DONE] = cell_ignore,
            [EV_FAILED] = cell_ignore,
            [EV_RUNNING] = cell_ignore,
            [EV_EOF] = cell_ignore,
            [EV_PIDFD] = cell_on_gone,
            [EV_SOURCE_LOST] = cell_source_lost,
            [EV_TIMEOUT] = cell_ignore,
        },
    [GIVEN] =
        {
            [EV_COMMAND] = cell_refuse_command,
            [EV_FORK] = cell_refuse,
            [EV_RUN] = cell_refuse,
            [EV_TO_FD] = cell_refuse,
            [EV_FINISH] = cell_refuse,
            [EV_KILL] = cell_send_signal,
            [EV_CLOSE] = cell_close_quietly,
            [EV_HELLO] = cell_ignore,
            [EV_FORK_FAILED] = cell_ignore,
            [EV_DONE] = cell_ignore,
            [EV_FAILED] = cell_ignore,
            [EV_RUNNING] = cell_ignore,
            [EV_EOF] = cell_ignore,
            [EV_PIDFD] = cell_on_gone,
            [EV_SOURCE_LOST] = cell_source_lost,
            [EV_TIMEOUT] = cell_ignore,
        },
    [FAILED] =
        {
            [EV_COMMAND] = cell_ignore_command, /* the failure is remembered */
            [EV_FORK] = cell_fork_stillborn,
            [EV_RUN] = cell_run_failed,
            [EV_TO_FD] = cell_give_failed,
            [EV_FINISH] = cell_finish_failed,
            [EV_KILL] = cell_send_signal,
            [EV_CLOSE] = cell_close_ending,
            [EV_HELLO] = cell_broken,
            [EV_FORK_FAILED] = cell_ignore,
            [EV_DONE] = cell_on_done, /* of what came before */
            [EV_FAILED] = cell_ignore,
            [EV_RUNNING] = cell_broken,
            [EV_EOF] = cell_on_eof,
            [EV_PIDFD] = cell_on_gone,
            [EV_SOURCE_LOST] = cell_source_lost,
            [EV_TIMEOUT] = cell_ignore,
        },
    [ENDING] =
        {
            [EV_COMMAND] = cell_ignore_command, /* its time ran out; what mf_finish has ended is */
            [EV_FORK] = cell_fork_stillborn,    /* refused by api.c */
            [EV_RUN] = cell_run_failed,
            [EV_TO_FD] = cell_give_failed,
            [EV_FINISH] = cell_ignore,
            [EV_KILL] = cell_send_signal,
            [EV_CLOSE] = cell_close_ending,
            [EV_HELLO] = cell_on_hello,
            [EV_FORK_FAILED] = cell_on_fork_failed,
            [EV_DONE] = cell_on_done,
            [EV_FAILED] = cell_on_failed,
            [EV_RUNNING] = cell_ignore, /* it entered the function as it was cancelled */
            [EV_EOF] = cell_on_eof,
            [EV_PIDFD] = cell_on_gone,
            [EV_SOURCE_LOST] = cell_source_lost,
            [EV_TIMEOUT] = cell_ignore,
        },
    [DEAD] =
        {
            [EV_COMMAND] = cell_ignore_command,
            [EV_FORK] = cell_fork_stillborn,
            [EV_RUN] = cell_run_failed,
            [EV_TO_FD] = cell_give_failed,
            [EV_FINISH] = cell_ignore,
            [EV_KILL] = cell_signal_dead,
            [EV_CLOSE] = cell_close_quietly,
            [EV_HELLO] = cell_ignore,
            [EV_FORK_FAILED] = cell_ignore,
            [EV_DONE] = cell_ignore,
            [EV_FAILED] = cell_ignore,
            [EV_RUNNING] = cell_ignore,
            [EV_EOF] = cell_ignore,
            [EV_PIDFD] = cell_ignore,
            [EV_SOURCE_LOST] = cell_ignore,
            [EV_TIMEOUT] = cell_ignore,
        },
};

int process_rule_kind(enum state s, enum event e) {
  cell_function *c = rules[s][e];
  if (c == cell_refuse || c == cell_refuse_command)
    return 0;
  if (c == cell_ignore || c == cell_ignore_command)
    return 2;
  return c == cell_broken ? 3 : 1;
}

int process_event(struct mf_process *p, enum event ev, void *arg) {
  cell_function *act = rules[p->state][ev];
  int r = act(p, arg);
  process_update(p);
  process_release(p);
  return r;
}
