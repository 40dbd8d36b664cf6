/* Processes, the part that only Linux has: pidfds, /proc, the leash that the kernel
 * pulls. Everything that a sandbox may withhold has an answer: -ENOSYS, -ENODATA, or a
 * plainer source. Runs in every process.
 *
 * The leash:
 *
 *    parent                    template and clones
 *    write end ----- pipe ---- read end (inherited, shared)
 *                         \--- the same, reopened: an open file description of one
 *                              process's own, owner and signal set by fcntl(2)
 *
 * When the last write end closes, by exit or by SIGKILL, the kernel sends each owner its
 * signal; no thread, no turn of any loop is needed. An owner is a process or a group, and
 * the kernel knows it by more than its number, which may be another's by then. */
#include "os/proc.h"

#include "base/at_birth.h"
#include "os/fd.h"
#include "os/fdwait.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* The kernel's struct pidfd_info as first published (64 bytes), under a name of ours:
 * headers older than the kernel lack it, newer ones have more fields. */
struct exit_info {
  uint64_t mask, cgroupid;
  uint32_t pid, tgid, ppid, ids[8];
  int32_t exit_code; /* as wait(2) gives it */
};
_Static_assert(sizeof(struct exit_info) == 64, "layout of the kernel");
#define EXIT_INFO_GET _IOWR(0xFF, 11, struct exit_info) /* PIDFD_GET_INFO */
#define EXIT_INFO_EXIT (UINT64_C(1) << 3)               /* PIDFD_INFO_EXIT */

/* ---- who we are ---- */

const char *proc_getenv(const char *name) {
  return getauxval(AT_SECURE) ? NULL : getenv(name);
}

int proc_set_dumpable(int on) {
  return prctl(PR_SET_DUMPABLE, on != 0, 0, 0, 0);
}

int proc_is_filtered(void) {
  return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0;
}

static int is_own(const char *path) {
  struct stat own, its;
  return stat(path, &its) == 0 && stat("/proc/self/exe", &own) == 0 &&
         own.st_dev == its.st_dev && own.st_ino == its.st_ino;
}

int proc_is_own_program(const char *program) {
  char path[PATH_MAX];
  const char *folder = getenv("PATH");
  if (strchr(program, '/') || !folder)
    return is_own(program);
  for (;; folder++) {
    int n = (int)strcspn(folder, ":");
    int length =
        snprintf(path, sizeof path, "%.*s/%s", n ? n : 1, n ? folder : ".", program);
    if (length < (int)sizeof path && access(path, X_OK) == 0)
      return is_own(path);
    folder += n;
    if (!*folder)
      return 0;
  }
}

/* ---- pidfds ---- */

int proc_pidfd(pid_t pid) {
  long fd = syscall(SYS_pidfd_open, pid, 0);
  if (fd >= 0)
    return fd_raise_made((int)fd);
  return errno == EPERM ? -ENOSYS : -errno;
}

/* 1 when the process that the pidfd names has ended: its number may be another's. */
static int has_ended(int pidfd) {
  struct pollfd p = {.fd = pidfd, .events = POLLIN};
  int r;
  do
    r = fdwait(&p, 1, 0);
  while (r < 0 && errno == EINTR);
  return r != 0;
}

static int kill_by_number(pid_t pid, int signum) {
  if (pid <= 0)
    return -ESRCH; /* 0 and below are groups */
  return kill(pid, signum) < 0 ? -errno : 0;
}

int proc_kill(int pidfd, pid_t pid, int signum) {
  if (pidfd < 0)
    return kill_by_number(pid, signum);
  if (syscall(SYS_pidfd_send_signal, pidfd, signum, NULL, 0) == 0)
    return 0;
  if (errno != ENOSYS && errno != EPERM) /* a sandbox may say either */
    return -errno;
  return has_ended(pidfd) ? -ESRCH : kill_by_number(pid, signum);
}

int proc_kill_thread(pid_t pid, pid_t thread, int signum, int value) {
  siginfo_t info;
  memset(&info, 0, sizeof info);
  info.si_signo = signum;
  info.si_code = SI_QUEUE;
  info.si_pid = getpid();
  info.si_uid = getuid();
  info.si_value.sival_int = value;
  return syscall(SYS_rt_tgsigqueueinfo, pid, thread, signum, &info) < 0 ? -errno : 0;
}

int proc_kill_group(int pidfd, pid_t pid, int by_number, int signum) {
  enum {
    WHOLE_GROUP = 1 << 2
  }; /* PIDFD_SIGNAL_PROCESS_GROUP, which older headers lack */
  if (pidfd >= 0) {
    if (syscall(SYS_pidfd_send_signal, pidfd, signum, NULL, WHOLE_GROUP) == 0)
      return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != EPERM) /* before 6.9, a sandbox */
      return -errno;
  }
  if (!by_number || pid <= 1)
    return -ENOSYS;
  return kill(-pid, signum) < 0 ? -errno : 0;
}

int proc_pidfd_status(int pidfd, int *ret_status) {
  struct exit_info info = {.mask = EXIT_INFO_EXIT};
  if (ioctl(pidfd, EXIT_INFO_GET, &info) < 0 || !(info.mask & EXIT_INFO_EXIT))
    return -ENODATA;
  *ret_status = info.exit_code;
  return 0;
}

/* ---- /proc ---- */

/* Reads a small file whole and ends it with NUL. Gives its length or -errno. */
static ssize_t read_small(const char *path, char *out, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -errno;
  size_t done = 0;
  ssize_t got = 1;
  while (got != 0 && done < size - 1) {
    got = read(fd, out + done, size - 1 - done);
    if (got < 0 && errno != EINTR)
      break;
    done += got > 0 ? (size_t)got : 0;
  }
  int r = got < 0 ? -errno : 0;
  fd_close(&fd);
  out[done] = '\0';
  return r < 0 ? r : (ssize_t)done;
}

static void proc_path(char out[64], pid_t pid, const char *file) {
  if (pid == 0)
    snprintf(out, 64, "/proc/self/%s", file);
  else
    snprintf(out, 64, "/proc/%ld/%s", (long)pid, file);
}

/* A field of /proc/self/stat, counted from 1 as in proc(5); only those behind the name,
 * which may contain anything, parentheses included. NULL when there are not as many. */
static const char *stat_field(const char *text, int field) {
  const char *p = strrchr(text, ')');
  for (int at = 2; p && at < field; at++)
    p = strchr(p + 1, ' ');
  return p ? p + 1 : NULL;
}

/* A directory has a link from each of its two names, and here one from each thread. */
static int listed_threads(void) {
  char text[1024];
  struct stat st;
  if (stat("/proc/self/task", &st) == 0 && st.st_nlink > 2)
    return (int)st.st_nlink - 2;
  ssize_t n = read_small("/proc/self/stat", text, sizeof text);
  if (n < 0)
    return (int)n;
  const char *field = stat_field(text, 20);
  int threads = field ? atoi(field) : 0;
  return threads > 0 ? threads : -ENODATA;
}

struct threads {
  int n;       /* that have not begun to end */
  int running; /* of those, beside this one: neither asleep nor stopped */
};

/* One that has ended meanwhile can't be read. */
static void look_at_thread(struct threads *t, const char *name) {
  enum { EXITING = 4 }; /* PF_EXITING of the kernel's flags: do_exit() was entered */
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/self/task/%.20s/stat", name);
  if (read_small(path, text, sizeof text) <= 0)
    return;
  const char *state = stat_field(text, 3), *flags = stat_field(text, 9);
  if (!state || !flags || (strtoul(flags, NULL, 10) & EXITING))
    return;
  t->n++;
  if (!strchr("SITt", *state) && atol(name) != syscall(SYS_gettid))
    t->running++;
}

static int look_at_threads(struct threads *t) {
  DIR *dir = opendir("/proc/self/task");
  if (!dir)
    return -errno;
  *t = (struct threads){0};
  for (const struct dirent *e; (e = readdir(dir));)
    if (e->d_name[0] != '.')
      look_at_thread(t, e->d_name);
  closedir(dir);
  return t->n > 0 ? 0 : -ENODATA; /* this one at least */
}

int proc_threads(void) {
  struct threads t = {0};
  int n = listed_threads();
  return n > 1 && look_at_threads(&t) == 0 ? t.n : n;
}

int proc_threads_at_rest(void) {
  static const unsigned long long asleep_ns = 20000000, most_ns = 1000000000;
  unsigned long long begin = proc_now_ns(), ran = begin, now = begin;
  for (;; usleep(1000), now = proc_now_ns()) {
    struct threads t = {0};
    int n = listed_threads();
    if (n > 1 && look_at_threads(&t) == 0)
      n = t.n;
    if (t.running)
      ran = now;
    if (n <= 1 || now - ran >= asleep_ns || now - begin >= most_ns)
      return n;
  }
}

int proc_is_main_thread(void) {
  return syscall(SYS_gettid) == getpid();
}

/* Without kcmp(2), which a sandbox may forbid: a pipe is one and the same in both. */
static int main_thread_has_other_fds(void) {
  int pair[2], other = 0;
  char name[40];
  struct stat own, its;
  if (pipe2(pair, O_CLOEXEC) < 0)
    return 0;
  snprintf(name, sizeof name, "/proc/self/fd/%d", pair[0]);
  if (fstat(pair[0], &own) == 0)
    other = stat(name, &its) < 0 ? errno == ENOENT && access("/proc/self/fd", F_OK) == 0
                                 : its.st_ino != own.st_ino || its.st_dev != own.st_dev;
  close(pair[0]);
  close(pair[1]);
  return other;
}

/* It has none any more, which looks like others. */
static int main_thread_has_ended(void) {
  char text[1024];
  const char *state =
      read_small("/proc/self/stat", text, sizeof text) < 0 ? NULL : stat_field(text, 3);
  return state && *state == 'Z';
}

int proc_has_own_fds(void) {
  enum { FILES = 2 }; /* KCMP_FILES of linux/kcmp.h */
  pid_t thread = (pid_t)syscall(SYS_gettid), process = getpid();
  if (thread == process)
    return 0;
  long r = syscall(SYS_kcmp, process, thread, FILES, 0, 0);
  if (r == 0 || (r < 0 && !main_thread_has_other_fds()))
    return 0;
  return !main_thread_has_ended();
}

/* ---- title ---- */

/* The bytes that the kernel shows as command line. Found once; a forked process has them
 * at the same place. */
AT_BIRTH static struct {
  int searched;
  char *start;
  size_t size;
  size_t used; /* what follows is zero */
} title_area = {0};

static uint64_t stat_number(const char *text, int field) {
  const char *at = stat_field(text, field);
  return at ? strtoull(at, NULL, 10) : 0;
}

static void find_title_area(void) {
  char text[1024];
  title_area.searched = 1;
  if (read_small("/proc/self/stat", text, sizeof text) < 0)
    return;
  uintptr_t start = (uintptr_t)stat_number(text, 48);
  uintptr_t end = (uintptr_t)stat_number(text, 49);
  if (start == 0 || end <= start)
    return;                         /* hidden (ptrace rules), or an emulator */
  title_area.start = (char *)start; /* NOLINT: an address in text is what there is */
  title_area.used = title_area.size = end - start;
}

#ifdef PR_SET_MM_MAP
/* What the kernel knows of the memory, but for the place of the arguments: it takes all
 * of it together only. Where a field is hidden it refuses. */
static int tell_place(const char *room, size_t size) {
  char text[1024];
  if (read_small("/proc/self/stat", text, sizeof text) < 0)
    return -ENOENT;
  struct prctl_mm_map map = {.start_code = stat_number(text, 26),
                             .end_code = stat_number(text, 27),
                             .start_data = stat_number(text, 45),
                             .end_data = stat_number(text, 46),
                             .start_brk = stat_number(text, 47),
                             .brk = (uint64_t)syscall(SYS_brk, 0),
                             .start_stack = stat_number(text, 28),
                             .arg_start = (uintptr_t)room,
                             .arg_end = (uintptr_t)room + size,
                             .env_start = stat_number(text, 50),
                             .env_end = stat_number(text, 51),
                             .exe_fd = (uint32_t)-1};
  return prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0) < 0 ? -errno : 0;
}
#else
static int tell_place(const char *room, size_t size) {
  return -ENOSYS;
}
#endif

int proc_move_title(char *room, size_t size) {
  if (!title_area.searched)
    find_title_area();
  if (title_area.size == 0)
    return -ENOENT;
  size_t n = title_area.size < size ? title_area.size : size - 1;
  memcpy(room, title_area.start, n);
  memset(room + n, 0, size - n);
  int r = tell_place(room, size);
  if (r < 0)
    return r;
  title_area.start = room;
  title_area.size = size;
  title_area.used = n;
  return 0;
}

void proc_set_title(const char *text) {
  char comm[16] = {0};
  int saved = errno;
  memcpy(comm, text, strnlen(text, sizeof comm - 1));
  prctl(PR_SET_NAME, comm);
  if (!title_area.searched)
    find_title_area();
  if (title_area.size > 0) {
    size_t n = strlen(text);
    if (n > title_area.size - 1)
      n = title_area.size - 1;
    memmove(title_area.start, text, n); /* text may be an argument itself */
    if (title_area.used > n)
      memset(title_area.start + n, 0, title_area.used - n);
    title_area.used = n;
  }
  errno = saved;
}

/* ---- memory ---- */

/* The sum of the lines "name:   123 kB" in bytes; 0 where there is none. */
static unsigned long long rollup_line(const char *text, const char *name) {
  const char *line = strstr(text, name);
  return line ? strtoull(line + strlen(name), NULL, 10) * 1024 : 0;
}

static int memory_by_rollup(pid_t pid, struct proc_memory *ret) {
  char path[64], text[4096];
  proc_path(path, pid, "smaps_rollup");
  ssize_t n = read_small(path, text, sizeof text);
  if (n <= 0)
    return n < 0 ? (int)n : -ENODATA;
  ret->rss = rollup_line(text, "\nRss:");
  ret->pss = rollup_line(text, "\nPss:");
  ret->uss = rollup_line(text, "\nPrivate_Clean:") +
             rollup_line(text, "\nPrivate_Dirty:") +
             rollup_line(text, "\nPrivate_Hugetlb:");
  ret->shared = rollup_line(text, "\nShared_Clean:") +
                rollup_line(text, "\nShared_Dirty:") +
                rollup_line(text, "\nShared_Hugetlb:");
  return 0;
}

static int memory_by_statm(pid_t pid, struct proc_memory *ret) {
  char path[64], text[256];
  proc_path(path, pid, "statm");
  ssize_t n = read_small(path, text, sizeof text);
  if (n < 0)
    return n == -ENOENT ? -ESRCH : (int)n;
  const char *second = strchr(text, ' ');
  if (!second)
    return -ENODATA;
  *ret = (struct proc_memory){.rss = strtoull(second, NULL, 10) *
                                     (unsigned long long)sysconf(_SC_PAGESIZE)};
  return 0;
}

unsigned long long proc_resident(pid_t pid) {
  struct proc_memory m = {0};
  pid_t number = pid == 0 ? 0 : proc_listed(pid);
  if (pid != 0 && number == 0)
    return 0;
  return memory_by_statm(number, &m) == 0 ? m.rss : 0;
}

static int memory_by_rusage(struct proc_memory *ret) {
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) < 0)
    return -errno;
  *ret =
      (struct proc_memory){.rss = (unsigned long long)usage.ru_maxrss * PROC_MAXRSS_UNIT};
  return 0;
}

int proc_memory(pid_t pid, struct proc_memory *ret) {
  int is_own = pid == 0 || pid == getpid();
  pid_t number = is_own ? 0 : proc_listed(pid);
  if (!is_own && number == 0)
    return -ESRCH;
  if (memory_by_rollup(number, ret) == 0)
    return 0;
  int r = memory_by_statm(number, ret);
  return r < 0 && is_own ? memory_by_rusage(ret) : r;
}

/* ---- leash ---- */

/* By hand: each clone needs this path at its birth, and printf would be pages of libc
 * that it need not touch otherwise. */
static void fd_path(char out[32], int fd) {
  static const char prefix[] = "/proc/self/fd/";
  char digits[12], *first = digits + sizeof digits - 1;
  *first = 0;
  do
    *--first = (char)('0' + fd % 10);
  while ((fd /= 10) > 0);
  memcpy(out, prefix, sizeof prefix);
  strcpy(out + sizeof prefix - 1, first);
}

static int reopen(int fd) {
  char path[32];
  fd_path(path, fd);
  int own = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  return own < 0 ? -errno : fd_raise_made(own);
}

static int ask_for_signal(int fd, int signum) {
  return fcntl(fd, F_SETSIG, signum) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC) < 0
             ? -errno
             : 0;
}

static int is_hung_up(int fd) {
  struct pollfd p = {.fd = fd};
  int r;
  do
    r = fdwait(&p, 1, 0);
  while (r < 0 && errno == EINTR);
  return r > 0 && (p.revents & POLLHUP) != 0;
}

int proc_parent_death(int signum) {
  return prctl(PR_SET_PDEATHSIG, signum) < 0 ? -errno : 0;
}

int proc_leash_prepare(int leash_fd, int signum) {
  int own = reopen(leash_fd);
  if (own < 0)
    return own;
  int r = ask_for_signal(own, signum);
  if (r < 0) {
    fd_close(&own);
    return r;
  }
  return own;
}

/* Asked for first, looked at then: a hang-up in between is seen twice, never missed. */
int proc_leash_own(int prepared_fd, int signum, enum proc_reach reach) {
  pid_t group =
      getpgrp(); /* 0: of another pid namespace; kill(-1) would be everybody's */
  pid_t owner = reach == PROC_GROUP && group > 1 ? -group : getpid();
  if (fcntl(prepared_fd, F_SETOWN, owner) < 0)
    return -errno;
  if (is_hung_up(prepared_fd))
    kill(owner, signum);
  return 0;
}

int proc_leash_change(int prepared_fd, int signum, enum proc_reach reach) {
  int r = ask_for_signal(prepared_fd, signum);
  return r < 0 ? r : proc_leash_own(prepared_fd, signum, reach);
}

void proc_leash_silence(int prepared_fd) {
  fcntl(prepared_fd, F_SETFL, O_NONBLOCK);
}
