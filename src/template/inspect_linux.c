/* waitid(2) with WNOWAIT as Linux has it: the system call, unlike the function of libc,
 * has a fifth argument that is filled with the resources the child used. So a thousand
 * exits can be reported exactly while every number stays taken. Runs in templates. */
#include "template/inspect.h"

#include "base/result.h"
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int to_wait_status(const siginfo_t *i) {
  switch (i->si_code) {
  case CLD_EXITED:
    return (i->si_status & 0xff) << 8;
  case CLD_DUMPED:
    return (i->si_status & 0x7f) | 0x80;
  default:
    return i->si_status & 0x7f;
  }
}

static unsigned long long to_us(struct timeval t) {
  return (unsigned long long)t.tv_sec * 1000000 + (unsigned long long)t.tv_usec;
}

int inspect_child(pid_t pid, struct proc_status *ret) {
  siginfo_t info;
  struct rusage used;
  long r;
  memset(&info, 0, sizeof info);
  memset(&used, 0, sizeof used);
  do
    r = syscall(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT, &used);
  while (r < 0 && errno == EINTR);
  if (r < 0)
    return -errno;
  if (info.si_pid == 0)
    return MF_AGAIN;
  *ret = (struct proc_status){to_wait_status(&info), to_us(used.ru_utime),
                              to_us(used.ru_stime),
                              (unsigned long long)used.ru_maxrss * 1024};
  return 0;
}
