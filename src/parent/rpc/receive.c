/* Bytes and descriptors from the process. Reading never waits, leaves the loop its turns, and
 * is not entered twice. */
#include "parent/rpc/receive.h"

#include "base/result.h"
#include "parent/rpc/answers.h"
#include "parent/rpc/call.h"
#include "parent/rpc/end.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>

enum {
  READS_A_TURN = 4, /* of up to INBOX_ROOM_MAX bytes, or a part of a long body */
  FRAMES_A_TURN = 1024,
  LAST_WORDS_MAX = 4 << 20 /* bytes read from a dead process whose socket others hold */
};

/* Between frames no descriptor may wait, and in a torn frame no more than its header
 * says: they come with a frame's first byte. Nor may a whole frame wait for some. */
static int fds_are_announced(struct mf_rpc *rpc) {
  size_t waiting = rpc->in.fd_tail - rpc->in.fd_head, have = inbox_pending(&rpc->in);
  struct frame f;
  if (!have)
    return !waiting;
  if (have < FRAME_HEADER_SIZE)
    return waiting <= FRAME_FDS_MAX;
  if (frame_decode(&f, buf_peek(&rpc->in.bytes), RPC_HELLO, RPC_ANSWER_LAST) < 0)
    return 0;
  return waiting == f.nfds;
}

/* A long body is not awaited in the inbox, but read to its place. 0, or MF_AGAIN. */
static int open_frame(struct mf_rpc *rpc) {
  struct frame f;
  size_t have;
  if (inbox_open(&rpc->in, &f, &have) != 0) /* its descriptors have been looked at */
    return MF_AGAIN;
  rpc_on_frame(rpc, &f, have);
  return 0;
}

/* Delivers up to *budget frames. 0: more bytes are needed; 1: the budget is spent, or
 * all is over. */
static int deliver_some(struct mf_rpc *rpc, int *budget) {
  struct frame f;
  int r;
  while (*budget > 0) {
    r = inbox_next(&rpc->in, &f);
    if (r < 0 || (r == MF_AGAIN && !fds_are_announced(rpc))) {
      rpc_broken(rpc, r < 0 ? "malformed frame" : "handles without a matching frame");
      return 1;
    }
    if (r == MF_AGAIN && (rpc->bye || open_frame(rpc) == MF_AGAIN))
      return 0;
    (*budget)--;
    if (rpc->bye)
      rpc_broken(rpc, "data after goodbye");
    else if (r == 0)
      rpc_on_frame(rpc, &f, f.length);
    if (rpc->over)
      return 1;
  }
  return 1;
}

/* Memory grows with what arrives: at most as much room as the message has already, unless
 * there is more. NULL: no memory. */
static void *body_room(struct mf_rpc *rpc, size_t *ret_n) {
  struct buf *b = &rpc->gather;
  size_t left = inbox_open_left(&rpc->in), size = buf_size(b);
  size_t least = size < INBOX_ROOM_MAX ? INBOX_ROOM_MAX : size;
  void *room = buf_reserve(b, left < least ? left : least);
  *ret_n = left < b->cap - b->tail ? left : b->cap - b->tail;
  return room;
}

/* Where to read next. Fills iov and returns how many; 0: no memory. */
static int find_rooms(struct mf_rpc *rpc, struct iovec iov[2]) {
  size_t n = 0;
  void *body = rpc->torn ? body_room(rpc, &n) : NULL;
  return rpc->torn && !body ? 0 : inbox_rooms(&rpc->in, body, n, iov);
}

static ssize_t receive(struct mf_rpc *rpc, const struct iovec *iov, int niov,
                       struct fdset *fds) {
  const struct seam_ops *ops = rpc->seam->ops;
  int truncated = 0;
  ssize_t got;
  fdset_init(fds);
  if (!rpc->options.handles && rpc->process->chan.refuses)
    return niov == 1 ? ops->read(rpc->seam, rpc->fd, iov->iov_base, iov->iov_len)
                     : ops->recv(rpc->seam, rpc->fd, iov, niov, NULL, &truncated);
  got = ops->recv(rpc->seam, rpc->fd, iov, niov, fds, &truncated);
  if (!truncated)
    return got;
  fdset_drop(fds);
  return -EMFILE;
}

/* 0, or -EPROTO: more descriptors than can be. */
static int sort_bytes(struct mf_rpc *rpc, size_t got, struct fdset *fds) {
  size_t of_body = inbox_took(&rpc->in, got);
  int r;
  if (rpc->torn)
    buf_commit(&rpc->gather, of_body);
  r = inbox_fed(&rpc->in, got - of_body, fds);
  if (r < 0 || !rpc->torn || inbox_open_left(&rpc->in))
    return r;
  rpc->torn = 0;
  rpc_end_part(rpc, rpc->partial_more);
  return 0;
}

/* One read and what it brings. 0: there may be more; 1: nothing now; 2: over or end of
 * file. */
static int read_once(struct mf_rpc *rpc, int *budget) {
  struct fdset fds;
  struct iovec iov[2];
  int nfds, niov = find_rooms(rpc, iov);
  ssize_t got;
  size_t room;
  if (!niov) {
    rpc_lack_memory(rpc, "not enough memory to read replies");
    return 2;
  }
  room = iov[0].iov_len + (niov > 1 ? iov[1].iov_len : 0);
  got = receive(rpc, iov, niov, &fds);
  if (got == -EAGAIN)
    return 1;
  if (got == -EMFILE) {
    mf_kill(rpc->process, SIGKILL);
    rpc_fail(rpc, MF_ELIMIT, "no free descriptor for the handles of a reply (limit nofile)");
    return 2;
  }
  if (got <= 0) {
    rpc_end_of_file(rpc);
    return 2;
  }
  nfds = fds.n;
  if (rpc->exited)
    rpc->last_words += (size_t)got;
  if (sort_bytes(rpc, (size_t)got, &fds) < 0) {
    rpc_broken(rpc, "too many handles for one frame");
    return 2;
  }
  if (rpc->over)
    return 2;
  rpc->more = deliver_some(rpc, budget) && !rpc->over;
  if (rpc->over)
    return 2;
  /* A piece with descriptors ends a read. Of a dead process all has to be read for sure. */
  return (size_t)got < room && !nfds && !rpc->exited ? 1 : 0;
}

/* Reads and delivers, but leaves the loop its turns. 1 when all that was there is read.
 */
int rpc_read(struct mf_rpc *rpc) {
  int budget = FRAMES_A_TURN, reads = READS_A_TURN, r = 0;
  if (rpc->reading || rpc->fd < 0 || rpc->over)
    return 0;
  rpc->reading = 1;
  if (rpc->more)
    rpc->more = deliver_some(rpc, &budget) && !rpc->over;
  while (!rpc->over && !rpc->more && !rpc->eof && reads-- > 0 && r == 0)
    r = read_once(rpc, &budget);
  rpc->reading = 0;
  if (rpc->over)
    rpc_drop_input(rpc);
  if (rpc->more)
    rpc_schedule(rpc);
  return r != 0 && !rpc->more;
}

/* The process has ended: what it wrote is read to its end, also where another process
 * holds its socket, then its death is reported. */
void rpc_drain(struct mf_rpc *rpc) {
  int done;
  if (rpc->reading || rpc->over)
    return;
  done = rpc->fd < 0 || rpc->eof || rpc_read(rpc);
  if (rpc->over)
    return;
  if (done || rpc->last_words > LAST_WORDS_MAX)
    rpc_finish_end(rpc);
  else
    rpc_schedule(rpc);
}

/* Nothing has come for too long. A call that has a time of its own may use it; what is not
 * read yet because the host was busy counts, too. */
void rpc_on_grace(struct deadline *d) {
  struct mf_rpc *rpc = list_entry(d, struct mf_rpc, grace);
  uint64_t now = rpc_now_ms(rpc), first;
  char text[96];
  rpc_read(rpc);
  if (rpc->over || deadline_at(&rpc->grace) != UINT64_MAX)
    return;
  first = rpc_first_timeout(rpc);
  if (first >= now && first != UINT64_MAX) {
    deadline_set_at(rpc->home, &rpc->grace, first + 1);
    return;
  }
  mf_kill(rpc->process, SIGKILL);
  rpc->killed = 1;
  if (rpc->bye) {
    rpc_finish_end(rpc);
    return;
  }
  snprintf(text, sizeof text, "closed by the caller, and no answer came within %u ms",
           rpc->options.grace_ms);
  rpc_fail(rpc, MF_ECANCELLED, text);
}
