/* Bytes and descriptors from the process. Reading never waits, leaves the loop its turns,
 * and is not entered twice. */
#include "parent/rpc/receive.h"

#include "parent/common/times.h"
#include "parent/rpc/answers.h"
#include "parent/rpc/rpc_call.h"
#include "parent/rpc/rpc_end.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>

enum {
  READS_A_TURN = 4, /* of up to INBOX_ROOM_MAX bytes, or a part of a long body */
  MESSAGES_A_TURN = 512,
  LAST_WORDS_MAX = 4 << 20 /* bytes read from a dead process whose socket others hold */
};

static ssize_t receive(struct mf_rpc *rpc, const struct iovec *iov, int niov,
                       struct fdset *fds) {
  const struct backend_ops *ops = rpc->backend->ops;
  int truncated = 0;
  ssize_t got;
  fdset_init(fds);
  if (!rpc->options.handles && rpc->process->chan.refuses)
    return niov == 1 ? ops->read(rpc->backend, rpc->fd, iov->iov_base, iov->iov_len)
                     : ops->recv(rpc->backend, rpc->fd, iov, niov, NULL, &truncated);
  got = ops->recv(rpc->backend, rpc->fd, iov, niov, fds, &truncated);
  if (!truncated)
    return got;
  fdset_drop(fds);
  return -EMFILE;
}

/* One read and what it brings. 0: there may be more; 1: nothing now; 2: over or end of
 * file. */
static int read_once(struct mf_rpc *rpc, int *budget) {
  struct fdset fds;
  struct iovec iov[2];
  int nfds, niov = message_rooms(&rpc->messages, iov);
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
    process_end_by_force(rpc->process);
    rpc_fail(rpc, MF_ELIMIT,
             "no free descriptor for the handles of a reply (limit nofile)");
    return 2;
  }
  if (got <= 0 && rpc->silenced) {
    rpc->read_out = 1;
    return 2;
  }
  if (got <= 0) {
    rpc_end_of_file(rpc);
    return 2;
  }
  nfds = fds.n;
  if (rpc->exited)
    rpc->last_words += (size_t)got;
  if (message_fed(&rpc->messages, (size_t)got, &fds) < 0) {
    rpc_broken_at(origin_of_code(ORIGIN), rpc, "too many handles for one frame");
    return 2;
  }
  rpc->more = rpc_deliver(rpc, budget) && !rpc->over;
  if (rpc->over)
    return 2;
  /* A piece with descriptors ends a read. Of a dead process all has to be read for sure.
   */
  return (size_t)got < room && !nfds && !rpc->exited ? 1 : 0;
}

/* At most so many messages. 1 when all that was there is read. */
static int read_some(struct mf_rpc *rpc, int most) {
  int budget = most, reads = READS_A_TURN, r = 0;
  if (rpc->reading || rpc->fd < 0 || rpc->over)
    return 0;
  rpc->reading = 1;
  if (rpc->more)
    rpc->more = rpc_deliver(rpc, &budget) && !rpc->over;
  while (!rpc->over && !rpc->more && !rpc->eof && reads-- > 0 && r == 0)
    r = read_once(rpc, &budget);
  rpc->reading = 0;
  context_count_steps(rpc->context, PHASE_WORK, (unsigned)(most - budget));
  if (rpc->over)
    rpc_drop_input(rpc);
  if (rpc->more)
    rpc_schedule(rpc);
  return r != 0 && !rpc->more;
}

int rpc_read(struct mf_rpc *rpc) {
  unsigned left = context_steps(rpc->context, PHASE_WORK);
  if (left)
    return read_some(rpc, left < MESSAGES_A_TURN ? (int)left : MESSAGES_A_TURN);
  rpc->more |= rpc->fd >= 0 && !rpc->over;
  rpc_schedule(rpc);
  return 0;
}

void rpc_catch_up(struct mf_rpc *rpc) {
  read_some(rpc, MESSAGES_A_TURN);
}

/* A link tells of the end beside the socket, on which last answers may still be on their
 * way: they are complete where it ends, or after some time, since a process that was
 * forked over there may hold it. */
static int awaits_end_of_socket(struct mf_rpc *rpc) {
  if (!rpc->process->far || rpc->eof || rpc->fd < 0)
    return 0;
  if (deadline_at(&rpc->exit_timeout) == UINT64_MAX)
    deadline_set(&rpc->context->deadlines, &rpc->exit_timeout, EXIT_TIMEOUT_MS);
  return 1;
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
  if (done && awaits_end_of_socket(rpc))
    return;
  rpc->read_out = done;
  if (done || rpc->last_words > LAST_WORDS_MAX)
    rpc_finish_end(rpc);
  else
    rpc_schedule(rpc);
}

/* Makes it certain which calls were entered: from now on the process can say nothing more,
 * without which it enters no further one; what it said before is read. One over there
 * enters what it has until it hears of that. */
static void silence(struct mf_rpc *rpc) {
  if (rpc->process->far || rpc->fd < 0)
    return;
  rpc->backend->ops->refuse(rpc->backend, rpc->fd);
  rpc->silenced = 1;
  rpc_catch_up(rpc);
}

/* Nothing has come for too long. A call that has a time of its own may use it; what is
 * not read yet because the host was busy counts, too. */
void rpc_on_grace(struct deadline *d) {
  struct mf_rpc *rpc = list_entry(d, struct mf_rpc, grace);
  uint64_t now = rpc_now_ms(rpc), first;
  char text[96];
  rpc_catch_up(rpc);
  if (rpc->over || deadline_at(&rpc->grace) != UINT64_MAX)
    return;
  first = rpc_first_timeout(rpc);
  if (first >= now && first != UINT64_MAX) {
    deadline_set_at(&rpc->context->deadlines, &rpc->grace, first + 1);
    return;
  }
  silence(rpc);
  if (rpc->over)
    return;
  process_end_by_force(rpc->process);
  rpc->killed = 1;
  if (rpc->bye) {
    rpc_finish_end(rpc);
    return;
  }
  snprintf(text, sizeof text, "closed by the caller, and no answer came within %u ms",
           rpc->options.grace_ms);
  rpc_fail(rpc, MF_ECANCELLED, text);
  if (!rpc->exited)
    deadline_set(&rpc->context->deadlines, &rpc->exit_timeout,
                 EXIT_TIMEOUT_MS); /* for its status */
}
