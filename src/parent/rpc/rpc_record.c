#include "parent/rpc/rpc_record.h"

uint64_t rpc_now_ms(const struct mf_rpc *rpc) {
  return rpc->backend->ops->now_ms(rpc->backend);
}

void rpc_schedule(struct mf_rpc *rpc) {
  context_task(rpc->context, PHASE_WORK, &rpc->task);
}

/* The loop stays alive for pending callbacks and for a close under way. Of a worker the
 * pool knows what is waited for: a call that was given up is not. */
void rpc_update_busy(struct mf_rpc *rpc) {
  unsigned closes = rpc->closing && (!rpc->quiet || rpc->aborted);
  unsigned busy =
      !rpc->closed && !rpc->owner.ops &&
      (rpc->own_calls.nwaiting || closes || rpc->error_pending || rpc->close_pending);
  if (busy == rpc->busy)
    return;
  rpc->busy = busy;
  context_count_busy(rpc->context, busy ? 1 : -1);
}

void rpc_rewatch(struct mf_rpc *rpc) {
  unsigned events = 0;
  if (rpc->fd < 0)
    return;
  if (!rpc->eof)
    events |= WATCH_READ;
  if (rpc->full && !rpc->write_closed)
    events |= WATCH_WRITE;
  rpc->backend->ops->watch(rpc->backend, &rpc->watch, rpc->fd, events);
}
