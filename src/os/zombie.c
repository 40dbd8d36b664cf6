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

int proc_zombie_status(int pidfd, pid_t pid, int *ret_status) {
  char path[64], text[1024], *p;
  ssize_t n;
  int fd;
  snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -ENODATA;
  do
    n = read(fd, text, sizeof text - 1);
  while (n < 0 && errno == EINTR);
  fd_close(&fd);
  if (n <= 0)
    return -ENODATA;
  text[n] = 0;
  /* The name may hold anything, parentheses too: the state follows the last one. */
  p = strrchr(text, ')');
  if (!p || p[1] != ' ' || p[2] != 'Z')
    return -ENODATA;
  /* Still the same process? A reaped one can't be signalled through its pidfd. */
  if (pidfd >= 0 && proc_kill(pidfd, pid, 0) < 0)
    return -ENODATA;
  while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
    text[--n] = 0;
  p = strrchr(text, ' ');
  if (!p)
    return -ENODATA;
  *ret_status = atoi(p + 1);
  return 0;
}
