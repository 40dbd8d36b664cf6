/* See feature.h. Each attempt leaves nothing behind. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "os/feature.h"

#include "os/fd.h"
#include "os/memfile.h"
#include "os/proc.h"
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

static int has_descriptor(int fd) {
  int has = fd >= 0;
  fd_close(&fd);
  return has;
}

static int has_pidfd(void) {
  return has_descriptor(proc_pidfd(getpid()));
}

/* The status of a process that somebody has reaped: that takes a process. */
static int has_pidfd_exit(void) {
  pid_t pid = fork();
  if (pid == 0)
    _exit(0);
  if (pid < 0)
    return 0;
  int fd = proc_pidfd(pid), status = -1;
  while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
    ;
  int has = fd >= 0 && proc_pidfd_status(fd, &status) == 0 && status == 0;
  fd_close(&fd);
  return has;
}

static int has_memfd(void) {
  return has_descriptor(memfile_new("moonfork-look", 4096, MEMFILE_DATA));
}

/* A huge page on demand in a file in memory, as a sealed heap has it. */
static int has_collapse(void) {
  int fd = memfile_new("moonfork-look", HUGE_PAGE, MEMFILE_DATA);
  int has = fd >= 0 && pwrite(fd, "x", 1, 0) == 1 && memfile_make_huge(fd) == 0;
  fd_close(&fd);
  return has;
}

static int has_close_range(void) { /* of what is certainly not open */
#ifdef SYS_close_range
  return syscall(SYS_close_range, ~0u - 1, ~0u, 0) == 0;
#else
  return 0;
#endif
}

static int has_parent_death(void) {
#ifdef PR_GET_PDEATHSIG
  int signum;
  return prctl(PR_GET_PDEATHSIG, &signum) == 0;
#else
  return 0;
#endif
}

static int has_epoll(void) {
#ifdef __linux__
  return has_descriptor(epoll_create1(EPOLL_CLOEXEC));
#else
  return 0;
#endif
}

static int has_proc(void) {
  return access("/proc/self/fd", R_OK | X_OK) == 0;
}

static const struct feature features[] = {
    {"pidfd", has_pidfd},
    {"pidfd_exit", has_pidfd_exit},
    {"memfd", has_memfd},
    {"collapse", has_collapse},
    {"close_range", has_close_range},
    {"pdeathsig", has_parent_death},
    {"epoll", has_epoll},
    {"proc", has_proc},
};

const struct feature *feature_at(size_t i) {
  return i < sizeof features / sizeof *features ? &features[i] : NULL;
}
