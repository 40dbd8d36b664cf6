/* A copy of this process as a template, without exec: mf_fork_self for whoever has it,
 * and mf_fork_early for a host that has no threads and loops yet. Runs in the parent,
 * from fork() on in the copy. What the copy does then is the caller's:
 * libmoonfork-template serves (src/template/start/early.c), and so does the Lua module,
 * below a running interpreter (src/bind/copy.c). */
#include "os/fd.h"
#include "os/proc.h"
#include "os/sock.h"
#include "parent/private.h"
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

int mf_fork_self(mf_serve_fn serve, void *data, int *ret_fd, int *ret_pid) {
  int fds[2], leash = mf_leash_fd();
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
    proc_reset_signals();
    serve(fds[1], leash, data);
    _exit(2);
  }
  fd_close(&fds[1]);
  fd_close(&leash);
  if (r < 0) {
    fd_close(&fds[0]);
    return r;
  }
  *ret_fd = fds[0];
  *ret_pid = (int)pid;
  return 0;
}

struct early {
  mf_serve_fn serve;
  void *data;
};

static void serve_early(int control_fd, int leash_fd, void *data) {
  const struct early *early = data;
  mf_forked_child(); /* the leash's write end first of all: it would hold itself */
  early->serve(control_fd, leash_fd, early->data);
}

int mf_fork_early(mf_serve_fn serve, void *data) {
  struct early early = {serve, data};
  int fd, pid;
  if (!serve)
    return MF_EINVAL;
  if (proc_threads_at_rest() > 1)
    return -EBUSY;
  int r = mf_fork_self(serve_early, &early, &fd, &pid);
  return r < 0 ? r : mf_adopt_early(fd, pid);
}
