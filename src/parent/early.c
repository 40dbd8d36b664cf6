/* mf_fork_early: a template forked from a host at once, without exec, before the host has
 * threads and loops. Runs in the parent, from fork() on in the copy. What the copy does then
 * is the caller's: libmoonfork-template serves (src/template/early.c). The Lua module has its
 * own (src/bind/copy.c), which forks below a running interpreter. */
#include "os/fd.h"
#include "os/proc.h"
#include "os/sock.h"
#include "parent/private.h"
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

static _Noreturn void child_serve(int control_fd, int leash_fd, mf_serve_fn serve,
                                  void *data) {
  proc_reset_signals();
  mf_forked_child(); /* the leash's write end first of all: it would hold itself */
  serve(control_fd, leash_fd, data);
  _exit(2);
}

int mf_fork_early(mf_serve_fn serve, void *data) {
  int fds[2];
  if (!serve)
    return MF_EINVAL;
  if (proc_threads() > 1)
    return -EBUSY;
  int leash = mf_leash_fd();
  if (leash >= 0)
    leash = fd_dup(leash); /* the library closes its own in the copy */
  if (leash < 0)
    return leash;
  int r = sock_pair(fds, 1);
  if (r < 0) {
    fd_close(&leash);
    return r;
  }
  fflush(NULL);
  pid_t pid = fork();
  r = pid < 0 ? -errno : 0;
  if (pid == 0) {
    fd_close(&fds[0]);
    child_serve(fds[1], leash, serve, data);
  }
  fd_close(&fds[1]);
  fd_close(&leash);
  if (r < 0) {
    fd_close(&fds[0]);
    return r;
  }
  return mf_adopt_early(fds[0], (int)pid);
}
