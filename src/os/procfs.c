/* Which processes the numbers in /proc mean. A /proc of another pid namespace (`unshare --pid`
 * without --mount-proc, a sandbox that binds the host's) has other processes under the
 * numbers of ours. Runs in all processes. */
#include "os/proc.h"

#include "os/fd.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int proc_lists_ours(void) {
  char text[24];
  ssize_t n = readlink("/proc/self", text, sizeof text - 1);
  if (n <= 0)
    return 0;
  text[n] = '\0';
  return atol(text) == (long)getpid();
}

/* A pidfd's number is told as that /proc has it (proc(5), fdinfo). */
static pid_t number_of(int pidfd) {
  char path[48], line[80];
  long pid = 0;
  snprintf(path, sizeof path, "/proc/thread-self/fdinfo/%d", pidfd);
  FILE *f = fopen(path, "re");
  if (!f)
    return 0;
  while (fgets(line, sizeof line, f) && sscanf(line, "Pid: %ld", &pid) != 1)
    ;
  fclose(f);
  return pid > 0 ? (pid_t)pid : 0;
}

pid_t proc_listed(pid_t pid) {
  if (proc_lists_ours())
    return pid;
  int fd = proc_pidfd(pid);
  pid_t number = fd < 0 ? 0 : number_of(fd);
  fd_close(&fd);
  return number;
}
