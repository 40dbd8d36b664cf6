/* The cells of the table: what an event does in a state, with the event's argument. Each is
 * called by process_event alone, or by another cell. Runs in the parent. */
#ifndef PARENT_PROCESS_CELLS_H
#define PARENT_PROCESS_CELLS_H

struct mf_process;

typedef int cell_function(struct mf_process *p, void *arg);

/* cells_user.c: what the user asks. */
cell_function cell_refuse, cell_ignore, cell_refuse_command, cell_ignore_command,
  cell_hold_command, cell_queue_command, cell_hold_fork, cell_unhold_fork,
  cell_fork_stillborn, cell_start_run, cell_hold_run, cell_run_failed, cell_start_giving,
  cell_hold_giving, cell_give_failed, cell_finish, cell_finish_failed, cell_hold_finish,
  cell_send_signal, cell_hold_signal, cell_signal_dead, cell_close_held,
  cell_close_serving, cell_close_starting, cell_close_quietly, cell_close_ending;

/* cells_peer.c: answers of the process, and its end. */
cell_function cell_broken, cell_on_hello, cell_on_fork_failed, cell_on_done,
  cell_on_failed, cell_on_running, cell_on_eof, cell_on_gone, cell_source_lost,
  cell_time_out;

#endif
