/* The clone's end of an rpc's socket. Runs in clones. Reading and writing wait by poll(2)
 * where they may, so that it does not matter whether somebody has made the socket
 * non-blocking (luv does). */
#include "template/rpc/rpc_link.h"

#include "base/result.h"
#include "os/fdwait.h"
#include "os/sock.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <stdlib.h>

enum {
  HAND_OVER = 64 * 1024, /* longer bodies are not copied into the outbox */
  WIDE = 1 << 20         /* bytes that may be on their way once long bodies go */
};

void rpc_link_init(struct rpc_link *l, int fd, size_t body_max, size_t lead,
                   struct heap *heap) {
  l->fd = fd;
  l->broken = l->gathering = l->granting = l->lost = 0;
  l->torn = l->wide = l->waits = 0;
  l->fds.n = 0;
  inbox_init(&l->in, RPC_CALL, RPC_REQUEST_LAST);
  outbox_init(&l->out);
  l->body_max = body_max;
  gather_init(&l->gather, lead);
  l->heap = heap;
  l->last_need = 0;
}

/* ---- in ---- */

static int take_fds(struct rpc_link *l, const struct frame *f) {
  int lost = inbox_lost_fds(&l->in);
  if (l->fds.n + f->nfds > CODEC_FDS_MAX)
    return -EPROTO;
  for (int i = 0; i < f->nfds - lost; i++)
    l->fds.fd[l->fds.n++] = inbox_take_fd(&l->in);
  l->lost |= lost > 0;
  return 0;
}

static int on_grant(struct rpc_link *l, const struct frame *f) {
  if (f->nfds == 0 || f->length > 0 || f->flags || l->gathering)
    return -EPROTO;
  l->granting = 1;
  return take_fds(l, f);
}

static int on_end(struct rpc_link *l, const struct frame *f) {
  if (f->nfds || f->length || f->flags || l->gathering || l->granting)
    return -EPROTO;
  return RPC_REQUEST_END;
}

static int finish_call(struct rpc_link *l, struct rpc_call *ret, uint64_t id,
                       const void *body, size_t size) {
  *ret = (struct rpc_call){.id = id, .body = body, .size = size, .lost = l->lost};
  l->gathering = l->granting = l->lost = 0;
  return RPC_REQUEST_CALL;
}

static int finish_gathered(struct rpc_link *l, struct rpc_call *ret) {
  struct gather *g = &l->gather;
  int rc = finish_call(l, ret, l->gather_id, gather_body(g), g->length);
  ret->gather = g;
  l->last_need = g->lead + g->length + 1;
  return rc;
}

/* The last one's mapping may have been taken: for one like it. */
static void begin_gathering(struct rpc_link *l, uint64_t id) {
  l->gather_id = id;
  l->gathering = 1;
  if (!l->gather.map && l->heap && l->last_need)
    l->gather.map = heap_lend(l->heap, l->last_need, &l->gather.map_size);
}

/* have: bytes of the body that are there. */
static int on_call(struct rpc_link *l, const struct frame *f, size_t have,
                   struct rpc_call *ret) {
  int first = !l->gathering, more = (f->flags & FRAME_MORE) != 0;
  if (first ? f->id == 0 : f->id != 0 || f->nfds > 0)
    return -EPROTO;
  if (take_fds(l, f) < 0)
    return -EPROTO;
  if (f->length > l->body_max - l->gather.length)
    return -EPROTO;
  if (first && !more && have == f->length)
    return finish_call(l, ret, f->id, f->body, f->length);
  if (first)
    begin_gathering(l, f->id);
  int rc = gather_put(&l->gather, f->body, have, l->body_max);
  if (rc < 0)
    return rc;
  l->torn = have < f->length;
  l->torn_more = more;
  return more || l->torn ? MF_AGAIN : finish_gathered(l, ret);
}

static int on_frame(struct rpc_link *l, const struct frame *f, size_t have,
                    struct rpc_call *ret) {
  if (f->type == RPC_CALL)
    return on_call(l, f, have, ret);
  return f->type == RPC_END ? on_end(l, f) : on_grant(l, f);
}

static void forget_request(struct rpc_link *l) {
  if (l->gathering || l->granting)
    return;
  codec_fds_close(&l->fds);
  if (l->gather.length > 0)
    gather_clear(&l->gather, LINK_KEEP);
}

int rpc_link_next(struct rpc_link *l, struct rpc_call *ret) {
  struct frame f;
  forget_request(l);
  if (l->torn && inbox_open_left(&l->in) == 0) {
    l->torn = 0;
    if (!l->torn_more)
      return finish_gathered(l, ret);
  }
  for (;;) {
    size_t have = SIZE_MAX;
    int rc = inbox_next(&l->in, &f);
    if (rc == MF_AGAIN)
      rc = inbox_open(&l->in, &f, &have); /* a long body is not awaited in the inbox */
    if (rc != 0)
      return rc;
    rc = on_frame(l, &f, have < f.length ? have : f.length, ret);
    if (rc < 0 || (f.type == RPC_CALL && rc == RPC_REQUEST_CALL) || rc == RPC_REQUEST_END)
      return rc;
  }
}

static void wait_for(int fd, short events) {
  struct pollfd p = {.fd = fd, .events = events};
  fdwait(&p, 1, -1);
}

ssize_t rpc_link_receive(struct rpc_link *l, int block) {
  struct fdset fds;
  struct iovec iov[2];
  size_t left = inbox_open_left(&l->in); /* of one part */
  int truncated = 0;
  void *body = left > 0 ? gather_room(&l->gather, left) : NULL;
  if (left > 0 && !body)
    return -ENOMEM;
  int niov = inbox_rooms(&l->in, body, left, iov);
  if (niov == 0)
    return -errno;
  fdset_init(&fds);
  ssize_t n = sock_recv_iov(l->fd, iov, niov, block, &fds, &truncated);
  while (n == -EAGAIN && block) {
    wait_for(l->fd, POLLIN);
    n = sock_recv_iov(l->fd, iov, niov, block, &fds, &truncated);
  }
  if (n == -ECONNRESET) /* it closed with answers of ours unread: an end as any other */
    n = 0;
  size_t bytes = n > 0 ? (size_t)n : 0, of_body = inbox_took(&l->in, bytes);
  gather_commit(&l->gather, of_body);
  int rc = inbox_fed(&l->in, bytes - of_body, &fds);
  if (rc == 0 && truncated)
    rc = inbox_cut(&l->in);
  return rc < 0 ? rc : n;
}

/* ---- out ---- */

static void take_some(struct codec_fds *from, size_t *at, struct fdset *to) {
  fdset_init(to);
  for (; *at < from->n && to->n < FRAME_FDS_MAX; (*at)++)
    fdset_push(to, from->fd[*at]);
}

/* Those that don't fit into the last frame go before it. */
static int put_handles(struct rpc_link *l, struct codec_fds *fds, struct fdset *last) {
  size_t at = 0;
  int rc = 0;
  take_some(fds, &at, last);
  while (at < fds->n) {
    if (rc == 0)
      rc = outbox_put(&l->out, RPC_HANDLES, 0, NULL, 0, last);
    else
      fdset_close(last);
    take_some(fds, &at, last);
  }
  fds->n = 0;
  return rc;
}

static void widen(struct rpc_link *l) {
  if (!l->wide)
    sock_widen(l->fd, WIDE);
  l->wide = 1;
}

int rpc_link_put_ref(struct rpc_link *l, unsigned type, uint64_t id, const void *body,
                     size_t size) {
  widen(l);
  int rc = outbox_put_ref(&l->out, type, id, body, size, NULL, NULL);
  if (rc < 0)
    l->broken = 1;
  else
    rpc_link_send(l, 1);
  return rc;
}

static int put_body(struct rpc_link *l, unsigned type, uint64_t id, struct buf *body,
                    struct fdset *fds) {
  if (buf_size(body) < HAND_OVER || fds->n > 0) {
    int rc = outbox_put(&l->out, type, id, buf_peek(body), buf_size(body), fds);
    buf_consume(body, buf_size(body));
    return rc;
  }
  if (l->waits) {
    int rc = rpc_link_put_ref(l, type, id, buf_peek(body), buf_size(body));
    buf_consume(body, buf_size(body));
    return rc;
  }
  widen(l);
  struct buf taken = *body;
  buf_init(body, taken.max);
  body->keep = taken.keep;
  return outbox_put_ref(&l->out, type, id, buf_peek(&taken), buf_size(&taken), free,
                        taken.data);
}

int rpc_link_put(struct rpc_link *l, unsigned type, uint64_t id, struct buf *body,
                 struct codec_fds *fds) {
  struct fdset last;
  int rc = 0;
  last.n = 0;
  if (fds && fds->n > 0)
    rc = put_handles(l, fds, &last);
  if (rc == 0)
    rc = body ? put_body(l, type, id, body, &last)
              : outbox_put(&l->out, type, id, NULL, 0, &last);
  fdset_close(&last);
  if (rc < 0)
    l->broken = 1; /* an answer that is missing would be waited for */
  return rc;
}

int rpc_link_send(struct rpc_link *l, int block) {
  struct iovec iov[OUTBOX_IOV_MAX];
  const int *fds;
  int nfds;
  while (!l->broken && !outbox_empty(&l->out)) {
    int n = outbox_next(&l->out, iov, &fds, &nfds);
    ssize_t sent = sock_send(l->fd, iov, n, fds, nfds);
    if (sent > 0) {
      outbox_sent(&l->out, (size_t)sent);
    } else if (sent == -ETOOMANYREFS || sent == -ENOBUFS) { /* others have to receive first */
      poll(NULL, 0, SOCK_PAUSE_MS); /* also on a loop, which would find the socket writable */
      if (!block)
        return MF_AGAIN;
    } else if (sent == 0) {
      if (!block)
        return MF_AGAIN;
      wait_for(l->fd, POLLOUT);
    } else {
      l->broken = 1;
    }
  }
  return l->broken ? -EPIPE : 0;
}
