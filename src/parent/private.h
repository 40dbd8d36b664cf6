/* What the Lua binding needs of the parent's side beyond <moonfork.h>. Runs in the
 * parent. Neither installed nor exported. */
#ifndef PARENT_PRIVATE_H
#define PARENT_PRIVATE_H

#include "base/lent.h"
#include <moonfork.h>

/* A process behind a control socket. Takes fd, even on failure; its SETUP is sent with
 * the options. pid: its number. child 1: it is our direct child, reaped by us. */
int mf_adopt_fd(const mf_options *options, int fd, int pid, int child, mf_process **ret);

/* The read end of this process's leash pipe, made on demand; borrowed. Or -errno. The
 * pipe's only write end stays here, close-on-exec, and is closed in every forked copy. */
int mf_leash_fd(void);

/* The early process (a direct child that waits for SETUP behind fd, which is taken): the
 * first context that asks for a default template or for an exec gets it. */
int mf_adopt_early(int fd, int pid);
/* It ends, where no context has asked yet. mf_reset does this, too. */
void mf_drop_early(void);

/* Forks a copy of this process, which calls serve with its end of a control socket and of
 * the leash, both its own, and signals as a new program has them; when serve returns it
 * exits 2. The caller has looked for threads, and serve calls mf_forked_child. Gives the
 * other end of the control socket and the pid, for mf_adopt_fd or mf_adopt_early. 0 or
 * -errno. */
int mf_fork_self(mf_serve_fn serve, void *data, int *ret_fd, int *ret_pid);

/* First thing in a copy of the parent that becomes a template: closes the control
 * sockets, pidfds and the leash of every context; objects made before are inert. */
void mf_forked_child(void);

/* mf_eval with a name for the chunk, where its first line gives none; NULL: "(eval)". */
int mf_eval_named(mf_process *p, const char *name, const char *code, size_t length,
                  int argc, const char *const *argv, const size_t *lengths);

/* Parts of a message that are lent to the library, which keeps no copy: borrowed until
 * release(data), which is called once, also on failure. */
struct mf_loan {
  const struct lent *lent; /* for the call */
  size_t n;
  void (*release)(void *data);
  void *data;
};
enum { MF_CALL_LENT_MAX = 16 };
/* mf_rpc_call and mf_pool_call with such parts (NULL: none). */
int mf_rpc_call_lent(mf_rpc *, const mf_message *request, const struct mf_loan *,
                     const mf_call_options *, mf_reply_cb, void *data, uint64_t *ret_id);
int mf_pool_call_lent(mf_pool *, const mf_message *request, const struct mf_loan *,
                      const mf_call_options *, mf_reply_cb, void *data, uint64_t *ret_id);
enum { MF_SET_BYTES_MAX = 1 << 30, MF_SET_FDS_MAX = 16 };
/* mf_set of a whole body of CMD_SET, of which n parts are lent. All is borrowed until
 * release(release_data), which is called once, also on failure. Takes fds, leaving -1. */
int mf_set_packed(mf_process *p, const mf_message *body, const struct lent *lent,
                  size_t n, void (*release)(void *), void *release_data);

/* Where the object is that this code is in (NULL: the program itself, or not known), and
 * the template program that an exec without the option would execute, which need not
 * exist. */
void mf_places(const char **ret_own, char *ret_program, size_t n);
/* Whether p is behind a command (mf_remote, and what was forked from it). */
int mf_is_remote(const mf_process *p);
/* Whether it may have a function that was suspended by clone.hibernate. */
int mf_may_go_on(const mf_process *p);

/* The path of the program moonfork-remote (remote), or of the template program, as the
 * environment and the installation say. room: of MF_PROGRAM_PATH_MAX bytes. */
enum { MF_PROGRAM_PATH_MAX = 4096 };
const char *mf_program(int remote, char *room);

/* The names that mf_limit takes, from i = 0 on; NULL behind the last. */
const char *mf_limit_name(unsigned i);

/* Processes on the loop with work outstanding: a command not executed yet, run, to_fd or
 * memory under way, on_exit of a process that runs or was told to end. */
int mf_busy(struct uv_loop_s *loop);
/* Whether on_exit of the process counts as outstanding work (it does). A binding that
 * only cleans up then says no. */
void mf_exit_quiet(mf_process *p, int quiet);
/* The run or to_fd under way is no outstanding work from now on: its callback is told,
 * but nobody waits for it. */
void mf_run_quiet(mf_process *p);
/* The same of the mf_memory that was given this data. */
void mf_memory_quiet(mf_process *p, const void *data);
/* On: nothing of the process is watched by the loop, since the caller does not turn it.
 * It polls mf_attended_fd (-1: nothing is to be read) and calls mf_look when that is
 * readable, and whenever it wants to know whether the process has ended; callbacks come
 * from within mf_look then. Off: as usual. Other calls may turn it off. */
void mf_attend(mf_process *p, int on);
int mf_attended_fd(const mf_process *p);
void mf_look(mf_process *p);
/* Every mf_memory under way gets MF_ECANCELLED. */
void mf_memory_cancel(mf_process *p);
/* Takes the bytes of a message that a callback has got, without a copy: a block of
 * malloc's of at most `most` bytes. NULL: it is larger, they are in no block of their own
 * (short messages), or were taken. */
void *mf_message_take(const mf_message *m, size_t most, size_t *ret_size);
/* Gives a block of malloc's back, for the next long message on the loop. */
void mf_message_give(struct uv_loop_s *loop, void *block, size_t size);
/* The close of the rpc or pool, to be asked for or under way, is no outstanding work. */
void mf_rpc_quiet(mf_rpc *rpc);
void mf_pool_quiet(mf_pool *pool);
/* The reload that was given this data gets MF_ECANCELLED, and the old template goes on.
 */
void mf_pool_cancel_reload(mf_pool *pool, const void *data);
/* Whether a deadline is set on the loop. Timers are not stopped when the last one goes,
 * so uv_backend_timeout alone does not tell. */
int mf_has_deadline(struct uv_loop_s *loop);
/* Until when (proc_now_ns) the caller, who is about to sleep, had better look again and
 * again: an answer is near. 0: it had not. Else mf_busy_waited says what came of it. */
uint64_t mf_busy_wait(struct uv_loop_s *loop);
void mf_busy_waited(struct uv_loop_s *loop, int came);
/* Reaps direct children that outlived their objects; cheap when there are none. */
void mf_reap(struct uv_loop_s *loop);
/* 0 where a loop of libuv can be made, else a negated errno. uv_loop_init itself aborts
 * in the first loop of a process where too few descriptors are free. */
int mf_check_loop_room(void);
/* A trace that ended by itself, or could not begin as the environment wanted it. */
struct trace_failure {
  int code;
  char *path; /* to be freed; NULL: no memory */
  int wanted; /* by the environment, and not by the program */
};
/* Whether there is one that nobody was told of: cheap. mf_trace_take_failure gives it,
 * and 1, to the first that asks. */
int mf_trace_failed(void);
int mf_trace_take_failure(struct trace_failure *ret);
/* The processes of the loop have their rows in the trace that has begun. */
void mf_trace_loop(struct uv_loop_s *loop);
/* Keeps the context on the loop though no process is open, until mf_context_close: for a
 * loop that is the binding's own. Forgotten processes that have ended are then reaped
 * whenever the loop turns. 0 or a negative code. */
int mf_context_keep(struct uv_loop_s *loop);
/* Drops the default template; once no process is open the context takes its last handles
 * off the loop (when the loop turns) and frees itself. */
int mf_context_close(struct uv_loop_s *loop);

#endif
