/* One process as its parent sees it: the record behind an mf_process. doc/design.md tells
 * the states; table.c has the table. Runs in the parent. */
#ifndef PARENT_PROCESS_H
#define PARENT_PROCESS_H

#include "base/buf.h"
#include "parent/common/failure.h"
#include "parent/loop/channel.h"
#include "parent/loop/context.h"
#include "parent/process/far.h"

struct journal;
struct process_trace;
struct thread_life;

enum process_state {
  BATCHED,   /* the fork is not written yet; arguments, handles and run may join it */
  FORKING,   /* written (or spawned); neither pid nor hello yet */
  SERVING,   /* answers commands */
  STARTING,  /* run has been sent */
  DETACHING, /* to_fd waits until everything is executed */
  RUNNING,   /* in its function */
  DETACHED,  /* its socket was given away */
  FAILED,    /* a command failed; ends by itself */
  ENDING,    /* told to end */
  DEAD,      /* the end is known */
  STATE_COUNT
};

/* Of a process that runs nothing: ending.c. */
enum end_state { END_UNASKED, END_IN_GRACE, END_BY_THREADS, END_BY_FORCE };

enum event_kind {
  EV_COMMAND,
  EV_FORK,
  EV_RUN,
  EV_TO_FD,
  EV_FINISH,
  EV_KILL,
  EV_CLOSE, /* the user's */
  EV_HELLO,
  EV_FORK_FAILED,
  EV_DONE,
  EV_FAILED,
  EV_RUNNING, /* answers */
  EV_EOF,
  EV_PIDFD,
  EV_SOURCE_FAILED,
  EV_SOURCE_LOST,
  EV_TIMEOUT, /* ends */
  EVENT_COUNT
};

enum { /* callbacks still to be delivered, in this order */
       PENDING_FINISH = 1,
       PENDING_MEMORY = 2,
       PENDING_ERROR = 4,
       PENDING_EXIT = 8,
       PENDING_CLOSE = 16
};

enum finish_kind { FINISH_NONE, FINISH_RUN, FINISH_TO_FD };

/* A fork command under construction. */
enum { BATCH_ROOM = 128 };

struct batch {
  struct buf options, commands;
  struct fdset fds;                  /* stdio handles, then those of the commands */
  unsigned char room[2][BATCH_ROOM]; /* of the two, as long as they are small */
};

/* How sockets of clones come to it: listener.c. */
enum listener_state { LISTENER_NONE, LISTENER_SENT, LISTENER_OPEN, LISTENER_NEVER };

struct process_listener { /* all zero at first */
  enum listener_state state;
  unsigned ncrowded;        /* forks that were sent while others were under way */
  uint32_t nmade;           /* connections */
  uint64_t since;           /* what forks say is news behind this command */
  struct own_listener name; /* SENT, OPEN */
};

struct memory_request { /* or one for an image */
  struct list link;
  struct mf_process *process;
  struct measure *aside; /* the answer comes from there; or NULL */
  struct watch watch;    /* of that */
  mf_memory_cb cb;
  void *data;
  int waits; /* for the end of a run or to_fd */
  int quiet; /* nobody waits for the answer, though it is told */
  int done, error;
  mf_memory_info info;
  char *file;        /* of the image; NULL: about memory */
  mf_error_cb saved; /* in the place of cb */
  char *message;     /* why it could not be saved, or NULL */
  int os_error;      /* errno there, where its file was the reason; or 0 */
};

struct mf_process {
  struct context *context;
  struct list link;
  struct task write, read, tell, notify, free, closed; /* one for each phase */
  uint64_t id;
  enum process_state state;
  enum end_state ending;
  uint64_t made_ms, state_since_ms;
  unsigned open : 1;          /* the user has the handle */
  unsigned internal : 1;      /* the library's: a default template, a spare */
  unsigned child : 1;         /* our child: this record reaps it */
  unsigned ours : 1;          /* our child, whoever reaps it: its clones can be, too */
  unsigned proven : 1;        /* a clone of it, or itself, was born as our child */
  unsigned no_siblings : 1;   /* a clone of it was not */
  unsigned was_asked : 1;     /* its fork was written */
  unsigned spoke : 1;         /* it has said something */
  unsigned expects_hello : 1; /* its first word is to be one */
  unsigned introduced : 1;    /* it was */
  unsigned takes_word : 1; /* the kernel does not tell who it is: its own word must do */
  unsigned unstarted : 1;  /* its program waits for the end of the back-off */
  unsigned greeting : 1;   /* a hello is due before anything else */
  unsigned is_itself : 1;  /* its program is this one */
  unsigned taken_up : 1;   /* by from_fd: its hello says who it is */
  unsigned forked : 1;     /* it exists, or existed, as a process */
  unsigned gone : 1;       /* the kernel says that it has ended */
  unsigned is_counted : 1; /* its socket is on the way to its source (drop_count_sent) */
  unsigned hung_up : 1;    /* by us, before it ran: it ends, or is killed */
  unsigned tree : 1;       /* its whole process group is signalled, and ends with it */
  unsigned inherits_tree : 1; /* as its source, of which it may not be known yet */
  unsigned group_ended : 1;   /* which was seen to */
  unsigned leash : 2;         /* enum mf_leash, as far as it was given here */
  unsigned dying : 1;         /* it was sent a signal that ends it while it serves */
  unsigned eof : 1;           /* its socket has ended */
  unsigned fork_refused : 1;  /* its fork was refused: what it was given is known, for
                                 another try */
  unsigned refuses : 1;       /* it said that it executes nothing more */
  unsigned has_failed_forks : 1, has_lost_forks : 1; /* what its forks are to be told */
  unsigned knows_failure : 1;                        /* its source's */
  unsigned busy : 1;
  unsigned notifying : 1; /* its callbacks are called, one after the other */
  unsigned
      finished : 1;  /* by mf_finish: whatever is asked of it from then on is misuse */
  unsigned used : 1; /* the same by mf_run or mf_to_fd */
  unsigned error_told : 1;
  unsigned spares_begun : 1; /* they have been filled once */
  unsigned refilling : 1;    /* up to their maximum, one after the other */
  unsigned refuses_fds : 1;  /* whoever gets its socket takes no descriptors from it */
  unsigned quiet : 1;        /* nobody waits for its exit, though it is told */
  unsigned connects : 1;     /* its socket is a connection to its source's listener */
  unsigned is_early : 1;     /* it was forked without a socket (far_fork) */
  unsigned is_adrift : 1;    /* over there, and what it said last was not waited for */
  unsigned is_withdrawn : 1; /* its function is to be entered no more */
  unsigned has_entered : 1;  /* and was, all the same */
  unsigned has_returned : 1; /* before it could say that it runs */
  unsigned attended : 1;     /* a call polls its socket, and asks for its end */
  unsigned idle_death : 1;   /* the error is no failed command: on_error is not told */
  unsigned has_image : 1; /* it, or what it was forked from, may be one of hibernate's */
  unsigned ends_thread : 1; /* its end is wanted, and asked for again and again */
  unsigned
      is_thread : 1; /* of its template's process: pidfd is its life, pid a thread's */
  unsigned holds_source : 1; /* its template's process is not killed: ending.c */
  unsigned nlooks;           /* for a status, in vain */
  unsigned nthreads;         /* clones of it that hold it: ending.c */
  int pid, pidfd, signal;
  int peer_pid,
      peer_pidfd; /* who writes on a socket that was taken up, until its hello */
  struct watch pid_watch;
  struct mf_process *source, *batched_child;
  struct list forks, fork_link;    /* records of what was forked from it, in order */
  unsigned tell_round, told_round; /* of its forks; of its source's (post.c) */
  struct list asked,
      ask_link;              /* forks that were written and not executed yet, in order */
  struct births *own_births; /* the slots of what is forked from it, or NULL */
  struct process_listener listener; /* by which sockets come to its clones */
  struct births *births;            /* its own slot is among these, or NULL */
  uint32_t slot;
  struct last_words *last_words; /* memory that it shares with us instead, or NULL */
  struct far_link
      *far; /* it is behind that link, and its pid another machine's; or NULL */
  struct far_record behind;        /* of that link's */
  struct far_process *far_process; /* once it is known who it is */
  struct far_fork far_fork;        /* its socket is not made */
  uint64_t far_cookie; /* of the other end of its socket, if the program has made it */
  struct thread_life *life; /* what was read of it, where it is a thread; or NULL */
  struct channel chan;
  uint64_t nsent, ndone, nsaid; /* nsaid: what it has told as done itself; the rest of
                                   ndone is what its clones show */
  uint64_t
      nwork; /* nsent up to the last command that is no fork, and no question of ours */
  uint64_t fork_number;       /* of the FORK among the source's commands */
  uint64_t fork_end, run_end; /* channel_end of who carries the FORK, the RUN; 0: no
                                 channel has it for itself */
  uint64_t narg_bytes;
  struct batch *batch;
  struct {
    enum finish_kind kind;
    mf_run_cb cb;
    void *data;
    int fd, quiet;
  } finish;
  struct {
    mf_error_cb cb;
    void *data;
  } error_to;
  struct {
    mf_exit_cb cb;
    void *data;
  } exit_to, exit_hook; /* hook: of the library's own */
  struct {
    void (*cb)(void *data);
    void *data;
  } threads_hook; /* called when it is END_BY_THREADS */
  struct {
    mf_close_cb cb;
    void *data;
  } close_to;
  /* In a forked copy that becomes a template: closes what an rpc or pool has open. */
  struct {
    void (*close)(void *data);
    void *data;
  } forked_hook;
  const int *rpc_fd; /* the socket of the rpc that it runs; NULL: it runs none */
  struct list memory;
  unsigned pending;
  struct failure *error;
  mf_exit exit;
  mf_exit source_exit; /* known: how the source ended that could not fork it */
  char *exit_text;
  struct deadline limit, response_timeout, retry, refill;
  struct deadline word_due;       /* of the forks that were asked of it */
  struct list spares, spare_link; /* clones forked ahead; being one */
  unsigned nspares, spares_min, spares_max;
  uint64_t hello_by_ms; /* while `greeting` */
  unsigned limit_ms;
  char *name,
      *program; /* program: what is executed; NULL where the parent executes none */
  struct journal
      *journal; /* until it can't be a template any more, forked or not; or NULL */
  struct process_trace *trace; /* NULL: it was in none */
};

struct process_command {
  unsigned type;
  uint64_t id;
  const void *body;
  size_t length;
  const struct iovec
      *pieces; /* of the body, in the place of `body`; or NULL. With release */
  size_t npieces;
  struct fdset *fds;       /* taken */
  void (*release)(void *); /* set: body is borrowed until it is called */
  void *release_data;
};

struct run_request {
  const char *function;
  mf_run_cb cb;
  void *data;
};

/* What happens to a process, with what belongs to it: borrowed for the call. */
struct event {
  enum event_kind kind;
  union {
    struct process_command *command; /* EV_COMMAND */
    struct mf_process *fork;         /* EV_FORK: the new record, in BATCHED */
    const struct run_request *run;   /* EV_RUN, EV_TO_FD */
    int signum;                      /* EV_KILL */
    const struct frame *frame;       /* EV_HELLO, EV_FORK_FAILED, EV_FAILED */
    uint64_t ndone;                  /* EV_DONE: commands executed */
    int pid;                         /* EV_RUNNING */
    int why;                         /* EV_EOF: 0 or -errno */
  };
};

/* 0, or a code: lack of memory, a stdio handle that is no descriptor. */
int batch_new(struct context *ctx, const mf_options *o, struct batch **ret);
void batch_free(struct context *ctx, struct batch *batch);

/* A new record in the given state, in its context, with the handle open. NULL: no memory.
 */
struct mf_process *process_new(struct context *ctx, enum process_state state);
/* One event through the table. What it returns is the user call's result. */
int process_event(struct mf_process *p, const struct event *e);
/* Puts p behind source, which forks it. */
void process_set_source(struct mf_process *p, struct mf_process *source);
/* Its socket, and all that is known of it, comes over that link. Takes a reference. */
void process_far_join(struct mf_process *p, struct far_link *far);
/* 0, or why p can't be used: it is closed, or this is a forked copy of its parent. */
int process_check(const struct mf_process *p);
/* The same for what a process that was finished, run or given away can't be asked, ended
 * already or not. */
int process_check_unfinished(const struct mf_process *p);
/* Whether fd is a socket of the library's own, which must not be passed to p: a control
 * socket, one of an rpc or a link by its number, p's own and its sources' by any number. */
int process_is_own_socket(const struct mf_process *p, int fd);
/* 0, MF_EINVAL: it is no open descriptor, or such a socket; MF_EUNSUPPORTED: p is behind
 * a link, which carries connected stream sockets and pipes. */
int process_check_handle(const struct mf_process *p, int fd);
/* As mf_on_exit, for the library itself (an rpc); told before the user. NULL: no more. */
void process_hook_exit(struct mf_process *p, mf_exit_cb cb, void *data);
/* Relies on nobody from now on. */
void process_forget_source(struct mf_process *p);
/* A fork that it was asked for and has not executed is still waited for by somebody. */
int process_has_pending_fork(const struct mf_process *p);
/* Its hello is due: it has a time. */
void process_await_hello(struct mf_process *p);
/* Opens the control socket (taken). */
int process_connect(struct mf_process *p, int fd);
/* The pid is known from now on; p->child says whether it is our child. */
void process_set_pid(struct mf_process *p, int pid);
/* The pid, or -1: it is not known yet. */
int process_pid(struct mf_process *p);
/* Fails it: code, started, and a message in the manner of printf. */
void process_fail_at(const char *origin, struct mf_process *p, int code, int started,
                     const char *traceback, const char *format, ...)
    __attribute__((format(printf, 6, 7)));
#define process_fail(...) process_fail_at(ORIGIN, __VA_ARGS__)
/* Kills it for the library, by a way that threads have, too. As mf_kill. */
int process_end_by_force(struct mf_process *p);
/* What `retry` is for when nothing else uses it. */
void process_expect_stalls(struct mf_process *p);
/* It is closed and our child, and ends soon: so that no zombie is left behind, the loop and
 * the close callback wait until it is reaped. */
int ending_is_awaited(const struct mf_process *p);
/* A record that the user never got. */
void process_abandon(struct mf_process *p);
/* It has failed before it came to be: ends it, exit unknown. */
void process_end_unstarted(struct mf_process *p);
/* A process that can never be: fails it and ends it, exit unknown. */
void process_never_starts(struct mf_process *p);
/* A fork of p, which runs a function and is asked for it there. *ret is the new process's
 * record; body and fds (taken by whoever sends it) are those of a FORK. 0 or a code, and
 * fds are closed. */
int process_fork_running(struct mf_process *p, struct mf_process **ret, struct buf *body,
                         struct fdset *fds);
/* What p says of it: it is executed; or why not, a failure of proto.h. */
void process_forked_running(struct mf_process *p, uint64_t id);
void process_fork_denied(struct mf_process *p, uint64_t id, const void *body,
                         size_t length);
void process_flush(struct mf_process *p);               /* writes the batched fork */
void process_pend(struct mf_process *p, unsigned what); /* PENDING_... */
void process_update(struct mf_process *p);              /* busy or not */
void process_set_limit(struct mf_process *p, unsigned limit_ms);
void process_release(struct mf_process *p); /* frees it when nothing needs it */
/* spares.c: a clone forked ahead, which is the caller's from now on; NULL: none is fit.
 */
struct mf_process *spares_take(struct mf_process *p, const mf_options *o);
/* They are stale, or p forks no more. */
void spares_drop(struct mf_process *p);
/* Commands were executed: were those all, and are there too few, a refill begins soon. */
void spares_want(struct mf_process *p);
/* The template has answered: the next fork of a refill that is under way. */
void spares_go_on(struct mf_process *p);
void spares_on_refill(struct deadline *d);
/* p has died: if it was a spare, its template has one less. */
void spares_lose(struct mf_process *p);

/* Has the request m of p's answered: by p, its template or /proc, now or later; where a
 * run or to_fd is under way, when that is over. 0 or -ENOMEM. */
int process_ask_memory(struct mf_process *p, struct memory_request *m);
/* Decides those under way. */
void process_fail_memory(struct mf_process *p, int code);
void memory_request_free(struct memory_request *m);
/* The answers to what was asked. */
void process_take_saved(struct mf_process *p, const struct frame *f);
/* A process that is stopped goes on, and so sees the end of its socket. */
void process_continue(struct mf_process *p);
/* The last handle is closed: lets go of everything; a default template stays, parked. */
void process_park(struct mf_process *p);
/* The parked default template is on the loop again. */
void process_unpark(struct mf_process *p);

/* options_encode.c: whether a fork with them differs from one without options. NULL is
 * none. */
int options_act_at_birth(const mf_options *o);
/* SETUP or FORK options as bytes; stdio handles are duplicated into fds. */
int options_encode(const mf_options *o, int setup, struct buf *out, struct fdset *fds);
/* The caller's options (NULL: none, or of an older and shorter version) as a full struct,
 * which is what every other function of the parent's side gets. 0 or MF_EINVAL. */
int options_load(const mf_options *from, mf_options *ret);

extern const char *const state_names[STATE_COUNT];
extern const char *const event_names[EVENT_COUNT];
#ifdef MOONFORK_DEBUG
/* What does not hold that has to hold between two events; NULL: nothing. */
const char *process_broken_invariant(const struct mf_process *p);
#endif

#endif
