/* Requests on their way to the process. A call is framed while less than OUT_LOW bytes
 * are queued; the others stay parked, so that each can still be taken back. */
#include "parent/rpc/rpc_send.h"

#include "parent/common/times.h"
#include "parent/private.h"
#include "parent/rpc/rpc_call.h"
#include "parent/rpc/rpc_end.h"
#include "parent/rpc/rpc_trace.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>

enum {
  OUT_LOW = 64 * 1024, /* bytes that are framed; what comes on top stays parked */
  REF_MIN = 32 * 1024, /* bytes of a body that is not copied into the outbox */
  WIDE = 1 << 20       /* bytes that may be on their way once long bodies go */
};

size_t rpc_queue_bytes(const struct mf_rpc *rpc) {
  return rpc->out.nbytes + rpc->parked_bytes;
}

/* ---- framing ---- */

static int put_grants(struct mf_rpc *rpc, const int *fds, size_t nfds) {
  struct fdset set;
  int *copies = malloc(nfds * sizeof *copies), r = 0;
  size_t n = 0, i = 0;
  if (!copies)
    return MF_ENOMEM;
  for (; n < nfds; n++) {
    copies[n] = fd_dup(fds[n]);
    if (copies[n] < 0) {
      r = copies[n] == -EBADF ? MF_EINVAL : copies[n];
      break;
    }
  }
  while (!r && i < n) {
    fdset_init(&set);
    while (i < n && set.n < FRAME_FDS_MAX) {
      fdset_push(&set, copies[i]);
      copies[i++] = -1;
    }
    r = outbox_put(&rpc->out, RPC_GRANT, 0, NULL, 0, &set);
  }
  for (; i < n; i++)
    fd_close(&copies[i]);
  free(copies);
  return r;
}

/* Once long bodies go, more may be on the way: else each is written in six turns. */
static void widen(struct mf_rpc *rpc) {
  if (rpc->wide || rpc->fd < 0)
    return;
  rpc->wide = 1;
  rpc->backend->ops->widen(rpc->backend, rpc->fd, WIDE);
}

static int put_pieces(struct mf_rpc *rpc, struct call *c, struct payload *p) {
  struct iovec pieces[PAYLOAD_PIECES_MAX];
  size_t n = payload_pieces(p, pieces);
  return outbox_put_pieces(&rpc->out, c->type, c->id, pieces, n, NULL, payload_drop,
                           payload_hold(p));
}

/* Frames the call. p: the request where it is held by somebody. */
static int put_call(struct mf_rpc *rpc, struct call *c, const mf_message *m,
                    struct payload *p) {
  size_t before = rpc->out.nbytes;
  int r = 0;
  if (m->nfds)
    r = put_grants(rpc, m->fds, m->nfds);
  if (!r && p && m->length >= REF_MIN)
    widen(rpc);
  if (!r && p && p->lent)
    r = put_pieces(rpc, c, p);
  else if (!r && p && m->length >= REF_MIN)
    r = outbox_put_ref(&rpc->out, c->type, c->id, m->data, m->length, payload_drop,
                       payload_hold(p));
  else if (!r)
    r = outbox_put(&rpc->out, c->type, c->id, m->data, m->length, NULL);
  if (r == -ENOMEM)
    r = MF_ENOMEM;
  if (r && rpc->out.nbytes != before) { /* handles without their call */
    process_end_by_force(rpc->process);
    rpc_fail(rpc, r, "not enough memory for a call with handles");
  }
  if (r)
    return r;
  c->end = rpc->sent + rpc->out.nbytes;
  c->away = c->flying = 1;
  list_push(&rpc->flying, &c->link);
  rpc_trace_call(c);
  return 0;
}

static void unpark(struct mf_rpc *rpc) {
  while (!list_empty(&rpc->parked) && rpc->out.nbytes < OUT_LOW) {
    struct call *c = list_entry(rpc->parked.next, struct call, link);
    struct payload *p = payload_hold(c->payload);
    mf_message m = {p->data, p->length, p->fds, p->nfds};
    int r;
    list_remove(&c->link);
    rpc_call_unpark(c);
    r = put_call(rpc, c, &m, p);
    payload_drop(p);
    if (r)
      rpc_call_lose(c, r, MF_STARTED_NO);
  }
}

static void put_end(struct mf_rpc *rpc) {
  if (!rpc->closing || rpc->end_put || !list_empty(&rpc->parked))
    return;
  if (outbox_put(&rpc->out, RPC_END, 0, NULL, 0, NULL) < 0) {
    deadline_set(&rpc->context->deadlines, &rpc->retry, STALL_RETRY_MS);
    return;
  }
  rpc->end_put = 1;
}

/* ---- writing ---- */

/* Over a link the near end need not be woken for it. 0: by the socket. */
static ssize_t send_direct(struct mf_rpc *rpc, const struct iovec *iov, int n, int nfds) {
  struct mf_process *p = rpc->process;
  if (!p->far || nfds || rpc->far != FAR_SERVING)
    return 0;
  uint64_t nsocket = p->chan.nwritten + rpc->sent - rpc->direct.nwritten;
  far_direct_expect(p->far, &rpc->direct, rpc->fd, p->far_cookie);
  return (ssize_t)far_direct_write(p->far, &rpc->direct, nsocket, iov, n);
}

/* At most about so many bytes. */
static void flush(struct mf_rpc *rpc, size_t most) {
  struct iovec iov[OUTBOX_IOV_MAX];
  const int *fds;
  int n, nfds;
  ssize_t sent;
  rpc->full = 0;
  while (rpc->fd >= 0 && !rpc->write_closed) {
    unpark(rpc);
    put_end(rpc);
    n = outbox_next(&rpc->out, iov, &fds, &nfds);
    if (!n)
      break;
    sent = send_direct(rpc, iov, n, nfds);
    if (!sent)
      sent = rpc->backend->ops->send(rpc->backend, rpc->fd, iov, n, fds, nfds);
    if (sent > 0) {
      rpc->sent += (uint64_t)sent;
      outbox_sent(&rpc->out, (size_t)sent);
      if ((size_t)sent >= most) {
        rpc->full = 1; /* the rest in the next turn */
        break;
      }
      most -= (size_t)sent;
    } else if (sent == 0) {
      rpc->full = 1;
      break;
    } else if (sent == -ETOOMANYREFS || sent == -ENOBUFS || sent == -ENOMEM) {
      deadline_set(&rpc->context->deadlines, &rpc->retry, STALL_RETRY_MS);
      break;
    } else {
      rpc->write_closed = 1; /* what it wrote before may still be read: that decides */
    }
  }
  rpc_rewatch(rpc);
}

void rpc_flush(struct mf_rpc *rpc) {
  flush(rpc, OUTBOX_TURN);
}

/* A long request with nothing before it: what the kernel takes goes straight from the
 * caller's memory, and only the rest is copied, which takes longer. */
static int send_long(struct mf_rpc *rpc, struct call *c, const mf_message *m) {
  struct payload *rest = payload_blank(m->length, &rpc->context->blockcache, NULL);
  int r;
  if (!rest)
    return MF_ENOMEM;
  r = put_call(rpc, c, m, rest);
  if (!r) {
    flush(rpc, SIZE_MAX);
    outbox_move(&rpc->out, m->data, m->length, rest->data);
  }
  payload_drop(rest);
  return r;
}

/* ---- new calls ---- */

static int has_room(struct mf_rpc *rpc, size_t length) {
  size_t queued = rpc_queue_bytes(rpc);
  if (rpc->calls->ids.used < rpc->options.pending_max &&
      (!queued || queued + length + FRAME_HEADER_SIZE <= rpc->options.queue_bytes_max))
    return 1;
  rpc->limited = 1;
  return 0;
}

static int park(struct mf_rpc *rpc, struct call *c, const mf_message *m,
                struct payload *p) {
  int r = 0;
  if (!c->payload && p)
    c->payload = payload_hold(p);
  else if (!c->payload)
    r = payload_new(m, &rpc->context->blockcache, NULL, &c->payload);
  if (r)
    return r;
  rpc_call_park(c);
  return 0;
}

/* chunk: its one descriptor is the library's own. */
static int check(struct mf_rpc *rpc, const mf_message *m, int chunk) {
  int r;
  if (rpc->closing)
    return MF_ECLOSED;
  r = payload_check(m, rpc->options.message_max);
  for (size_t i = 0; !r && rpc->process->far && !chunk && i < m->nfds; i++)
    r = process_check_handle(rpc->process, m->fds[i]);
  return !r && !rpc->over && !has_room(rpc, m->length) ? MF_ELIMIT : r;
}

/* p: the request where it is held already, else NULL. 0, or a code: it was not taken. */
static int take(struct mf_rpc *rpc, struct call *c, const mf_message *m,
                struct payload *p) {
  int waits = !list_empty(&rpc->parked) || rpc->out.nbytes >= OUT_LOW;
  int lent = m->length >= REF_MIN && !p, r;
  if (lent && !waits && rpc->fd >= 0 && !rpc->full && !rpc->write_closed)
    r = send_long(rpc, c, m);
  else if (waits || lent)
    r = park(rpc, c, m, p);
  else
    r = put_call(rpc, c, m, p);
  if (r)
    return r;
  if (rpc->out.nbytes >= OUT_LOW && !rpc->full)
    rpc_flush(rpc);
  else
    rpc_schedule(rpc);
  return 0;
}

int rpc_send(struct mf_rpc *rpc, const mf_message *m, struct payload *p, int chunk,
             unsigned timeout_ms, mf_reply_cb cb, void *data, uint64_t *ret_id) {
  struct call *c;
  int r = check(rpc, m, chunk);
  if (r)
    return r;
  c = call_new(rpc->calls, cb, data);
  if (!c)
    return MF_ENOMEM;
  c->rpc = rpc;
  c->type = chunk ? RPC_CHUNK : RPC_CALL;
  if (rpc->over) {
    rpc_fail_late(c);
  } else {
    call_set_timeout(c, timeout_ms);
    r = take(rpc, c, m, p);
    if (r) {
      call_free(c);
      return r;
    }
  }
  rpc->stats.calls++;
  rpc_update_busy(rpc);
  if (ret_id)
    *ret_id = c->id;
  return 0;
}

int rpc_give(struct mf_rpc *rpc, struct call *c) {
  struct payload *p = c->payload;
  mf_message m = {p->data, p->length, p->fds, p->nfds};
  int r = check(rpc, &m, c->type == RPC_CHUNK);
  if (r)
    return r;
  c->rpc = rpc;
  c->traced = 0;
  if (rpc->over)
    rpc_fail_late(c);
  else
    r = take(rpc, c, &m, p);
  if (!r)
    rpc->stats.calls++;
  return r;
}
