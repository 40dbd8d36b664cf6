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
 *    lack of memory (mf_strerror explains it). What the world refuses - a program
 *    that does not start, a fork that fails - comes to a callback.
 *  - A callback is called once, from the loop, never inside the function that was
 *    given it. It may call any function here, mf_close included.
 *  - Strings and buffers are borrowed for the call unless said otherwise.
 *  - No signal disposition, mask, file mode mask, directory or flag of the host's
 *    descriptors is changed. Where the kernel has no pidfd, libuv's SIGCHLD
 *    handler is used for templates (doc/c-api.md).
 */
#ifndef MOONFORK_H
#define MOONFORK_H

#include <stddef.h>
#include <stdint.h>

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
  X(TIMEOUT, -20006, "the time ran out")                                                 \
  X(CANCELLED, -20007, "closed or cancelled while under way")                            \
  X(CLOSED, -20008, "already closed")                                                    \
  X(INVAL, -20009, "a value that can't be used")                                         \
  X(LIMIT, -20010, "a limit was reached")                                                \
  X(PROTOCOL, -20011, "the other process broke the protocol")                            \
  X(NOMEM, -20012, "not enough memory")                                                  \
  X(UNSUPPORTED, -20013, "not supported on this system")                                 \
  X(STATE, -20014, "not possible in the process's present state")                        \
  X(FORKED, -20015, "the object belongs to the process this one was forked from")

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

/* Flags of mf_seal: one gc and one audit. */
enum mf_seal_flags {
  MF_SEAL_GENERATIONAL = 0,
  MF_SEAL_INCREMENTAL = 1,
  MF_SEAL_STOP = 2,
  MF_SEAL_AUDIT_OFF = 0x10,
  MF_SEAL_AUDIT_WARN = 0x20, /* 0 in these bits: the audit of every fork, no more */
  MF_SEAL_AUDIT_STRICT = 0x40
};

typedef struct mf_options { /* start from MF_OPTIONS_INIT or mf_options_init() */
  size_t size;
  struct uv_loop_s *loop;  /* NULL: uv_default_loop(). Ignored by mf_fork_options */
  const char *program;     /* template program; NULL: $MOONFORK_TEMPLATE, else the
                              installed moonfork-template. mf_new_exec only */
  const char *const *env;  /* changes, NULL-terminated: "NAME=value", "NAME" unsets */
  const char *cwd;         /* NULL: inherited */
  const char *lua_path, *lua_cpath; /* package.path, package.cpath; NULL: built in */
  mf_stdio stdio[3];
  int gc;                  /* enum mf_gc */
  int leash;               /* enum mf_leash: what the parent's end does to a function */
  int handles;             /* enum mf_handles */
  int new_session;         /* setsid(2) in the new process */
  unsigned timeout_ms;     /* until run has entered the function; 0: none */
  const char *name;        /* for titles and messages */
  unsigned spares_min, spares_max; /* clones forked ahead; max 0: none */
  size_t heap_reserve;     /* address space of the template's Lua heap; 0: default */
} mf_options;
#define MF_OPTIONS_INIT                                                                  \
  {                                                                                      \
    sizeof(mf_options), NULL, NULL, NULL, NULL, NULL, NULL, {{0, 0}, {0, 0}, {0, 0}}, 0, \
        0, 0, 0, 0, NULL, 0, 0, 0                                                        \
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
/* A process forked from p with all that p was given so far. */
MF_API int mf_fork(mf_process *, mf_process **ret);
/* The same with options (env, cwd, stdio, leash, handles, new_session, timeout_ms, name). */
MF_API int mf_fork_options(mf_process *, const mf_options *, mf_process **ret);
/* A process from what mf_to_fd gave, in this or another process. Takes fd, even on
 * failure. */
MF_API int mf_from_fd(const mf_options *, int fd, mf_process **ret);
/* Drops the loop's default template (NULL: of uv_default_loop()): the next mf_new takes
 * a fresh snapshot of environment and directory. */
MF_API int mf_reset(struct uv_loop_s *loop);

/* ---- prepare: queued in order, executed in order; what follows a failed one is not
 * executed. The first failure goes to the run, to_fd or error callback. ---- */

MF_API int mf_require(mf_process *, const char *module);
MF_API int mf_eval(mf_process *, const char *code, size_t length, int argc,
                   const char *const *argv, const size_t *lengths);
MF_API int mf_send_fd(mf_process *, int fd); /* duplicates */
MF_API int mf_send_arg(mf_process *, const void *data, size_t length); /* copies */
/* The same without a copy: borrows the octets until release(release_data) is called,
 * which happens exactly once, also on failure, perhaps inside this call. */
MF_API int mf_send_arg_ref(mf_process *, const void *data, size_t length,
                           void (*release)(void *release_data), void *release_data);
MF_API int mf_take_args(mf_process *); /* forget what was sent so far */
MF_API int mf_chdir(mf_process *, const char *path);
MF_API int mf_setenv(mf_process *, const char *name, const char *value); /* NULL: unset */
MF_API int mf_seal(mf_process *, int flags);

#define MF_LIMIT_INFINITY UINT64_MAX
typedef struct mf_rlimit {
  const char *name; /* "cpu", "as", "nofile", "core", "fsize", "nproc" */
  uint64_t value;   /* soft and hard; bytes, seconds or counts as in setrlimit(2) */
} mf_rlimit;
MF_API int mf_limit(mf_process *, const mf_rlimit *limits, size_t count);

/* ---- finish ---- */

/* Enters the function "module:name" or "name". Success means that it has been entered. */
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
/* Sends a signal; never reaches a reused pid. -ESRCH when it has ended. Before the pid
 * is known the signal is kept and sent then. */
MF_API int mf_kill(mf_process *, int signum);
MF_API int mf_pid(const mf_process *); /* -1 until known */

typedef struct mf_memory_info {
  uint64_t pss, uss, rss, shared, lua; /* bytes; lua 0: unknown */
} mf_memory_info;
typedef void (*mf_memory_cb)(mf_process *, const mf_error *error, const mf_memory_info *,
                             void *data);
MF_API int mf_memory(mf_process *, mf_memory_cb, void *data);

/* ---- end ----
 * Every process needs it, once, at any time. What is under way completes with
 * MF_ECANCELLED, a pending on_exit with known = 0, then the callback (or NULL), after
 * which the pointer is invalid. To learn of an exit, close later. A process that runs is
 * not touched; one that does not ends. When all callbacks have run, the library has no
 * handle left on the loop. */
MF_API void mf_close(mf_process *, mf_close_cb, void *data);

/* ---- texts ---- */
MF_API const char *mf_strerror(int code);
MF_API const char *mf_errname(int code);
MF_API unsigned mf_version(void); /* MF_VERSION_NUMBER */
MF_API const char *mf_version_string(void);

#ifdef __cplusplus
}
#endif
#endif
