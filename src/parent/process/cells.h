/* The cells of the table: what an event does in a state. Each is called by process_event
 * alone, or by another cell, and returns the result of the user's call, or CELL_AGAIN.
 * Runs in the parent. */
#ifndef PARENT_PROCESS_CELLS_H
#define PARENT_PROCESS_CELLS_H

struct event;
struct mf_process;

/* It has brought the process into another state: what the event does there is to be done
 * now. */
enum { CELL_AGAIN = 1 };

typedef int cell_function(struct mf_process *p, const struct event *e);

/* cells_user.c: what the user asks. */
cell_function cell_refuse, cell_ignore, cell_reject, cell_note, cell_join, cell_queue,
    cell_fork, cell_flush, cell_nofork, cell_run, cell_launch, cell_norun, cell_detach,
    cell_nofd, cell_finish, cell_grace, cell_kill, cell_nokill, cell_drop, cell_close,
    cell_revoke, cell_forget, cell_wait;

/* cells_peer.c: answers of the process, and its end. */
cell_function cell_broken, cell_hello, cell_denied, cell_done, cell_failed, cell_enter,
    cell_eof, cell_gone, cell_orphan, cell_lost, cell_expire;

#endif
