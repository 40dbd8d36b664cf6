/* Processes where there is no pidfd, no /proc and no signal for a hang-up: macOS, the
 * BSDs and others. Runs in every process; replaces proc_linux.c whole. What the system
 * lacks is said by -ENOSYS or -ENODATA, and the callers have their other way: they ask
 * for the end of a template now and then, end of file on the socket for the end of the
 * parent.
 */
#include "os/proc.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) ||                 \
    defined(__OpenBSD__) || defined(__DragonFly__)
static int has_more_rights(void) {
  return issetugid();
}
#else
static int has_more_rights(void) {
  return getuid() != geteuid() || getgid() != getegid();
}
#endif

const char *proc_getenv(const char *name) {
  return has_more_rights() ? NULL : getenv(name);
}

int proc_set_dumpable(int on) {
  errno = ENOTSUP;
  return -1;
}

int proc_is_filtered(void) {
  return 1;
}

int proc_is_own_program(const char *program) {
  return 0;
}

int proc_pidfd(pid_t pid) {
  return -ENOSYS;
}

/* By number: the caller signals only processes whose status nobody has taken yet. */
int proc_kill(int pidfd, pid_t pid, int signum) {
  if (pid <= 0)
    return -ESRCH; /* 0 and below are groups */
  return kill(pid, signum) < 0 ? -errno : 0;
}

int proc_kill_thread(pid_t pid, pid_t thread, int signum, int value) {
  return -ENOSYS;
}

int proc_kill_group(int pidfd, pid_t pid, int by_number, int signum) {
  if (!by_number || pid <= 1)
    return -ENOSYS;
  return kill(-pid, signum) < 0 ? -errno : 0;
}

int proc_pidfd_status(int pidfd, int *ret_status) {
  return -ENODATA;
}

int proc_is_main_thread(void) {
  return 1;
}

int proc_has_own_fds(void) {
  return 0;
}

/* No portable way to count them. */
int proc_threads(void) {
  return -ENOSYS;
}

int proc_threads_at_rest(void) {
  return -ENOSYS;
}

int proc_move_title(char *room, size_t size) {
  return -ENOSYS;
}

#if defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__) ||               \
    defined(__DragonFly__)
void proc_set_title(const char *text) {
  setproctitle("%s", text);
}
#else
/* A title is an ornament; the argument area can't be found safely from here. */
void proc_set_title(const char *text) {
}
#endif

int proc_memory(pid_t pid, struct proc_memory *ret) {
  struct rusage usage;
  if (pid != 0 && pid != getpid())
    return -ENOSYS;
  if (getrusage(RUSAGE_SELF, &usage) < 0)
    return -errno;
  *ret =
      (struct proc_memory){.rss = (unsigned long long)usage.ru_maxrss * PROC_MAXRSS_UNIT};
  return 0;
}

unsigned long long proc_resident(pid_t pid) {
  return 0;
}

int proc_parent_death(int signum) {
  return -ENOSYS;
}

int proc_leash_prepare(int leash_fd, int signum) {
  return -ENOSYS;
}

int proc_leash_own(int prepared_fd, int signum, enum proc_reach reach) {
  return -ENOSYS;
}

int proc_leash_change(int prepared_fd, int signum, enum proc_reach reach) {
  return -ENOSYS;
}

void proc_leash_silence(int prepared_fd) {
}
