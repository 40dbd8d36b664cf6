/* A process in the timeline of mf_trace: its row, and in it what it does, as the parent
 * sees it. What that is follows from the record, so one question after every event is
 * enough; calls and signals are told by those who know of them. Runs in the parent.
 *
 *   |---------------------------- name ------------------------------|
 *     |- fork -|- require x -|- enter f -|--------- run f ---------|
 *                                          |- init -| |call| |call|    death
 */
#ifndef PARENT_PROCESS_TRACE_H
#define PARENT_PROCESS_TRACE_H

#include "parent/process/process.h"
#include "parent/trace/trace.h"

/* Something may have changed. */
void trace_look_at(struct mf_process *p);
static inline void process_trace(struct mf_process *p) {
  if (trace_is_on())
    trace_look_at(p);
}

/* The same where its state has just changed, and the event is not over. */
void trace_look_inside(struct mf_process *p);
static inline void process_trace_state(struct mf_process *p) {
  if (trace_is_on())
    trace_look_inside(p);
}

/* A command is about to be sent: its span ends when it is executed. */
void trace_take_command(struct mf_process *p, const struct process_command *c);
static inline void process_trace_command(struct mf_process *p,
                                         const struct process_command *c) {
  if (trace_is_on())
    trace_take_command(p, c);
}

/* The function that it runs, as the user knows it. */
void trace_take_function(struct mf_process *p, const char *function);
static inline void process_trace_function(struct mf_process *p, const char *function) {
  if (trace_is_on())
    trace_take_function(p, function);
}

/* A mark in its row; only where trace_is_on(). args: TRACE_ARGS, or NULL. */
void process_trace_mark(struct mf_process *p, const char *name,
                        const struct trace_arg *args);
void process_trace_kill(struct mf_process *p, int signum);

/* What its function is at, one after the other: the init function, a call. A former one
 * has ended. Only where trace_is_on(). */
void process_trace_work(struct mf_process *p, const char *what, const char *name,
                        const struct trace_arg *args);
/* code: 0, or why it ended. Nothing happens where it has ended with the process. */
void process_trace_work_done(struct mf_process *p, int code);
/* Calls that run beside each other, by their number. */
void process_trace_beside(struct mf_process *p, uint64_t id,
                          const struct trace_arg *args);
void process_trace_beside_done(struct mf_process *p, uint64_t id, int code);

/* The record goes. */
void process_trace_forget(struct mf_process *p);

#endif
