/* moonfork: template processes for Lua. The parent's side, for C hosts.
 *
 * A template is a process with an interpreter that has loaded its modules. It
 * forks clones on command; a clone runs a named Lua function with a socket,
 * handles and strings. This header needs neither lua.h nor uv.h; programs that
 * *are* templates include <moonfork/template.h> as well.
 *
 * Rules that hold for every function:
 *  - An mf_process belongs to one loop and is used on that loop's thread only.
 *  - A function that returns int returns 0, or a negative code for misuse and for
 *    lack of memory (mf_strerror explains it). Runtime failures - a program that
 *    does not start, a fork that fails - are reported to a callback.
 *  - A callback is called once, from the loop, never inside the function that was
 *    given it. It may call any function here, mf_close included.
 *  - Strings and buffers are borrowed for the call unless said otherwise.
 *  - No signal disposition, mask, file mode mask, directory or flag of the host's
 *    descriptors is changed. Where the kernel has no pidfd, the ends of executed
 *    processes are asked for now and then (doc/c-api.md).
 */
#ifndef MOONFORK_H
#define MOONFORK_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MF_API __attribute__((visibility("default")))
#else
#define MF_API
#endif

#define MF_VERSION_MAJOR 0
#define MF_VERSION_MINOR 1
#define MF_VERSION_PATCH 0
#define MF_VERSION_STRING "0.1.0"
#define MF_VERSION_NUMBER                                                                \
  ((MF_VERSION_MAJOR << 16) | (MF_VERSION_MINOR << 8) | MF_VERSION_PATCH)

struct uv_loop_s;

typedef struct mf_process mf_process; /* belongs to one loop and its thread */

/* Codes. Misuse of a function may also return a negated errno (the values of libuv's
 * UV_E... on this system); the callback's error has one of these. The text names are
 * those of Lua's err.code (mf_errname). */
#define MF_ERROR_MAP(X)                                                                  \
  X(REMOTE, -20001, "a Lua error in the other process")                                  \
  X(CLONE_DIED, -20002, "the process ended instead of answering")                        \
  X(TEMPLATE_START, -20003, "the template program could not be started")                 \
  X(TEMPLATE_DIED, -20004, "the template has ended")                                     \
  X(FORK_FAILED, -20005, "the fork failed")                                              \
  X(TIMEOUT, -20006, "timed out")                                                        \
  X(CANCELLED, -20007, "closed or cancelled while under way")                            \
  X(CLOSED, -20008, "already closed")                                                    \
  X(INVAL, -20009, "a value that can't be used")                                         \
  X(LIMIT, -20010, "a limit was reached")                                                \
  X(PROTOCOL, -20011, "protocol error of the other process")                             \
  X(NOMEM, -20012, "not enough memory")                                                  \
  X(UNSUPPORTED, -20013,                                                                 \
    "not supported on this system, or not with a remote process or a thread")            \
  X(STATE, -20014, "not possible in the process's present state")                        \
  X(FORKED, -20015, "the object belongs to the process this one was forked from")        \
  X(ENGINE, -20016, "the engine can't be reached, or refused")

enum mf_code {
#define MF_ERROR_ENUM(name, value, text) MF_E##name = value,
  MF_ERROR_MAP(MF_ERROR_ENUM)
#undef MF_ERROR_ENUM
#define MF_ECANCELED MF_ECANCELLED
};

/* Whether user code may have been entered. NO is said only with proof. */
enum mf_started { MF_STARTED_NO = 0, MF_STARTED_UNKNOWN = 1 };

/* How a process ended. signal 0: none. The text is valid during the callback. */
typedef struct mf_exit {
  int known, code, signal; /* known 0: nobody can know, the rest is zero */
  const char *error;       /* message and traceback where the function raised, or NULL */
  int core;                /* a core file was written */
  int has_rusage;          /* the three below are measured */
  uint64_t utime_us, stime_us, maxrss_bytes;
} mf_exit;

typedef struct mf_error { /* valid during the callback */
  int code;               /* negative: MF_E... or UV_E...; NULL error means success */
  const char *message, *traceback; /* traceback (of the other process) may be NULL */
  int started;                     /* MF_STARTED_NO, MF_STARTED_UNKNOWN */
  const mf_exit *exit;             /* how the process ended, or NULL */
  const void *value; /* what Lua code raised where that was no string: MessagePack, an */
  size_t value_length; /* array of that one value. NULL: a string, or it can't be sent */
  int os_error;        /* mf_save: errno, where the file was the reason; else 0 */
} mf_error;

/* Where a standard stream of a new process leads. */
enum mf_stdio_kind {
  MF_STDIO_INHERIT = 0, /* the template's */
  MF_STDIO_NULL = 1,    /* /dev/null */
  MF_STDIO_SOCKET = 2,  /* the process's own socket from run on, /dev/null before */
  MF_STDIO_FD = 3       /* a descriptor, duplicated by the call that gets the options */
};
typedef struct mf_stdio {
  int kind, fd;
} mf_stdio;

enum mf_leash { MF_LEASH_KILL = 0, MF_LEASH_TERM = 1, MF_LEASH_KEEP = 2 };
enum mf_gc { MF_GC_GENERATIONAL = 0, MF_GC_INCREMENTAL = 1, MF_GC_STOP = 2 };
enum mf_handles { MF_HANDLES_INHERIT = 0, MF_HANDLES_CLOSE = 1 };
/* Whether other processes of the same user may look into a process, take its descriptors
 * and trace it (PR_SET_DUMPABLE). Clones inherit it. */
enum mf_dumpable { MF_DUMPABLE_INHERIT = 0, MF_DUMPABLE_YES = 1, MF_DUMPABLE_NO = 2 };
/* Whether what a process starts by itself belongs to it: io.popen, os.execute,
 * clone.fork. Signals, time limits and the leash then reach all of it (its process
 * group), and the end of the process is the end of all of it. Clones inherit it, each for
 * itself. */
enum mf_tree { MF_TREE_INHERIT = 0, MF_TREE_YES = 1, MF_TREE_NO = 2 };
/* What a clone is: a process of its own, or a copy of the template's interpreter in a
 * thread of the template's process (doc/thread-clones.md). Of a thread are its
 * descriptors, directory and umask, as those of a process are; what a thread can't have
 * of its own is MF_EUNSUPPORTED: signals (mf_kill), limits, leash, tree, session,
 * dumpable, stdio, env, mf_to_fd. A crash of one ends all that are in the process. */
enum mf_isolation { MF_ISOLATION_PROCESS = 0, MF_ISOLATION_THREAD = 1 };
/* Of a clone that is a thread: YES: memory of a large template is copied when the clone
 * touches it, instead of all at its birth; a fork where the kernel serves no such faults
 * is refused (MF_EUNSUPPORTED), and with TRY it copies at once (doc/thread-clones.md). */
enum mf_lazy { MF_LAZY_NO = 0, MF_LAZY_YES = 1, MF_LAZY_TRY = 2 };

/* Flags of mf_seal: one gc and one audit; two of a kind are MF_EINVAL. */
enum mf_seal_flags {
  MF_SEAL_GENERATIONAL = 0,
  MF_SEAL_INCREMENTAL = 1,
  MF_SEAL_STOP = 2,
  MF_SEAL_AUDIT_OFF = 0x10,
  MF_SEAL_AUDIT_WARN = 0x20, /* 0 in these bits: the audit of every fork, no more */
  MF_SEAL_AUDIT_STRICT = 0x40
};

/* A function ignores fields that it has no use for, unless they say otherwise. */
typedef struct mf_options { /* start from MF_OPTIONS_INIT or mf_options_init() */
  size_t size;
  struct uv_loop_s *loop; /* NULL: uv_default_loop(). Ignored by mf_fork_options */
  const char *program;    /* template program; NULL: $MOONFORK_TEMPLATE, else the
                             installed moonfork-template. mf_new_exec only */
  const char *const *env; /* changes, NULL-terminated: "NAME=value", "NAME" unsets */
  const char *cwd;        /* NULL: inherited */
  const char *lua_path, *lua_cpath; /* package.path, package.cpath; NULL: built in */
  mf_stdio stdio[3];
  int gc;              /* enum mf_gc */
  int leash;           /* enum mf_leash: what the parent's end does to a function */
  int handles;         /* enum mf_handles */
  int new_session;     /* setsid(2) in the new process */
  unsigned timeout_ms; /* until run has entered the function; 0: none */
  const char *name;    /* for titles and messages */
  unsigned spares_min, spares_max; /* clones forked ahead, min <= max; max 0: none */
  size_t heap_reserve; /* address space of the template's Lua heap; 0: default */
  int dumpable; /* enum mf_dumpable; of the first mf_new: the default template's, too */
  int tree;     /* enum mf_tree */
  const char *const *command; /* of mf_remote: leads to `moonfork agent`; ends in NULL */
  unsigned beat_ms;           /* of mf_remote: 0: 1,000; three without a sign end it */
  size_t window;              /* of mf_remote: bytes of a stream under way; 0: 262,144 */
  int isolation;              /* enum mf_isolation; of mf_fork_options, else MF_EINVAL */
  const char *image;          /* mf_new_exec, mf_remote (its file): begin as this image */
  int image_verify;           /* compare all of its contents with their checksum */
  int lazy;                   /* enum mf_lazy; of mf_fork_options with isolation */
} mf_options;
#define MF_OPTIONS_INIT                                                                  \
  {                                                                                      \
    sizeof(mf_options), NULL, NULL, NULL, NULL, NULL, NULL, {{0, 0}, {0, 0}, {0, 0}}, 0, \
        0, 0, 0, 0, NULL, 0, 0, 0, 0, 0, NULL, 0, 0, 0, NULL, 0, 0                       \
  }
MF_API void mf_options_init(mf_options *options);

/* socket: connected to the function's; callee owns it: close-on-exec, non-blocking, on
 * no loop of ours. -1 on error. */
typedef void (*mf_run_cb)(mf_process *, const mf_error *error, int socket, void *data);
typedef void (*mf_exit_cb)(mf_process *, const mf_exit *status, void *data);
typedef void (*mf_close_cb)(mf_process *, void *data);
typedef void (*mf_error_cb)(mf_process *, const mf_error *error, void *data);

/* ---- make ---- */

/* A process forked from the loop's default template, which is started on first use and
 * kept (without any handle on the loop while no process is open). */
MF_API int mf_new(const mf_options *, mf_process **ret);
/* A process in a newly executed interpreter. */
MF_API int mf_new_exec(const mf_options *, mf_process **ret);
/* The same by options.command, on another machine or as another user: any command (ssh,
 * sudo, docker exec -i, sh -c) whose standard input and output lead to `moonfork agent`.
 * Without options.program. mf_pid is the number there. Handles are connected stream
 * sockets and ends of pipes, others are MF_EUNSUPPORTED, and so is mf_to_fd. */
MF_API int mf_remote(const mf_options *, mf_process **ret);
/* A process forked from p with all that p was given so far. */
MF_API int mf_fork(mf_process *, mf_process **ret);
/* The same with options (env, cwd, stdio, leash, handles, new_session, tree, timeout_ms,
 * name).
 */
MF_API int mf_fork_options(mf_process *, const mf_options *, mf_process **ret);
/* A process from what mf_to_fd gave, in this or another process. Takes fd, even on
 * failure. */
MF_API int mf_from_fd(const mf_options *, int fd, mf_process **ret);
/* Drops the loop's default template (NULL: of uv_default_loop()), and an early process
 * that no loop has asked for yet: the next mf_new takes a fresh snapshot of environment
 * and directory. */
MF_API int mf_reset(struct uv_loop_s *loop);

/* ---- prepare: queued in order, executed in order; what follows a failed one is not
 * executed. The first failure goes to the run, to_fd or error callback. ---- */

MF_API int mf_require(mf_process *, const char *module);
/* Runs Lua source. Messages and tracebacks call the chunk NAME where the first line of
 * code is
 * "-- =NAME", else "(eval)". */
MF_API int mf_eval(mf_process *, const char *code, size_t length, int argc,
                   const char *const *argv, const size_t *lengths);
MF_API int mf_send_fd(mf_process *, int fd);                           /* duplicates */
MF_API int mf_send_arg(mf_process *, const void *data, size_t length); /* copies */
/* The same without a copy: borrows the bytes until release(release_data) is called,
 * which happens exactly once, also on failure, perhaps inside this call. release NULL:
 * the bytes stay as they are for the rest of the program. */
MF_API int mf_send_arg_ref(mf_process *, const void *data, size_t length,
                           void (*release)(void *release_data), void *release_data);
MF_API int mf_take_args(mf_process *); /* forget what was sent so far */
MF_API int mf_chdir(mf_process *, const char *path);
MF_API int mf_setenv(mf_process *, const char *name, const char *value); /* NULL: unset */
/* Sets a Lua global, or a field ("config.depth"), to one value in MessagePack as calls
 * have it (doc/rpc.md; no handles), of at most 1 GiB: MF_ELIMIT. Copies. Clones forked
 * from then on have it. */
MF_API int mf_set(mf_process *, const char *name, const void *value, size_t length);
MF_API int mf_seal(mf_process *, int flags);

#define MF_LIMIT_INFINITY UINT64_MAX
typedef struct mf_rlimit {
  const char *name; /* "cpu", "as", "nofile", "core", "fsize", "nproc" */
  uint64_t value;   /* soft and hard; bytes, seconds or counts as in setrlimit(2) */
} mf_rlimit;
MF_API int mf_limit(mf_process *, const mf_rlimit *limits, size_t count);

/* ---- finish ---- */

/* Enters the function "module:name" or "name". Success means that it has been entered.
 * NULL, of a process that begins as an image which clone.hibernate has written: the
 * function that was suspended there goes on. */
MF_API int mf_run(mf_process *, const char *function, mf_run_cb, void *data);
/* Waits until all commands are executed, then gives the control socket away (callee
 * owns it). The process goes on as it was; mf_from_fd takes it up. */
MF_API int mf_to_fd(mf_process *, mf_run_cb, void *data);
/* Ends a process that has not run: what was queued is executed, then it exits with 0. On
 * a template: no more forks; its running clones go on and their exits are reported. */
MF_API int mf_finish(mf_process *);

/* ---- ask ---- */

/* Told once about the first failure that no run or to_fd callback reported. */
MF_API int mf_on_error(mf_process *, mf_error_cb, void *data);
/* Told once, at the end of the process, also when it has ended already. */
MF_API int mf_on_exit(mf_process *, mf_exit_cb, void *data);
/* Sends a signal (with the option tree to all that belongs to the process); never reaches
 * a reused pid. -ESRCH when it has ended. Before the pid is known the signal is kept and
 * sent then. */
MF_API int mf_kill(mf_process *, int signum);
/* -1 until known: look before you give it to kill(2), for which -1 is everybody; mf_kill
 * needs no number. */
MF_API int mf_pid(const mf_process *);

/* How many spares (mf_options.spares_max) wait to be taken now. */
MF_API int mf_spares(const mf_process *);

typedef struct mf_memory_info {
  uint64_t pss, uss, rss, shared, lua; /* bytes; lua 0: unknown */
} mf_memory_info;
typedef void (*mf_memory_cb)(mf_process *, const mf_error *error, const mf_memory_info *,
                             void *data);
MF_API int mf_memory(mf_process *, mf_memory_cb, void *data);
/* Writes the interpreter of a process that has not run, after what was queued before, as
 * an image to file (relative: to the directory of that process), in the place of one that
 * is there. The callback gets NULL, or why not: MF_EINVAL what can't be saved or a path
 * that can't be used, MF_ELIMIT the disk is full or descriptors are used up, MF_ENOMEM,
 * MF_EUNSUPPORTED. The process goes on in every case. MF_ESTATE: after mf_run, mf_to_fd
 * or mf_finish. */
MF_API int mf_save(mf_process *, const char *file, mf_error_cb, void *data);

/* ---- end ----
 * Every process needs it, once, at any time. What is under way completes with
 * MF_ECANCELLED, a pending on_exit with known = 0, then the callback (or NULL), after
 * which the pointer is invalid. A result that is there already is told as it is: a run
 * that has succeeded gives its socket. To learn of an exit, close later. A process that
 * runs is not touched; one that does not ends, after what is queued, or is killed after
 * two seconds. When all callbacks have run, the library has no handle left on the loop. */
MF_API void mf_close(mf_process *, mf_close_cb, void *data);

/* ---- rpc: calls of one function in a process that stays ----
 *
 * Byte strings and descriptors go in and out; what they mean is the serialiser's
 * business.
 * In the clone the function is an ordinary Lua function, called once for each call.
 *
 *   mf_rpc_new -> mf_rpc_call ... -> mf_rpc_close
 *
 * Every call's callback comes once, whatever dies, before the close callback. Results and
 * events come in the order in which the clone made them; what it sent before it died
 * comes before the news of its death. Idle rpcs and pools don't keep the loop alive. */
typedef struct mf_rpc mf_rpc;

/* A request: everything is borrowed for the call, descriptors are duplicated. A reply or
 * an event: valid during the callback; a descriptor that the callback wants to keep it
 * replaces by -1 in fds, the others are closed. */
typedef struct mf_message {
  const void *data;
  size_t length;
  int *fds;
  size_t nfds;
} mf_message;

/* One of error and reply is NULL. error->started NO: the function was not entered. */
typedef void (*mf_reply_cb)(const mf_error *error, const mf_message *reply, void *data);
typedef void (*mf_event_cb)(const mf_message *event, void *data);
typedef void (*mf_trouble_cb)(const mf_error *error, void *data);
typedef void (*mf_notice_cb)(void *data);

#define MF_NO_TIMEOUT 0xffffffffu

typedef struct mf_rpc_options { /* start from MF_RPC_OPTIONS_INIT */
  size_t size;
  const char *init;       /* function that is run once, first, with the arguments sent */
  const char *serialiser; /* NULL: "raw": f gets and gives one string, which is the
                             body; "string": strings, each u32 length (little-endian) and
                             bytes; "msgpack"; or a Lua module with encode and decode */
  int async;              /* f(done, ...), needs luv there; else f(...), one after the
                             other */
  int handles;            /* accept descriptors in results and events */
  int strict;             /* answers are written before the next call is entered, so that
                             all calls but the first are known as not started when the
                             clone dies; costs a write for each call. Not with async */
  unsigned timeout_ms;    /* from call to answer; MF_NO_TIMEOUT: none */
  uint64_t message_max;   /* longest body, in either direction; 256 MiB. Not of errors,
                             whose texts have limits of their own */
  size_t pending_max;     /* calls without an answer (late ones included); 131,072 */
  size_t queue_bytes_max; /* bytes of calls that are not written; 64 MiB. A call that is
                              longer is taken while nothing else waits */
  mf_event_cb on_event;   /* NULL: events are dropped and counted */
  mf_trouble_cb on_error; /* once: the process died or broke the protocol, also when idle;
                             after the callbacks of the calls */
  mf_notice_cb on_close;  /* once, last but for the close callback: an orderly end */
  mf_notice_cb on_drain;  /* after MF_ELIMIT, when half of the limit is free again */
  void *data;             /* of these four */
  unsigned grace_ms;  /* that a closing rpc waits for the next answer, before its process
                         is killed; 10,000. A call with a timeout of its own may use
                         all of that. MF_NO_TIMEOUT: for ever */
  int strict_classes; /* "msgpack": a call with an object whose Lua class is not
                         registered in the clone is refused; else the function gets a
                         plain value */
} mf_rpc_options;
#define MF_RPC_OPTIONS_INIT                                                              \
  {                                                                                      \
    sizeof(mf_rpc_options), NULL, NULL, 0, 0, 0, MF_NO_TIMEOUT, 256u << 20, 131072,      \
        64u << 20, NULL, NULL, NULL, NULL, NULL, 10000, 0                                \
  }
MF_API void mf_rpc_options_init(mf_rpc_options *options);

typedef struct mf_call_options { /* NULL: all as the rpc or pool says */
  size_t size;
  unsigned timeout_ms; /* 0: as the rpc or pool says; MF_NO_TIMEOUT: none */
  int idempotent;      /* pool: may run again (twice at most) when its worker dies */
  int chunk; /* the request is many items, its reply their answers: the layout is
                under "Chunks" in doc/rpc-protocol.md. A pool's call_timeout_ms is
                then 20 ms longer */
} mf_call_options;
#define MF_CALL_OPTIONS_INIT                                                             \
  { sizeof(mf_call_options), 0, 0, 0 }

/* Runs `function` ("module:name" or "name") of p as an rpc. Takes p when it succeeds: p
 * is closed by mf_rpc_close. p must not have run. A process that does not start is told
 * by the calls and on_error. */
MF_API int mf_rpc_new(mf_process *p, const char *function, const mf_rpc_options *,
                      mf_rpc **ret);
/* Queues a call; possible at once, before the process is up. *ret_id (or NULL): for
 * mf_rpc_cancel. MF_ELIMIT: too long, or too much waits; MF_ECLOSED: after mf_rpc_close.
 * After the rpc's end the callback gets the error of that end. */
MF_API int mf_rpc_call(mf_rpc *, const mf_message *request, const mf_call_options *,
                       mf_reply_cb, void *data, uint64_t *ret_id);
/* The callback gets MF_ECANCELLED, from the loop; started NO when the call is never sent.
 * What is at work runs on and its answer is dropped. -ESRCH: no such call waits. */
MF_API int mf_rpc_cancel(mf_rpc *, uint64_t id);
/* Borrows the process, for mf_pid, mf_kill, mf_memory and mf_on_exit. */
MF_API mf_process *mf_rpc_process(const mf_rpc *);

typedef struct mf_rpc_stats {
  size_t size;        /* set by the caller */
  size_t pending;     /* calls whose callback has not come */
  size_t queue_bytes; /* not written yet */
  uint64_t calls, answers;
  uint64_t late; /* answers of calls that had timed out or were cancelled */
  uint64_t events, events_dropped;
  uint64_t usage;  /* private bytes of the clone, where it was asked; else 0 */
  uint64_t shared; /* the same of what it shares with others */
} mf_rpc_stats;
MF_API int mf_rpc_get_stats(const mf_rpc *, mf_rpc_stats *);

/* Gives up at once: all calls get MF_ECANCELLED (from the loop), the socket is closed, on
 * which the clone leaves, or is killed after a second. on_error and on_close don't come.
 * mf_rpc_close is still due. */
MF_API void mf_rpc_abort(mf_rpc *);
typedef void (*mf_rpc_close_cb)(mf_rpc *, void *data);
/* Needed once: no more calls. Those under way finish, the clone ends, on_close, then this
 * callback (or NULL), after which the pointer is invalid. When no answer came for
 * grace_ms the rest gets MF_ECANCELLED, and the clone is killed (on_error instead of
 * on_close). */
MF_API void mf_rpc_close(mf_rpc *, mf_rpc_close_cb, void *data);

/* ---- pool: calls handed to workers that come and go ---- */
typedef struct mf_pool mf_pool;

#define MF_POOL_PROCESSORS 0xffffffffu

enum mf_worker_event { /* a worker starts once, and then ends in one of three ways */
                       MF_WORKER_STARTED =
                           0, /* it is ready for calls, or ended before it was */
                       MF_WORKER_ENDED = 1,  /* by itself, or told to by the pool */
                       MF_WORKER_KILLED = 2, /* by the pool */
                       MF_WORKER_RECYCLED =
                           3 /* told to, at its max_calls or max_memory, or it retired */
};
/* reason: a text that begins with a word (doc/rpc.md), valid during the callback. */
typedef void (*mf_worker_cb)(int event, int pid, const char *reason, void *data);

typedef struct mf_pool_options { /* start from MF_POOL_OPTIONS_INIT; zeros are meant */
  size_t size;
  const mf_rpc_options *rpc; /* NULL: defaults. pending_max, queue_bytes_max, strict and
                                on_drain are the pool's own business. timeout_ms also
                                counts while a call waits; on_event gets the events of all
                                workers, on_error each worker's unasked end, and the
                                pool's failure; on_close comes when the pool has ended */
  unsigned max;              /* most workers; MF_POOL_PROCESSORS: as many as processors */
  unsigned idle;      /* workers kept although they have nothing to do; at most max */
  unsigned load;      /* calls under way in one worker; at least 1 */
  unsigned start_ms;  /* between two new workers while calls wait */
  unsigned stop_ms;   /* so often one with nothing to do above idle is stopped */
  unsigned queue_max; /* calls that wait, besides those for workers about to be there */
  unsigned max_calls; /* of one worker; 0: any number. Spread by a quarter below it */
  unsigned call_timeout_ms; /* from the start in a worker; kills that */
  uint64_t max_memory;      /* private bytes of one worker, seen after calls; 0: any */
  unsigned restart_burst, restart_period_ms; /* more ends before the first answer within
                             the period make the pool failed; burst at most 1000 */
  unsigned grace_ms; /* that a worker gets to end, before it is killed; and that a
                        closing pool waits for the next answer, as in mf_rpc_options */
  unsigned backoff_min_ms,
      backoff_max_ms;     /* before a worker is replaced that ended without
            any answer: min (at most max), doubled for each such one before
            it in a row; an answer of any worker ends the row */
  mf_worker_cb on_worker; /* NULL: nobody is told */
  void *worker_data;
  int tree;                /* enum mf_tree, of the workers; INHERIT: as the template */
  unsigned restart_starts; /* more starts in a row that came to nothing while no worker is
                              ready make the pool failed, too, whatever restart_burst is;
                              0: any number */
  int isolation; /* enum mf_isolation, of the workers. MF_ISOLATION_THREAD: a worker that
                    is to be killed ends at its next instruction of Lua; mf_pool_promote
                    is MF_EUNSUPPORTED */
  int lazy;      /* enum mf_lazy, of such workers */
} mf_pool_options;
#define MF_POOL_OPTIONS_INIT                                                             \
  {                                                                                      \
    sizeof(mf_pool_options), NULL, MF_POOL_PROCESSORS, 0, 2, 100, 10000, 65536, 0,       \
        MF_NO_TIMEOUT, 0, 5, 10000, 10000, 50, 5000, NULL, NULL, 0, 0, 0, 0              \
  }
MF_API void mf_pool_options_init(mf_pool_options *options);

/* Makes p the template of workers that run `function`. Takes p when it succeeds. p is
 * started again with all it was given when it dies (doc/c-api.md: when not). */
MF_API int mf_pool_new(mf_process *p, const char *function, const mf_pool_options *,
                       mf_pool **ret);
/* As mf_rpc_call. MF_ELIMIT: queue_max is exceeded, or the request is too long. In a
 * failed pool the callback gets the reason. */
MF_API int mf_pool_call(mf_pool *, const mf_message *request, const mf_call_options *,
                        mf_reply_cb, void *data, uint64_t *ret_id);
MF_API int mf_pool_cancel(mf_pool *, uint64_t id);  /* as mf_rpc_cancel */
MF_API int mf_pool_resize(mf_pool *, unsigned max); /* MF_ECLOSED: as mf_pool_reload */

typedef void (*mf_pool_cb)(mf_pool *, const mf_error *error, void *data);
/* New workers are forked from p. Takes p when it succeeds. A first one is started on
 * trial: when it is ready the old workers finish what they have and are replaced; when it
 * fails, the callback gets why and all stays as it was. Ends the failed state. A later
 * reload takes the place of one that is not over: that one's callback gets MF_ECANCELLED.
 * MF_ESTATE: p was given to the pool already. MF_ECLOSED: after mf_pool_drain or
 * mf_pool_close. */
MF_API int mf_pool_reload(mf_pool *, mf_process *p, mf_pool_cb, void *data);
/* New workers are forked from p, too: from the template with the fewest. Takes p when it
 * succeeds; a first worker is on trial, and results are as of mf_pool_reload. A template
 * whose workers end too early fails alone, and on_error is told; the pool fails with the
 * last one. Later additions wait for those before; a reload replaces all templates. */
MF_API int mf_pool_add(mf_pool *, mf_process *p, mf_pool_cb, void *data);
/* The worker with the most answers is forked between two calls, and its copy takes the
 * place of the template that it came from: later workers share what it has built. The
 * worker goes on. A first worker of the copy is on trial; where that, or the fork, fails,
 * the callback gets why and all stays as it was. A promoted template that dies is started
 * again as the original was. MF_EFORK_FAILED: there is no worker, or it can't be forked
 * (doc/rpc.md). MF_EUNSUPPORTED: the pool is asynchronous. MF_ECLOSED: as mf_pool_reload.
 */
MF_API int mf_pool_promote(mf_pool *, mf_pool_cb, void *data);
/* Takes no more calls, lets those it has finish, and tells when the last worker has
 * ended. After timeout_ms (MF_NO_TIMEOUT: after grace_ms without an answer) what is left
 * is killed: error TIMEOUT. MF_ECLOSED: that was asked for already, or it is closed. */
MF_API int mf_pool_drain(mf_pool *, unsigned timeout_ms, mf_pool_cb, void *data);
typedef struct mf_drain_report { /* of what was accepted before mf_pool_drain */
  size_t size;                   /* set by the caller */
  uint64_t answered;             /* calls, with a result or the function's error */
  uint64_t dropped;              /* calls that no worker had started */
  uint64_t interrupted; /* calls that may have been started, and have no answer: their
                           worker died or was killed, they timed out, were cancelled */
  unsigned killed;      /* workers */
} mf_drain_report;
/* What has become of it by now; in the callback of mf_pool_drain, of all. MF_ESTATE: no
 * mf_pool_drain or mf_pool_close was called. */
MF_API int mf_pool_drain_report(const mf_pool *, mf_drain_report *);

enum mf_pool_state {
  MF_POOL_RUNNING = 0,
  MF_POOL_FAILED = 1,
  MF_POOL_DRAINING = 2,
  MF_POOL_CLOSED = 3
};
enum { MF_POOL_DEATHS = 8 };
typedef struct mf_pool_death {
  int pid;         /* -1: it never came to be */
  mf_exit exit;    /* its error is NULL; see reason */
  uint64_t age_ms; /* how long ago */
  char reason[160];
} mf_pool_death;
typedef struct mf_pool_times { /* microseconds; of the last 4,096 calls or more; 0: none
                                */
  uint64_t p50_us, p90_us, p99_us, max_us; /* at most 1/32 too long; the longest: exact */
} mf_pool_times;
typedef struct mf_pool_info {
  size_t size; /* set by the caller */
  int state;
  unsigned max, workers; /* workers: those that take calls and those that start */
  unsigned idle, starting, leaving;
  size_t queued, running;
  uint64_t calls, done, failed; /* accepted; answered with a result; with an error */
  uint64_t refused, timeouts, cancelled, retried, late;
  uint64_t started, deaths, recycled, retired, killed; /* workers */
  uint64_t template_starts, reloads, events;
  uint64_t memory;         /* private bytes of all workers, as far as they said */
  uint64_t p50_us, p99_us; /* from call to answer; as mf_pool_times */
  mf_pool_death last[MF_POOL_DEATHS]; /* the latest first */
  unsigned nlast;
  mf_pool_times
      queue_time;         /* from the call until a worker starts it, or it is given up */
  mf_pool_times run_time; /* from there to the answer, or to the worker's death */
  unsigned templates;     /* that have not failed */
  uint64_t promotions;
  int chunks; /* it takes calls that are chunks: its function is synchronous, and
                 message_max is 1 MiB or more */
} mf_pool_info;
MF_API int mf_pool_stats(const mf_pool *, mf_pool_info *);
/* The pids of the workers, at most n; gives how many there are. */
MF_API size_t mf_pool_pids(const mf_pool *, int *pids, size_t n);
typedef struct mf_pool_worker {
  int pid;
  unsigned running;       /* calls under way in it, those that wait there included */
  uint64_t calls;         /* that it has answered */
  uint64_t run_us;        /* that it was at calls, in all */
  mf_pool_times run_time; /* of its calls */
  uint64_t memory;        /* private bytes, as it said last, at most once a second after
                             an answer; 0: nothing yet */
  uint64_t shared;        /* the same of what it shares with others */
} mf_pool_worker;
/* The same with what they have done. size: sizeof(mf_pool_worker). */
MF_API size_t mf_pool_workers(const mf_pool *, mf_pool_worker *workers, size_t size,
                              size_t n);

/* Gives up at once: all calls get MF_ECANCELLED, workers are killed. mf_pool_close is
 * due. */
MF_API void mf_pool_abort(mf_pool *);
typedef void (*mf_pool_close_cb)(mf_pool *, void *data);
/* Needed once: as mf_pool_drain without a time limit, then the callback (or NULL), after
 * which the pointer is invalid. */
MF_API void mf_pool_close(mf_pool *, mf_pool_close_cb, void *data);

/* ---- the caller as a template ---- */
/* Forks the calling process. The copy, which holds nothing of the library any more, calls
 * serve with its control socket and the read end of its leash, and must not return from
 * it; the caller's first loop that asks for a default template or for an exec gets that
 * process. mf_early of <moonfork/template.h> is this with moonfork's own template, and
 * hosts want that one. -EBUSY with more than one thread. 0, or a negative code. */
typedef void (*mf_serve_fn)(int control_fd, int leash_fd, void *data);
MF_API int mf_fork_early(mf_serve_fn serve, void *data);

/* ---- looking at it ---- */
/* Writes a text for a person: every process, rpc and pool of the loop (NULL:
 * uv_default_loop()) with its state, what is under way and how old it is. Changes
 * nothing, may be called in a callback, and by a debugger: call mf_dump(0, stderr). The
 * form of the text may change with every version. 0, MF_EINVAL, or -EIO: out could not be
 * written. */
MF_API int mf_dump(struct uv_loop_s *loop, FILE *out);
/* What other libraries have on a loop (libmoonfork-nats its nodes and far pools): mf_dump
 * of that loop calls print, which follows the same rules, after everything else. The
 * memory is the caller's, and used until mf_dump_remove; both are called on the loop's
 * thread, and not by print. */
typedef struct mf_dump_part {
  struct uv_loop_s *loop; /* NULL: uv_default_loop() */
  void (*print)(void *data, FILE *out);
  void *data;
  struct mf_dump_part *next, *prev; /* the library's */
} mf_dump_part;
MF_API void mf_dump_add(mf_dump_part *part);
MF_API void mf_dump_remove(mf_dump_part *part);

/* Writes what happens from now on, on all loops of the process, to that file: a timeline
 * in the trace-event format that Perfetto and chrome://tracing read (doc/trace.md). The
 * file is whole JSON at every moment, also when the program is killed. %p in the path
 * stands for the number of the process, %% for %. NULL ends the trace; so does the end of
 * the program, and another path. Without a call the environment variable MOONFORK_TRACE
 * may name the file; it is looked at when the library makes its first process. 0,
 * MF_EINVAL, MF_ENOMEM or a negated errno: -EINVAL where it is no regular file,
 * -EWOULDBLOCK where another program writes its trace there. Then all is as it was. May
 * be called on any thread. */
MF_API int mf_trace(const char *path);
/* Why the last trace ended by itself (the disk is full), or did not begin as the
 * environment wanted: a negated errno. 0: it did not. */
MF_API int mf_trace_error(void);

/* ---- texts ---- */
MF_API const char *mf_strerror(int code);
MF_API const char *mf_errname(int code);
MF_API unsigned mf_version(void); /* MF_VERSION_NUMBER */
MF_API const char *mf_version_string(void);

#ifdef __cplusplus
}
#endif
#endif
