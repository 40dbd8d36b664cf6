/* Processes: starting a template, pidfds, titles, threads, the leash. proc_linux.c or
 * proc_posix.c. */
#ifndef OS_PROC_H
#define OS_PROC_H

#include <signal.h>
#include <stddef.h>
#include <sys/types.h>

enum {
  PROC_CONTROL_FD = 3,
  PROC_LEASH_FD = 4,
  PROC_THIRD_FD = 5
}; /* PROTO_BOOT_..._FD of the wire's layer */
struct proc_spawn {
  const char *program; /* with a slash: that file; else searched in PATH */
  char *const *argv, *const *envp;
  int control_fd, leash_fd; /* become these two; -1: none. Borrowed */
  int stdio[3];  /* become 0, 1, 2; -1: inherited (/dev/null where it is closed or
                    close-on-exec here). Borrowed */
  int own_group; /* it leads a process group of its own from the start */
  int ignored;   /* a signal that the caller ignores, and it, too; 0: none */
  int third_fd;  /* becomes PROC_THIRD_FD; 0 or less: none. Borrowed */
};
/* Starts a program with posix_spawn: else default dispositions, empty mask, no copy of the
 * caller's memory. 0, or the negated errno of the exec. */
int proc_spawn(const struct proc_spawn *s, pid_t *ret_pid);

/* A pidfd (pidfd_open(2), Linux 5.3), close-on-exec, above 2; -ENOSYS where there is none
 * (also for EPERM, as some sandboxes answer), -ESRCH when the process is gone. */
int proc_pidfd(pid_t pid);
/* pidfd_send_signal, or kill where pidfd is -1. 0 or -errno. */
int proc_kill(int pidfd, pid_t pid, int signum);
/* The signal with a number to one thread of a process, for which the caller vouches
 * (rt_tgsigqueueinfo(2)). 0, -ESRCH, -ENOSYS (not Linux) or another -errno. */
int proc_kill_thread(pid_t pid, pid_t thread, int signum, int value);
/* The signal to every process of the group that the process made (setpgid(2) with its own
 * number), also when that one has ended. A pidfd names the group for ever (Linux 6.9).
 * Its number does as long as nobody has reaped the process, for which the caller vouches
 * by_number. 0, -ESRCH: nobody is in it, -ENOSYS: there is no safe way, or another
 * -errno.
 */
int proc_kill_group(int pidfd, pid_t pid, int by_number, int signum);
/* The same and the process itself, once, wherever it is. 0 or -errno, as proc_kill. */
int proc_kill_tree(int pidfd, pid_t pid, int by_number, int signum);
#ifdef __APPLE__
enum { PROC_MAXRSS_UNIT = 1 }; /* bytes that ru_maxrss of getrusage(2) counts */
#else
enum { PROC_MAXRSS_UNIT = 1024 };
#endif

/* Reaps a child of ours. 0, MF_AGAIN: still running, -ECHILD: somebody else took it.
 * pidfd -1: by number, which the caller vouches for. */
struct proc_status {
  int status; /* as waitpid(2) gives it */
  unsigned long long utime_us, stime_us, maxrss_bytes;
};
int proc_reap(int pidfd, pid_t pid, struct proc_status *ret);
/* Whether the process is a child of ours that nobody has reaped, alive or not: 0 when it
 * has ended, MF_AGAIN when it lives, -ECHILD when it is not (any more). pidfd -1: by
 * number. */
int proc_peek(int pidfd, pid_t pid);
/* 1 when this process's own wait(2) can't be trusted to have the status of its children:
 * it ignores SIGCHLD, or handles it, or proc_note_thief was called. */
int proc_is_careless(void);
/* A child was reaped by somebody else here. */
void proc_note_thief(void);
/* The status of a process that is no child, after somebody has reaped it:
 * PIDFD_GET_INFO with PIDFD_INFO_EXIT (Linux 6.15). 0, or -ENODATA. */
int proc_pidfd_status(int pidfd, int *ret_status);

/* The same while it is a zombie that its parent has not reaped (zombie.c). pidfd guards
 * against a reused number; -1: the caller vouches for it. 0, or -ENODATA. */
int proc_zombie_status(int pidfd, pid_t pid, int *ret_status);

/* Whether the numbers in /proc are those of this process's pid namespace (procfs.c). */
int proc_lists_ours(void);
/* The number of a process in /proc, where that is another one's; 0: not known. */
pid_t proc_listed(pid_t pid);

/* The parent of a process; 0: not known. */
pid_t proc_parent(pid_t pid);
/* When a process was started, in ticks (sysconf(3)) since the boot; 0: not known. */
unsigned long long proc_started(pid_t pid);

/* Reaps the process behind a pidfd where it is a child of ours (waitid(2) with P_PIDFD,
 * Linux 5.4). 0, or -ECHILD: it is not, or still runs. */
int proc_reap_pidfd(int pidfd, int *ret_status);

/* getenv, but NULL where this process has rights that whoever started it has not
 * (set-user-ID and the like): he is not to choose what it runs. */
const char *proc_getenv(const char *name);
/* Whether the program (as in proc_spawn) is the file that this process executes; 0 where
 * that can't be known. */
int proc_is_own_program(const char *program);

/* The absolute path of the shared object that has this address, as it was loaded: to be
 * called at that time, since it may be relative to the working directory. 0, or -ENOENT:
 * the program itself has it. */
int proc_object_path(const void *address, char *ret, size_t size);

/* Whether other processes of the same user may trace this one, read its memory and take
 * its descriptors (PR_SET_DUMPABLE); inherited by its children until they execute a
 * program. 0, or -1 with errno: ENOTSUP where there is no such thing. */
int proc_set_dumpable(int on);
/* Whether a filter of system calls is installed on this thread, which may kill for one that
 * it does not know; 1 where the system can't tell. */
int proc_is_filtered(void);

/* 1 on the thread that the process began with (also where that can't be told). */
int proc_is_main_thread(void);
/* 1 on a thread with a table of descriptors of its own (unshare(2)): what the library
 * keeps for the process may have other numbers there, or none. 0 where that can't be
 * told. */
int proc_has_own_fds(void);

/* Number of threads of this process, or -errno. One that has begun to end is none any
 * more: it runs no code of the program's, but the kernel lists it for some time, also
 * after it was joined. */
int proc_threads(void);
/* The same, once those that run had the time to end, a second at most. Where all the
 * others have slept for a while they are there to stay. */
int proc_threads_at_rest(void);
/* Process title: comm (15 bytes) and the argument area where it can be found. */
void proc_set_title(const char *text);
/* The title stands in room from now on, which has to stay, and not where the arguments
 * were: a clone does not write to their page then, and the title may be longer. 0 or
 * -errno: it stays where it is. */
int proc_move_title(char *room, size_t size);
/* Random bytes: getrandom(2), /dev/urandom; never fails (falls back to the clock and
 * pid). */
void proc_random(void *out, size_t n);
unsigned long long proc_now_ns(void); /* CLOCK_MONOTONIC */
/* The same some milliseconds ago, for a fraction of the price. */
unsigned long long proc_now_coarse_ns(void);

/* pss, uss, rss, shared in bytes from /proc/PID/smaps_rollup (pid 0: own); where there is
 * none, rss from getrusage or statm and the others 0. 0 or -errno. */
struct proc_memory {
  unsigned long long pss, uss, rss, shared;
};
int proc_memory(pid_t pid, struct proc_memory *ret);
/* Resident bytes of another process, which the kernel knows without looking at its pages;
 * 0 where it can't be known. */
unsigned long long proc_resident(pid_t pid);

/* The signal that the kernel sends to this process when the thread that is its parent
 * ends (PR_SET_PDEATHSIG, prctl(2)); 0: none. 0, or -errno (no prctl here). It is lost by
 * setuid(2) and its like, and at the exec of a set-user-ID program; a fork does not
 * inherit it. */
int proc_parent_death(int signum);

/* The leash: a pipe whose write end only the parent holds. proc_leash_prepare reopens the
 * read end through /proc/self/fd (an open file description that is nobody else's) and has
 * the kernel send signum when the write end closes: F_SETSIG, O_ASYNC (fcntl(2)). Gives
 * the descriptor (close-on-exec) or -errno (no /proc). The signal is sent to nobody until
 * proc_leash_own says to whom: to this process (F_SETOWN) or its whole process group, and
 * at once where the write end is closed already. A process may prepare what its child
 * then owns. */
enum proc_reach { PROC_SELF, PROC_GROUP };
int proc_leash_prepare(int leash_fd, int signum);
int proc_leash_own(int prepared_fd, int signum, enum proc_reach reach);
/* Another signal for it, loud again, and owned. 0 or -errno. */
int proc_leash_change(int prepared_fd, int signum, enum proc_reach reach);
/* It stays silent from now on, in every process that has it. */
void proc_leash_silence(int prepared_fd);

/* Signals: every disposition to default (SIGCHLD included), the mask empty, no alternate
 * stack, no interval timers. */
void proc_reset_signals(void);

#endif
