#include "template/server/autoreap.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static int active;
static pid_t *pids; /* those that may live */
static size_t npids, cap;

static void dispose(int flags) {
  struct sigaction a;
  memset(&a, 0, sizeof a);
  a.sa_handler = SIG_DFL;
  a.sa_flags = flags;
  sigaction(SIGCHLD, &a, NULL);
}

/* Forgets those that are no children any more; reaps what has ended when asked to. */
static void look(int reap) {
  size_t kept = 0;
  for (size_t i = 0; i < npids; i++) {
    siginfo_t info;
    int r, flags = WEXITED | WNOHANG | (reap ? 0 : WNOWAIT);
    do {
      info.si_pid = 0;
      r = waitid(P_PID, (id_t)pids[i], &info, flags);
    } while (r < 0 && errno == EINTR);
    if (r == 0 && (info.si_pid == 0 || !reap))
      pids[kept++] = pids[i];
  }
  npids = kept;
}

int autoreap_prepare(void) {
  if (npids == cap) {
    look(0);
    if (npids * 2 >= cap) {
      size_t more = cap ? cap * 2 : 64;
      pid_t *grown = realloc(pids, more * sizeof *grown);
      if (!grown)
        return -ENOMEM;
      pids = grown;
      cap = more;
    }
  }
  if (!active)
    dispose(SA_NOCLDWAIT);
  active = 1;
  return 0;
}

void autoreap_add(pid_t pid) {
  pids[npids++] = pid;
}

/* What has gone is forgotten first: from then on no number in the list can be another's,
 * because whoever of them ends stays a zombie until autoreap_leave_user. */
void autoreap_enter_user(void) {
  if (!active)
    return;
  dispose(0);
  look(0);
}

void autoreap_leave_user(void) {
  if (!active)
    return;
  dispose(SA_NOCLDWAIT);
  look(1);
}

void autoreap_forget(void) {
  if (!active)
    return;
  dispose(0);
  active = 0;
  npids = 0;
}
