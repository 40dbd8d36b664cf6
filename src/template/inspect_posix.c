/* waitid(2) with WNOWAIT as POSIX has it: the status, and no resources. Runs in
 * templates. */
#include "template/inspect.h"

#include "base/result.h"
#include <errno.h>
#include <string.h>
#include <sys/wait.h>

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

int inspect_child(pid_t pid, struct proc_status *ret) {
  siginfo_t info;
  int r;
  memset(&info, 0, sizeof info);
  do
    r = waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT);
  while (r < 0 && errno == EINTR);
  if (r < 0)
    return -errno;
  if (info.si_pid == 0)
    return MF_AGAIN;
  *ret = (struct proc_status){.status = to_wait_status(&info)};
  return 0;
}
