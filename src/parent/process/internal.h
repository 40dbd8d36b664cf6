/* What the files of this folder call of each other; process.h is for everybody else. Runs
 * in the parent. */
#ifndef PARENT_PROCESS_INTERNAL_H
#define PARENT_PROCESS_INTERNAL_H

#include "parent/process/liveness.h"
#include "parent/process/process.h"
#include "parent/process/registry.h"

/* record.c */
/* Its end is not watched any more. */
void process_close_pidfd(struct mf_process *p);
/* Whether what was asked of it may still be forked, as far as the kernel tells. */
int process_may_fork(const struct mf_process *p);
/* It forks no more. */
void process_end_births(struct mf_process *p);
/* It is its context's from now on: a child of ours that lives, or is still to be born,
 * with what it forks. */
void process_leave(struct mf_process *p);
/* The only way to another state. */
void process_enter(struct mf_process *p, enum process_state state);
/* table.c: aborts where p does not go from its state to that one. Debug builds alone. */
void process_check_entry(const struct mf_process *p, enum process_state to);

/* notify.c */
/* Delivers the pending callbacks. */
void process_on_notify(struct task *t);

/* process_fail.c */
/* A copy of a message about p, with its name before it where it has one. */
char *failure_message(const struct mf_process *p, const char *text, size_t n);
char *failure_text(const struct mf_process *p, const char *text);
/* Takes message (may be NULL). */
struct failure *failure_new_at(const char *origin, int code, int started, char *message,
                               const char *traceback);
#define failure_new(...) failure_new_at(ORIGIN, __VA_ARGS__)
/* Takes f (may be NULL: no memory). */
void process_fail_with(struct mf_process *p, struct failure *f);
void process_describe_end(const struct mf_process *p, char *text, size_t n);
/* The error that a process gets because its source can't fork it. */
void process_fail_like_source(struct mf_process *p);
/* The failure of p in a frame's body; NULL when it is malformed (or no memory). */
struct failure *failure_decode(const struct mf_process *p, const struct frame *f);

/* pid.c */
/* What the kernel knows of it now. */
enum life_kernel process_ask_kernel(struct mf_process *p);
/* A child that no pidfd watches is asked for now and then, one that has ended but is
 * traced (its tracer has it first), and one that was hung up on before it was born: no
 * socket tells of its birth. */
int process_is_polled(const struct mf_process *p);
/* Without a pidfd the number is true only while it is ours to reap. */
int process_kill(struct mf_process *p, int signum);
/* Without memory for it now, later: else its end would never be noticed. */
void process_watch_end(struct mf_process *p);
/* The number in its slot, once it is there and believed. It is the claim of a template,
 * which may be hostile: it must be a child of ours, and no other record's. A host that
 * reaps what comes may have reaped this one, too, and have another under its number:
 * there its own word is waited for, which tells a pidfd. */
void process_learn(struct mf_process *p);
/* It is known who it is, by the kernel's word. Takes pidfd (-1: none). */
void process_identify(struct mf_process *p, int pid, int pidfd);

/* The pidfd of a child that has gone without one, watched. */
void process_open_pidfd(struct mf_process *p);

/* Somebody tells of its end: the kernel, or its link. */
static inline int process_end_is_told(const struct mf_process *p) {
  return p->pidfd >= 0 || p->child || p->far_process;
}

/* pid_far.c: the same for processes behind a link. */
enum life_kernel process_far_ask(struct mf_process *p);
int process_far_kill(struct mf_process *p, int signum);
/* Who it is, once the link has told of it. 1: it is known now. */
int process_far_identify(struct mf_process *p);
void process_far_measure(struct mf_process *p, struct memory_request *m);
/* What has come on its socket counts, if that has been told of; else nobody wants it. */
void process_far_settle_socket(struct mf_process *p);
/* Closes its socket, or the one that it would get. */
void process_close_channel(struct mf_process *p);
/* It goes, or has ended. */
void process_far_leave(struct mf_process *p);
/* Where it is born is to be a tree's head. */
void process_far_mark_tree(const struct mf_process *p);
/* What is to be added to the error of one that has not greeted: a clause, or "". */
enum { FAR_HINT_MAX = 12 * 1024 };
const char *process_far_hint(const struct mf_process *p, char *room);
extern const struct far_ops process_far_ops;

/* pid_thread.c: the same for threads. */
/* Makes the life of p, which is written with its fork: 0 or -errno; the far end is pushed
 * to fds. */
int process_thread_begin(struct mf_process *p, struct fdset *fds);
enum life_kernel process_thread_ask(struct mf_process *p);
/* It is known to have been born. */
int process_thread_is_born(const struct mf_process *p);
/* Its life is readable: 1, it has ended. */
int process_thread_look(struct mf_process *p);
/* Has it end, at its next instruction of Lua. */
int process_thread_kill(struct mf_process *p);

/* death.c */
/* All of the command has gone that tells p to run a function. If not, it never goes once
 * p is given up: its channel is closed then, and so is that of its source, or the FORK
 * may go yet. */
int process_was_told_to_run(const struct mf_process *p);
/* Whether such a function may have been entered, once its socket is drained: no
 * *running*, no entry, unless memory was too short to read it, or somebody who still has
 * the socket has buried it. */
int process_may_have_started(const struct mf_process *p);
/* p executes nothing any more: what it has not forked by now it never will. */
void process_lose_source(struct mf_process *p);
/* It has ended (p->exit says how, as far as it is known). */
void process_die(struct mf_process *p);
void process_set_response_timeout(struct mf_process *p, unsigned ms);
/* Is it alive? overdue: it has had its grace. */
void process_decide(struct mf_process *p, int overdue);
/* Something was heard of p, or of its source. */
void process_settle(struct mf_process *p);
void process_poll_child(struct mf_process *p);
/* Nothing can be made of it any more. */
int process_cast_off(struct mf_process *p);
/* The other side did what the protocol does not allow. */
int process_broken_at(const char *origin, struct mf_process *p, const char *what);
#define process_broken_by(...) process_broken_at(ORIGIN, __VA_ARGS__)

/* ending.c */
/* Its source's process is not killed while p, a clone in a thread, holds it; and p holds it
 * no more (again is harmless). */
void ending_hold(struct mf_process *p);
void ending_let_go(struct mf_process *p);
/* It is told to end. */
void ending_begin(struct mf_process *p);
/* Something has happened to it, or to a clone of it. */
void ending_look(struct mf_process *p);
/* Its time is over: it was told to end, or has hung up. */
void ending_overdue(struct mf_process *p);

/* post.c */
/* The event happens to every process that was forked from p and is not dead, when those
 * that are under way are over: in PHASE_TELL. */
void process_post_to_forks(struct mf_process *p, enum event_kind kind);
void process_on_tell(struct task *t);

/* memory.c */
/* Frees its requests. */
void process_forget_memory(struct mf_process *p);
/* Has /proc answer all that are open. */
void process_measure(struct mf_process *p);
/* It has come to rest: what was asked meanwhile. */
void process_ask_waiting(struct mf_process *p);
/* p answers no requests any more, those for its clones included. */
void process_measure_clones(struct mf_process *p);
/* An answer to a request of p, by itself or its template. */
void process_take_memory(struct mf_process *p, const struct frame *f);

/* process_send.c */
int command_send(struct mf_process *p, const struct process_command *c);
int command_send_simple(struct mf_process *p, unsigned type, uint64_t id,
                        const void *body, size_t length);
void command_discard(struct process_command *c);
/* Sent and kept for a pool that starts p again; or neither. (The sending consumes it.) */
int command_send_noted(struct mf_process *p, struct process_command *c);

/* batch.c */
void process_on_write(struct task *t);
/* Before it can be in its function, which may send some at once. */
void process_open_to_fds(struct mf_process *p);
void process_flush_child(struct mf_process *p);
/* Adds a command to the batched fork: 1 when there was room. */
int batch_join(struct mf_process *p, const struct process_command *c);

/* listener.c */
/* The socket of p, which source is to fork, connected: p->connects; or -1: by a pair. */
int listener_connect(struct mf_process *p, struct mf_process *source);
/* A command of that type was sent. */
void listener_doubt(struct mf_process *source, unsigned type);
/* Its source has executed the fork of p. */
void listener_hear(const struct mf_process *p);

/* progress.c */
/* The socket goes to the user: what ends from now on only the kernel tells. */
void process_leave_to_kernel(struct mf_process *p);
/* All is executed: the socket can go. */
void process_try_detach(struct mf_process *p);
/* It exists. */
int process_on_word(struct mf_process *p);
/* What was asked of p up to the n-th command is executed, the forks among it, too: it says
 * so itself. */
void process_advance(struct mf_process *p, uint64_t n);
/* Forks of p that are executed learn of it: as many as the turn has steps for, the others
 * in the next one. One that may have been refused waits for p's own word, and those
 * behind it for theirs. */
void process_confirm_forks(struct mf_process *p);
/* source was asked to fork q; nobody waits any more to hear whether it has. */
void process_ask(struct mf_process *source, struct mf_process *q);
void process_unask(struct mf_process *q);
/* Nothing is to be heard any more of whether q was forked. */
void process_answered(struct mf_process *q);
/* p exists: its source has been at that fork and at all before, though its DONE may be
 * late, or not come at all: of a fork that carries run a template says nothing. */
void process_show_fork(struct mf_process *p);
/* The same by a word of p's own. */
void process_confirm_fork(struct mf_process *p);

/* cells_user.c */
/* Makes it certain whether the function was entered: from now on the process can't write
 * its *running* any more, without which it does not enter; what it wrote before is read.
 */
void process_withdraw(struct mf_process *p);

/* events.c */
/* Delivers some more of the answers that were left for this turn. */
void process_on_read(struct task *t);
/* Its function has returned before *running* was due, as its slot tells: the end of its
 * socket, or its own, is that word, too. 1: so it was. */
int process_hear_return(struct mf_process *p);
/* Its socket has ended: 0, or -errno. */
void process_hear_end(struct mf_process *p, int why);
/* A fork was asked of p, of which something is to be heard soon. */
void process_await_word(struct mf_process *p);
/* What happens to p comes there. */
void process_listen(struct mf_process *p);

#endif
