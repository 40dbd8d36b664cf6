/* What may be asked of a process, and given to one. Runs in the parent. */
#include "os/sock.h"
#include "parent/process/far_link.h"
#include "parent/process/process.h"
#include "parent/process/registry.h"
#include <errno.h>

int process_check(const mf_process *p) {
  if (!p || !p->open)
    return MF_EINVAL;
  return context_foreign(p->context) ? MF_EFORKED : 0;
}

/* The same for what a process that was finished, run or given away can't be asked, ended
 * already or not. */
int process_check_unfinished(const mf_process *p) {
  int r = process_check(p);
  return !r && (p->finished || p->used) ? MF_ESTATE : r;
}

/* A socket of the library's own that is passed over itself would keep itself alive, and
 * whoever holds its other end would read what is for another: none of ours may be, by its
 * number, and p's own and its sources' by no other number either. */
static int is_of(const mf_process *p, int fd) {
  return p->chan.fd == fd || (p->rpc_fd && *p->rpc_fd == fd) ||
         (p->far && (p->far->fd == fd || p->far->dead == fd));
}

int process_is_own_socket(const mf_process *p, int fd) {
  if (p->far && p->far->input == fd) /* a pipe: the only one */
    return 1;
  if (!sock_is_nameless(
          fd)) /* most are not: with thousands of processes the rest is long */
    return 0;
  list_each(it, &registry_of(p->context)->processes) {
    if (is_of(list_entry(it, struct mf_process, link), fd))
      return 1;
  }
  for (; p; p = p->source)
    if (p->chan.fd >= 0 && fd_same(p->chan.fd, fd))
      return 1;
  return 0;
}

int process_check_handle(const mf_process *p, int fd) {
  if (fd < 0 || process_is_own_socket(p, fd))
    return MF_EINVAL;
  int r = p->far ? sock_stream_kind(fd) : 1;
  return r == -EBADF ? MF_EINVAL : r < 0 ? r : r ? 0 : MF_EUNSUPPORTED;
}
