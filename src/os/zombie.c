/* The exit status of a process that somebody else forked.
 *
 * While its parent has not reaped it:
 * /proc/PID/stat of a zombie has it in its last field (proc(5), "exit_code", readable
 * with the rights of ptrace's PTRACE_MODE_READ). Runs in the parent. */
#include "os/proc.h"

#include "os/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* What stands in /proc/PID/stat behind the name, which may hold anything, parentheses
 * too: the state follows the last one. NULL: nothing is known. */
static char *read_stat(pid_t pid, char *text, size_t size) {
  char path[64], *p;
  ssize_t n;
  int fd;
  pid = proc_listed(pid);
  if (pid == 0)
    return NULL;
  snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return NULL;
  do
    n = read(fd, text, size - 1);
  while (n < 0 && errno == EINTR);
  fd_close(&fd);
  if (n <= 0)
    return NULL;
  while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
    n--;
  text[n] = 0;
  p = strrchr(text, ')');
  return p && p[1] == ' ' ? p + 2 : NULL;
}

pid_t proc_parent(pid_t pid) {
  char text[1024], *p = proc_lists_ours() ? read_stat(pid, text, sizeof text) : NULL;
  return p && p[0] && p[1] == ' ' ? (pid_t)atol(p + 2) : 0;
}

unsigned long long proc_started(pid_t pid) {
  enum { STATE = 3, STARTTIME = 22 }; /* proc(5) */
  char text[1024], *p = read_stat(pid, text, sizeof text);
  for (int field = STATE; p && field < STARTTIME; field++) {
    p = strchr(p, ' ');
    p += p != NULL;
  }
  return p ? strtoull(p, NULL, 10) : 0;
}

int proc_zombie_status(int pidfd, pid_t pid, int *ret_status) {
  char text[1024], *p = read_stat(pid, text, sizeof text);
  if (!p || *p != 'Z')
    return -ENODATA;
  /* Still the same process? A reaped one can't be signalled through its pidfd. */
  if (pidfd >= 0 && proc_kill(pidfd, pid, 0) < 0)
    return -ENODATA;
  p = strrchr(p, ' ');
  if (!p)
    return -ENODATA;
  *ret_status = atoi(p + 1);
  return 0;
}
