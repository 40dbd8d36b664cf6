/* The clone's end of an rpc: whole requests in, frames out, over the socket of the
 * function (wire/rpc_proto.h). Knows no Lua. Runs in clones.
 *
 * Memory grows with what arrives. The body of a short request is lent from the inbox; a
 * long one is read to where it is gathered. */
#ifndef TEMPLATE_RPC_LINK_H
#define TEMPLATE_RPC_LINK_H

#include "codec/codec.h"
#include "template/heap/heap.h"
#include "template/server/gather.h"
#include "wire/message.h"
#include "wire/outbox.h"

struct rpc_link {
  int fd;     /* borrowed */
  int broken; /* the parent is gone, or no memory was left for an answer */
  struct message_reader in;
  struct outbox out;
  struct message_store store; /* for long bodies: */
  struct gather gather;       /* keeps LINK_KEEP bytes */
  struct heap *heap;          /* lends mappings for it, or NULL */
  size_t last_need;           /* bytes that the last one needed */
  size_t lead;                /* bytes before the characters of a Lua string */
  int aligns; /* a short first part of a body is what comes before a long string: it is
                 put where the header of that string will be */
  int wide;   /* the socket is widened */
  int waits;  /* long answers are written before rpc_link_put returns */
};

enum { LINK_KEEP = 4 << 20 }; /* bytes of storage that stay for the next long message */

enum rpc_request {
  RPC_REQUEST_CALL = 0, /* 1 is MF_AGAIN */
  RPC_REQUEST_END = 2,
  RPC_REQUEST_FORK = 3
};

struct rpc_call {
  uint64_t id;
  const void *body; /* until the next rpc_link_next */
  size_t size;
  int chunk; /* it is many items */
  int lost;  /* it came without some of its handles */
  int *fds;  /* taken by leaving -1; the others are closed by the next rpc_link_next */
  size_t nfds;
  struct gather *gather; /* where the body lies, to be taken from there; or NULL */
};

/* lead: as gather's. heap: for whoever takes the mappings of bodies, or NULL. */
void rpc_link_init(struct rpc_link *l, int fd, size_t body_max, size_t lead,
                   struct heap *heap);
/* RPC_REQUEST_CALL, RPC_REQUEST_FORK: *ret is it; RPC_REQUEST_END; MF_AGAIN: receive
 * first; or a negated errno: -EPROTO, -ENOMEM. Closes what is left of the last request's
 * descriptors.
 */
int rpc_link_next(struct rpc_link *l, struct rpc_call *ret);
/* Bytes (>0), 0 at the end, -EAGAIN (never when it may block), -EINTR: SIGTERM was noted
 * while it waited (os/term.h), or a negated errno. */
ssize_t rpc_link_receive(struct rpc_link *l, int block);
/* In a copy of the process that is no server: forgets all, closes what came, but not fd.
 */
void rpc_link_drop(struct rpc_link *l);
/* Queues an answer whose body stays where it is until rpc_link_send has returned 0; for
 * links that wait, so it has gone when this returns. 0 or -ENOMEM. */
int rpc_link_put_ref(struct rpc_link *l, unsigned type, uint64_t id, const void *body,
                     size_t size);
/* The same of a body in pieces, whose fds go as in rpc_link_put. */
int rpc_link_put_pieces(struct rpc_link *l, unsigned type, uint64_t id,
                        const struct iovec *pieces, size_t n, struct codec_fds *fds);
/* Queues a frame, its descriptors in frames of type handles_type before it if they are
 * many. Empties body and fds (either may be NULL), even on failure. 0 or -ENOMEM. */
int rpc_link_put(struct rpc_link *l, unsigned type, uint64_t id, struct buf *body,
                 struct codec_fds *fds);
/* 0: all is written; MF_AGAIN: not yet (never when it may block); negative: broken. */
int rpc_link_send(struct rpc_link *l, int block);

#endif
