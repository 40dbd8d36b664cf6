/* FORK: the process of an rpc is asked for a copy of itself that serves commands. */
#include "parent/rpc/rpc_promote.h"

#include "os/fd.h"
#include "parent/private.h"
#include "parent/rpc/rpc_send.h"
#include "wire/rpc_proto.h"

enum { BODY_MAX = 256 };

int rpc_promote(mf_rpc *rpc, struct mf_process **ret) {
  struct mf_process *q;
  struct fdset fds;
  struct buf body;
  int r, leash;
  if (rpc->options.async || !rpc->owner.ops)
    return MF_EUNSUPPORTED;
  if (rpc->closing || rpc->over)
    return MF_ECLOSED;
  leash = mf_leash_fd();
  leash = leash < 0 ? leash : fd_dup(leash);
  if (leash < 0)
    return leash;
  fdset_init(&fds);
  buf_init(&body, BODY_MAX);
  r = process_fork_running(rpc->process, &q, &body, &fds);
  if (r) {
    fd_close(&leash);
    buf_deinit(&body);
    return r;
  }
  fdset_push(&fds, leash);
  r = outbox_put(&rpc->out, RPC_FORK, q->id, buf_peek(&body), buf_size(&body), &fds);
  buf_deinit(&body);
  if (r < 0) { /* the process's end of its socket has gone: it ends by that */
    mf_close(q, NULL, NULL);
    return MF_ENOMEM;
  }
  *ret = q;
  rpc_flush(rpc);
  return 0;
}
