/* The clone's end of an rpc's socket. Runs in clones. Reading and writing wait by poll(2)
 * where they may, so that it does not matter whether somebody has made the socket
 * non-blocking (luv does). */
#include "template/rpc/rpc_link.h"

#include "base/result.h"
#include "os/fdwait.h"
#include "os/sock.h"
#include "os/term.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

enum {
  HAND_OVER = 64 * 1024, /* longer bodies are not copied into the outbox */
  WIDE = 1 << 20         /* bytes that may be on their way once long bodies go */
};

/* ---- in ---- */

static struct rpc_link *link_of(struct message_store *s) {
  return (struct rpc_link *)(void *)((char *)s - offsetof(struct rpc_link, store));
}

/* The last one's mapping may have been taken: for one like it. */
static void begin_body(struct message_store *s) {
  struct rpc_link *l = link_of(s);
  if (!l->gather.map && l->heap && l->last_need)
    l->gather.map = heap_lend(l->heap, l->last_need, &l->gather.map_size);
}

static void *body_room(struct message_store *s, size_t n, size_t *ret_n) {
  struct rpc_link *l = link_of(s);
  struct gather *g = &l->gather;
  *ret_n = n;
  if (g->length == 0)
    g->lead = l->aligns && n < l->lead ? l->lead - n : l->lead;
  return gather_room(g, n);
}

static void commit_body(struct message_store *s, size_t n) {
  gather_commit(&link_of(s)->gather, n);
}

static const void *body(struct message_store *s) {
  return gather_body(&link_of(s)->gather);
}

static const unsigned char rules[RPC_REQUEST_LAST - RPC_CALL + 1] = {
    [RPC_CALL - RPC_CALL] = MESSAGE_NUMBERED | MESSAGE_PARTS | MESSAGE_HANDLES,
    [RPC_GRANT - RPC_CALL] = MESSAGE_HANDLES | MESSAGE_AHEAD,
    [RPC_END - RPC_CALL] = MESSAGE_EMPTY,
    [RPC_CHUNK - RPC_CALL] = MESSAGE_NUMBERED | MESSAGE_PARTS | MESSAGE_HANDLES,
    [RPC_FORK - RPC_CALL] = MESSAGE_NUMBERED | MESSAGE_HANDLES | MESSAGE_OWN,
};

void rpc_link_init(struct rpc_link *l, int fd, size_t body_max, size_t lead,
                   struct heap *heap) {
  struct message_options o = {.first_type = RPC_CALL,
                              .last_type = RPC_REQUEST_LAST,
                              .rules = rules,
                              .body_max = body_max,
                              .fds_max = CODEC_FDS_MAX,
                              .store = &l->store};
  l->fd = fd;
  l->broken = l->wide = l->waits = 0;
  l->store = (struct message_store){begin_body, body_room, commit_body, body};
  message_init(&l->in, &o);
  outbox_init(&l->out);
  gather_init(&l->gather, lead);
  l->lead = lead;
  l->aligns = 0;
  l->heap = heap;
  l->last_need = 0;
}

/* Behind a command the agent may have had no room for one of them. */
static int has_missing(const int *fds, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (fds[i] >= 0 && sock_is_missing(fds[i]))
      return 1;
  return 0;
}

int rpc_link_next(struct rpc_link *l, struct rpc_call *ret) {
  struct message m;
  struct gather *g = &l->gather;
  if (!l->in.parts.type && g->length > 0) /* the last one's */
    gather_clear(g, LINK_KEEP);
  int rc = message_next(&l->in, &m);
  if (rc != 0)
    return rc;
  if (m.type == RPC_END)
    return RPC_REQUEST_END;
  *ret = (struct rpc_call){.id = m.id,
                           .body = m.body,
                           .size = m.length,
                           .chunk = m.type == RPC_CHUNK,
                           .lost = m.lost || has_missing(m.fds, m.nfds),
                           .fds = m.fds,
                           .nfds = m.nfds,
                           .gather = m.stored ? g : NULL};
  if (m.stored)
    l->last_need = g->lead + g->length + 1;
  return m.type == RPC_FORK ? RPC_REQUEST_FORK : RPC_REQUEST_CALL;
}

void rpc_link_drop(struct rpc_link *l) {
  message_deinit(&l->in);
  outbox_deinit(&l->out);
  gather_deinit(&l->gather);
}

static void wait_for(int fd, short events) {
  struct pollfd p = {.fd = fd, .events = events};
  term_wait(&p, 1, -1);
}

ssize_t rpc_link_receive(struct rpc_link *l, int block) {
  struct fdset fds;
  struct iovec iov[2];
  int truncated = 0, niov = message_rooms(&l->in, iov);
  if (niov == 0)
    return -errno;
  fdset_init(&fds);
  int sleeps = block && !term_watched();
  ssize_t n = sock_recv_iov(l->fd, iov, niov, sleeps, &fds, &truncated);
  while (n == -EAGAIN && block) {
    wait_for(l->fd, POLLIN);
    if (term_noted())
      return -EINTR;
    n = sock_recv_iov(l->fd, iov, niov, sleeps, &fds, &truncated);
  }
  if (n == -ECONNRESET) /* it closed with answers of ours unread: an end as any other */
    n = 0;
  int rc = message_fed(&l->in, n > 0 ? (size_t)n : 0, &fds);
  if (rc == 0 && truncated)
    rc = message_cut(&l->in);
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

int rpc_link_put_pieces(struct rpc_link *l, unsigned type, uint64_t id,
                        const struct iovec *pieces, size_t n, struct codec_fds *fds) {
  struct fdset last;
  int rc = 0;
  last.n = 0;
  widen(l);
  if (fds->n > 0)
    rc = put_handles(l, fds, &last);
  if (rc == 0)
    rc = outbox_put_pieces(&l->out, type, id, pieces, n, &last, NULL, NULL);
  fdset_close(&last);
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
    } else if (sent == -ETOOMANYREFS ||
               sent == -ENOBUFS) { /* others have to receive first */
      poll(NULL, 0,
           SOCK_PAUSE_MS); /* also on a loop, which would find the socket writable */
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
