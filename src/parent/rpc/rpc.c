#include "parent/rpc/rpc.h"

#include "base/idmap.h"
#include "base/result.h"
#include "base/sized.h"
#include "parent/private.h"
#include "parent/times.h"
#include "wire/inbox.h"
#include "wire/outbox.h"
#include "wire/rpc_proto.h"
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  OUT_LOW = 64 * 1024, /* bytes that are framed; what comes on top stays parked */
  REF_MIN = 32 * 1024, /* bytes of a body that is not copied into the outbox */
  READS_A_TURN = 4,    /* of up to INBOX_ROOM_MAX bytes, or a part of a long body */
  WIDE = 1 << 20,      /* bytes that may be on their way once long bodies go */
  FRAMES_A_TURN = 1024,
  NOTIFIED_A_TURN = 512,         /* callbacks, so that 10^5 of them leave the loop its turns */
  LAST_WORDS_MAX = 4 << 20, /* bytes read from a dead process whose socket others hold */
  SPARE_CALLS = 4096
};

/* Where the clone is in its protocol; rpc_proto.h has the same in words. */
enum far { FAR_STARTING, FAR_INIT, FAR_SERVING, FAR_GONE, FAR_COUNT };

struct call {
  struct list link;     /* in parked or flying, or in neither */
  struct list pending_link; /* empty: no callback pending */
  struct deadline deadline; /* of the answer */
  struct mf_rpc *rpc;
  uint64_t id;
  uint64_t end; /* bytes that were put when its last one was */
  mf_reply_cb cb;
  void *data;
  struct payload *payload; /* parked */
  unsigned timeout_ms;
  int code, started; /* of the pending error; code 0: the rpc's failure */
  int flying, notified; /* notified: abandoned, its answer is awaited and dropped */
};

struct mf_rpc {
  struct mf_process *process;
  struct home *home;
  struct seam *seam;
  mf_rpc_options options; /* its strings are not ours */
  const struct rpc_owner *owner;
  void *owner_data;

  int fd; /* -1: not yet, or no more */
  struct watch watch;
  struct inbox in;
  struct outbox out;
  uint64_t sent;                  /* bytes */
  unsigned write_closed : 1;              /* writing is over */
  unsigned full : 1;              /* the kernel takes no more for now */
  unsigned reading : 1, more : 1; /* more: frames wait in the inbox */
  unsigned eof : 1, exited : 1, bye : 1;
  unsigned closing : 1, end_put : 1, aborted : 1;
  unsigned ran : 1; /* it was in its function */
  unsigned over : 1; /* failed or ended: the socket is gone */
  unsigned orderly : 1;
  unsigned error_pending : 1, close_pending : 1, limited : 1;
  unsigned closed : 1; /* the process has been closed: only its callback is to come */
  unsigned busy : 1;
  unsigned quiet : 1; /* nobody waits for the end of its close */

  enum far far;
  unsigned gathering; /* type of the message in parts, or 0 */
  uint64_t gather_id;
  struct buf gather; /* storage is lent by the home's blockcache while a message comes */
  unsigned torn : 1, partial_more : 1; /* a part is read into it; it has FRAME_MORE */
  unsigned wide : 1;                /* the socket is widened */
  int *fds; /* of HANDLES, then of the message */
  size_t nfds, fds_cap;

  struct idmap calls;
  size_t nwaiting; /* callbacks to come */
  struct list parked, flying, pending, spare;
  size_t nspare, parked_bytes;
  struct deadline patience, retry;
  struct deadline grace; /* of a close: until the next answer */
  int killed;
  size_t last_words; /* bytes read since the process has ended */
  struct task task;

  struct failure failure; /* code 0: none */
  mf_exit exit;
  char *exit_text;
  struct buf text; /* of the error being reported */
  mf_rpc_stats stats;
  mf_rpc_close_cb close_cb;
  void *close_data;
};

static void on_ready(struct watch *w, unsigned events);
static void on_task(struct task *t);
static void on_call_timeout(struct deadline *d);
static void on_patience(struct deadline *d);
static void on_grace(struct deadline *d);
static void on_retry(struct deadline *d);
static void finish_end(struct mf_rpc *rpc);
static void fail(struct mf_rpc *rpc, int code, const char *message);

static uint64_t now_ms(const struct mf_rpc *rpc) {
  return rpc->seam->ops->now_ms(rpc->seam);
}

static void schedule(struct mf_rpc *rpc) {
  home_task(rpc->home, &rpc->task);
}

/* The loop stays alive for pending callbacks and for a close under way. Of a worker the
 * pool knows what is waited for: a call that was given up is not. */
static void update_busy(struct mf_rpc *rpc) {
  unsigned closes = rpc->closing && (!rpc->quiet || rpc->aborted);
  unsigned busy = !rpc->closed && !rpc->owner &&
                  (rpc->nwaiting || closes || rpc->error_pending || rpc->close_pending);
  if (busy == rpc->busy)
    return;
  rpc->busy = busy;
  home_count_busy(rpc->home, busy ? 1 : -1);
}

/* ---- calls ---- */

static struct call *call_new(struct mf_rpc *rpc, mf_reply_cb cb, void *data) {
  struct call *c;
  if (list_empty(&rpc->spare)) {
    c = malloc(sizeof *c);
    if (!c)
      return NULL;
  } else {
    c = list_entry(rpc->spare.next, struct call, link);
    list_remove(&c->link);
    rpc->nspare--;
  }
  memset(c, 0, sizeof *c);
  list_init(&c->link);
  list_init(&c->pending_link);
  deadline_init(&c->deadline, on_call_timeout);
  c->rpc = rpc;
  if (idmap_add(&rpc->calls, c, &c->id) < 0) {
    free(c);
    return NULL;
  }
  c->cb = cb;
  c->data = data;
  rpc->nwaiting++;
  return c;
}

static void drop_payload(struct call *c) {
  if (!c->payload)
    return;
  c->rpc->parked_bytes -= FRAME_HEADER_SIZE + c->payload->length;
  payload_drop(c->payload);
  c->payload = NULL;
}

static void call_free(struct call *c) {
  struct mf_rpc *rpc = c->rpc;
  if (!c->notified)
    rpc->nwaiting--;
  idmap_remove(&rpc->calls, c->id);
  deadline_clear(&c->deadline);
  drop_payload(c);
  list_remove(&c->link);
  list_remove(&c->pending_link);
  if (rpc->nspare == SPARE_CALLS) {
    free(c);
    return;
  }
  list_push(&rpc->spare, &c->link);
  rpc->nspare++;
}

/* Its callback gets an error from the task. A flying call keeps its id until its answer
 * comes. */
static void call_fail(struct call *c, int code, int started) {
  struct mf_rpc *rpc = c->rpc;
  if (c->notified || !list_empty(&c->pending_link))
    return;
  deadline_clear(&c->deadline);
  if (!c->flying) {
    list_remove(&c->link);
    drop_payload(c);
  }
  c->code = code;
  c->started = started;
  list_push(&rpc->pending, &c->pending_link);
  schedule(rpc);
}

/* Before its end nobody can have entered it: the clone has not got it whole. */
static int has_left(const struct mf_rpc *rpc, const struct call *c) {
  return rpc->sent >= c->end;
}

static void describe(const struct mf_rpc *rpc, const struct call *c, char *text, size_t n,
                     mf_error *e) {
  static const struct failure none;
  failure_tell(c->code ? &none : &rpc->failure, e);
  e->started = c->started;
  if (c->code) {
    e->code = c->code;
    e->message = mf_strerror(c->code);
  } else {
    e->exit = rpc->exited ? &rpc->exit : NULL;
  }
  if (c->code == MF_ETIMEOUT) {
    snprintf(text, n, "no answer within %u ms", c->timeout_ms);
    e->message = text;
  }
}

static void notify_pending(struct mf_rpc *rpc) {
  for (int i = 0; i < NOTIFIED_A_TURN && !list_empty(&rpc->pending); i++) {
    struct call *c = list_entry(rpc->pending.next, struct call, pending_link);
    mf_reply_cb cb = c->cb;
    void *data = c->data;
    char text[64];
    mf_error e;
    describe(rpc, c, text, sizeof text, &e);
    list_remove(&c->pending_link);
    if (c->flying) {
      c->notified = 1;
      rpc->nwaiting--;
    } else {
      call_free(c);
    }
    if (cb)
      cb(&e, NULL, data);
  }
}

/* ---- writing ---- */

static void rewatch(struct mf_rpc *rpc) {
  unsigned events = 0;
  if (rpc->fd < 0)
    return;
  if (!rpc->eof)
    events |= WATCH_READ;
  if (rpc->full && !rpc->write_closed)
    events |= WATCH_WRITE;
  rpc->seam->ops->watch(rpc->seam, &rpc->watch, rpc->fd, events);
}

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
  rpc->seam->ops->widen(rpc->seam, rpc->fd, WIDE);
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
  if (!r && p && m->length >= REF_MIN)
    r = outbox_put_ref(&rpc->out, RPC_CALL, c->id, m->data, m->length, payload_drop,
                       payload_hold(p));
  else if (!r)
    r = outbox_put(&rpc->out, RPC_CALL, c->id, m->data, m->length, NULL);
  if (r == -ENOMEM)
    r = MF_ENOMEM;
  if (r && rpc->out.nbytes != before) { /* handles without their call */
    mf_kill(rpc->process, SIGKILL);
    fail(rpc, r, "not enough memory for a call with handles");
  }
  if (r)
    return r;
  c->end = rpc->sent + rpc->out.nbytes;
  c->flying = 1;
  list_push(&rpc->flying, &c->link);
  return 0;
}

static void unpark(struct mf_rpc *rpc) {
  while (!list_empty(&rpc->parked) && rpc->out.nbytes < OUT_LOW) {
    struct call *c = list_entry(rpc->parked.next, struct call, link);
    struct payload *p = payload_hold(c->payload);
    mf_message m = {p->data, p->length, p->fds, p->nfds};
    int r;
    list_remove(&c->link);
    drop_payload(c);
    r = put_call(rpc, c, &m, p);
    payload_drop(p);
    if (r)
      call_fail(c, r, MF_STARTED_NO);
  }
}

static void put_end(struct mf_rpc *rpc) {
  if (!rpc->closing || rpc->end_put || !list_empty(&rpc->parked))
    return;
  if (outbox_put(&rpc->out, RPC_END, 0, NULL, 0, NULL) < 0) {
    deadline_set(rpc->home, &rpc->retry, STALL_RETRY_MS);
    return;
  }
  rpc->end_put = 1;
}

static size_t queue_bytes(const struct mf_rpc *rpc) {
  return rpc->out.nbytes + rpc->parked_bytes;
}

static void flush(struct mf_rpc *rpc) {
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
    sent = rpc->seam->ops->send(rpc->seam, rpc->fd, iov, n, fds, nfds);
    if (sent > 0) {
      rpc->sent += (uint64_t)sent;
      outbox_sent(&rpc->out, (size_t)sent);
    } else if (sent == 0) {
      rpc->full = 1;
      break;
    } else if (sent == -ETOOMANYREFS || sent == -ENOBUFS || sent == -ENOMEM) {
      deadline_set(rpc->home, &rpc->retry, STALL_RETRY_MS);
      break;
    } else {
      rpc->write_closed = 1; /* what it wrote before may still be read: that decides */
    }
  }
  rewatch(rpc);
}

/* A long request with nothing before it: what the kernel takes goes straight from the
 * caller's memory, and only the rest is copied. */
static int send_long(struct mf_rpc *rpc, struct call *c, const mf_message *m) {
  struct payload *rest = payload_blank(m->length, &rpc->home->blockcache, NULL);
  int r;
  if (!rest)
    return MF_ENOMEM;
  r = put_call(rpc, c, m, rest);
  if (!r) {
    flush(rpc);
    outbox_move(&rpc->out, m->data, m->length, rest->data);
  }
  payload_drop(rest);
  return r;
}

/* ---- the end ---- */

static void drop_input(struct mf_rpc *rpc) {
  while (rpc->nfds)
    fd_drop(&rpc->fds[--rpc->nfds]);
  inbox_deinit(&rpc->in);
  buf_deinit(&rpc->gather);
}

static void close_socket(struct mf_rpc *rpc) {
  rpc->seam->ops->watch(rpc->seam, &rpc->watch, rpc->fd, 0);
  if (rpc->fd >= 0)
    rpc->seam->ops->close(rpc->seam, &rpc->fd);
  deadline_clear(&rpc->patience);
  deadline_clear(&rpc->grace);
  deadline_clear(&rpc->retry);
  rpc->write_closed = 1;
  rpc->more = 0;
  outbox_deinit(&rpc->out);
  if (!rpc->reading) /* else a callback may be looking at a message */
    drop_input(rpc);
}

/* Every call gets its error. The first of a strict clone's unanswered calls may have been
 * entered, and each of another's that it got whole, once it was ready. */
static void fail_calls(struct mf_rpc *rpc) {
  int possible = rpc->far == FAR_SERVING || rpc->far == FAR_GONE;
  while (!list_empty(&rpc->flying)) {
    struct call *c = list_entry(rpc->flying.next, struct call, link);
    int entered = possible && has_left(rpc, c);
    list_remove(&c->link);
    c->flying = 0;
    if (c->notified)
      call_free(c);
    else
      call_fail(c, 0, entered ? MF_STARTED_UNKNOWN : MF_STARTED_NO);
    if (rpc->options.strict && !rpc->options.async)
      possible = 0;
  }
  while (!list_empty(&rpc->parked))
    call_fail(list_entry(rpc->parked.next, struct call, link), 0, MF_STARTED_NO);
}

static void fail_with(struct mf_rpc *rpc, const mf_error *e) {
  if (rpc->over)
    return;
  rpc->over = 1;
  failure_copy(&rpc->failure, e);
  rpc->error_pending = !rpc->aborted;
  fail_calls(rpc);
  close_socket(rpc);
  schedule(rpc);
}

static void fail(struct mf_rpc *rpc, int code, const char *message) {
  mf_error e = {.code = code, .message = message};
  fail_with(rpc, &e);
}

/* It did what the protocol does not allow: the connection ends, and so does it. */
static void broken(struct mf_rpc *rpc, const char *what) {
  char text[160];
  if (rpc->over)
    return;
  snprintf(text, sizeof text, "rpc protocol error of the process: %s", what);
  mf_kill(rpc->process, SIGKILL);
  fail(rpc, MF_EPROTOCOL, text);
}

static void describe_death(const struct mf_rpc *rpc, char *text, size_t n) {
  const mf_exit *x = &rpc->exit;
  int cut = !rpc->over && (inbox_pending(&rpc->in) || rpc->gathering);
  const char *torn = cut ? ", in the middle of a message" : "";
  const char *words = x->error ? x->error : "";
  if (!rpc->exited)
    snprintf(text, n, "the process closed its socket and did not end%s", torn);
  else if (!x->known)
    snprintf(text, n, "the process ended, exit status unknown%s", torn);
  else if (x->signal)
    snprintf(text, n, "the process was ended by signal %d (%s)%s%s", x->signal,
             strsignal(x->signal), x->core ? ", core dumped" : "", torn);
  else
    snprintf(text, n, "the process ended with exit status %d%s%s%s", x->code, torn,
             *words ? ": " : "", words);
}

/* Nothing more will come. */
static void finish_end(struct mf_rpc *rpc) {
  char text[2048];
  if (rpc->over)
    return;
  if (rpc->bye) {
    rpc->over = rpc->orderly = 1;
    rpc->close_pending = !rpc->aborted;
    close_socket(rpc);
    schedule(rpc);
    return;
  }
  describe_death(rpc, text, sizeof text);
  fail(rpc, MF_ECLONE_DIED, text);
}

static void on_end_of_file(struct mf_rpc *rpc) {
  if (rpc->eof)
    return;
  rpc->eof = 1;
  rewatch(rpc);
  if (rpc->exited)
    finish_end(rpc);
  else
    deadline_set(rpc->home, &rpc->patience,
                 rpc->bye ? CALLS_GRACE_MS : EXIT_PATIENCE_MS);
}

static void on_patience(struct deadline *d) {
  struct mf_rpc *rpc = list_entry(d, struct mf_rpc, patience);
  if (rpc->over) { /* given up, and it has not left */
    mf_kill(rpc->process, SIGKILL);
    rpc->killed = 1;
    schedule(rpc);
    return;
  }
  if (!rpc->killed && mf_kill(rpc->process, SIGKILL) == 0) {
    rpc->killed = 1;
    deadline_set(rpc->home, &rpc->patience, EXIT_PATIENCE_MS);
    return;
  }
  finish_end(rpc);
}

/* A closing rpc goes on as long as something comes: a call is answered, the process gets ready,
 * or says goodbye. */
static void start_grace(struct mf_rpc *rpc) {
  if (rpc->closing && !rpc->over && rpc->options.grace_ms != MF_NO_TIMEOUT)
    deadline_set(rpc->home, &rpc->grace, rpc->options.grace_ms);
}

static int read_some(struct mf_rpc *rpc);

/* When the first of the calls times out; UINT64_MAX: never. */
static uint64_t first_timeout(const struct mf_rpc *rpc) {
  const struct list *queues[] = {&rpc->parked, &rpc->flying};
  uint64_t first = UINT64_MAX;
  for (int i = 0; i < 2; i++)
    list_each(it, queues[i]) {
      uint64_t at = deadline_at(&list_entry(it, struct call, link)->deadline);
      first = at < first ? at : first;
    }
  return first;
}

/* Nothing has come for too long. A call that has a time of its own may use it; what is not
 * read yet because the host was busy counts, too. */
static void on_grace(struct deadline *d) {
  struct mf_rpc *rpc = list_entry(d, struct mf_rpc, grace);
  uint64_t now = now_ms(rpc), first;
  char text[96];
  read_some(rpc);
  if (rpc->over || deadline_at(&rpc->grace) != UINT64_MAX)
    return;
  first = first_timeout(rpc);
  if (first >= now && first != UINT64_MAX) {
    deadline_set_at(rpc->home, &rpc->grace, first + 1);
    return;
  }
  mf_kill(rpc->process, SIGKILL);
  rpc->killed = 1;
  if (rpc->bye) {
    finish_end(rpc);
    return;
  }
  snprintf(text, sizeof text, "closed by the caller, and no answer came within %u ms",
           rpc->options.grace_ms);
  fail(rpc, MF_ECANCELLED, text);
}

/* ---- reading: messages ---- */

static int keep_fds(struct mf_rpc *rpc, unsigned nfds) {
  size_t need = rpc->nfds + nfds;
  if (need > rpc->fds_cap) {
    size_t cap = need < FRAME_FDS_MAX ? FRAME_FDS_MAX : need * 2;
    int *fds = realloc(rpc->fds, cap * sizeof *fds);
    if (!fds)
      return -ENOMEM;
    rpc->fds = fds;
    rpc->fds_cap = cap;
  }
  while (nfds--)
    rpc->fds[rpc->nfds++] = inbox_take_fd(&rpc->in);
  return 0;
}

/* What the callback has left of the message's handles is closed. The callback may run the
 * loop again, but reading is not entered twice. */
static void close_left(int *fds, size_t nfds) {
  for (size_t i = 0; i < nfds; i++)
    fd_drop(&fds[i]);
}

static struct call *answered(struct mf_rpc *rpc, uint64_t id) {
  struct call *c = idmap_get(&rpc->calls, id);
  if (!c || !c->flying)
    return NULL;
  rpc->stats.answers++;
  start_grace(rpc);
  return c;
}

/* The answer of an abandoned call, or of one whose error is pending, is dropped and counted. */
static int is_late(struct mf_rpc *rpc, struct call *c) {
  if (!c->notified && list_empty(&c->pending_link))
    return 0;
  rpc->stats.late++;
  list_remove(&c->link);
  c->flying = 0;
  if (c->notified)
    call_free(c);
  return 1;
}

static void take_result(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  struct call *c = answered(rpc, id);
  mf_reply_cb cb;
  void *data;
  if (!c) {
    broken(rpc, "result for an unknown call");
    return;
  }
  if (is_late(rpc, c))
    return;
  cb = c->cb;
  data = c->data;
  call_free(c);
  if (cb)
    cb(NULL, m, data);
}

/* A fork or a broken protocol is nothing that an rpc reports. */
static int error_code(unsigned code) {
  return code == FAILURE_FORK || code == FAILURE_PROTOCOL ? 0 : failure_code(code);
}

/* Reads a failure into e; its texts lie in rpc->text, its value in the message. 0 when it is
 * malformed. */
static int read_failure(struct mf_rpc *rpc, const mf_message *m, mf_error *e) {
  struct failure_body b;
  memset(e, 0, sizeof *e);
  if (failure_parse(&b, m->data, m->length) < 0 || !error_code(b.code))
    return 0;
  e->code = error_code(b.code);
  e->started = b.second ? MF_STARTED_NO : MF_STARTED_UNKNOWN;
  e->message = mf_strerror(e->code);
  e->value = b.value;
  e->value_length = b.nvalue;
  buf_consume(&rpc->text, buf_size(&rpc->text));
  if (buf_put(&rpc->text, b.message ? b.message : "", b.nmessage) ||
      buf_put_u8(&rpc->text, 0) ||
      buf_put(&rpc->text, b.traceback ? b.traceback : "", b.ntraceback) ||
      buf_put_u8(&rpc->text, 0))
    return 1; /* without memory for its words */
  if (b.message)
    e->message = (const char *)buf_peek(&rpc->text);
  if (b.traceback)
    e->traceback = (const char *)buf_peek(&rpc->text) + b.nmessage + 1;
  return 1;
}

static void take_error(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  struct call *c = answered(rpc, id);
  mf_reply_cb cb;
  void *data;
  mf_error e;
  if (!c || !read_failure(rpc, m, &e)) {
    broken(rpc, c ? "malformed error reply" : "error reply for an unknown call");
    return;
  }
  if (is_late(rpc, c))
    return;
  cb = c->cb;
  data = c->data;
  call_free(c);
  if (cb)
    cb(&e, NULL, data);
}

static void take_event(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  rpc->stats.events++;
  if (rpc->options.on_event)
    rpc->options.on_event(m, rpc->options.data);
  else
    rpc->stats.events_dropped++;
}

static void take_hello(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  struct reader r;
  uint32_t magic;
  unsigned version;
  uint64_t longest;
  char text[80];
  reader_init(&r, m->data, m->length);
  magic = reader_u32(&r);
  version = reader_u16(&r);
  reader_u16(&r);
  longest = reader_u64(&r);
  if (!r.ok || magic != RPC_MAGIC) {
    broken(rpc, "malformed hello");
    return;
  }
  if (version != RPC_VERSION) {
    snprintf(text, sizeof text, "it speaks version %u, this library version %u", version,
             (unsigned)RPC_VERSION);
    broken(rpc, text);
    return;
  }
  if (longest < rpc->options.message_max)
    rpc->options.message_max = longest;
  rpc->far = FAR_INIT;
}

static void take_ready(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  rpc->far = FAR_SERVING;
  start_grace(rpc);
  if (rpc->owner && rpc->owner->on_ready)
    rpc->owner->on_ready(rpc->owner_data);
}

static void take_failed(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  mf_error e;
  if (!read_failure(rpc, m, &e)) {
    broken(rpc, "malformed failure report");
    return;
  }
  fail_with(rpc, &e); /* calls: not started, as it was never ready */
}

static void take_retire(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  if (rpc->owner && rpc->owner->on_retire)
    rpc->owner->on_retire(rpc->owner_data);
}

static void take_usage(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  struct reader r;
  reader_init(&r, m->data, m->length);
  rpc->stats.usage = reader_u64(&r);
  if (!r.ok)
    broken(rpc, "malformed memory report");
  else if (rpc->owner && rpc->owner->on_usage)
    rpc->owner->on_usage(rpc->owner_data, rpc->stats.usage);
}

static void take_bye(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  if (!rpc->end_put || !list_empty(&rpc->flying)) {
    broken(rpc, "goodbye while calls are pending or before the end was requested");
    return;
  }
  rpc->bye = 1;
  rpc->far = FAR_GONE;
  start_grace(rpc);
}

/* Everything that a clone can say: in which states, with a number or not, in parts or
 * not. */
static const struct kind {
  unsigned states; /* bits of enum far */
  unsigned numbered : 1, parts : 1, handles : 1;
  void (*take)(struct mf_rpc *rpc, uint64_t id, const mf_message *m);
} kinds[RPC_ANSWER_LAST - RPC_HELLO + 1] = {
#define IN(far) (1u << FAR_##far)
    [RPC_HELLO - RPC_HELLO] = {IN(STARTING), 0, 0, 0, take_hello},
    [RPC_READY - RPC_HELLO] = {IN(INIT), 0, 0, 0, take_ready},
    [RPC_FAILED - RPC_HELLO] = {IN(INIT), 0, 1, 0, take_failed},
    [RPC_RESULT - RPC_HELLO] = {IN(SERVING), 1, 1, 1, take_result},
    [RPC_ERROR - RPC_HELLO] = {IN(SERVING), 1, 1, 0, take_error},
    [RPC_EVENT - RPC_HELLO] = {IN(INIT) | IN(SERVING), 0, 1, 1, take_event},
    [RPC_HANDLES - RPC_HELLO] = {IN(INIT) | IN(SERVING), 0, 0, 1, NULL},
    [RPC_RETIRE - RPC_HELLO] = {IN(INIT) | IN(SERVING), 0, 0, 0, take_retire},
    [RPC_USAGE - RPC_HELLO] = {IN(INIT) | IN(SERVING), 0, 0, 0, take_usage},
    [RPC_BYE - RPC_HELLO] = {IN(SERVING), 0, 0, 0, take_bye},
#undef IN
};

/* What is wrong with the frame where the clone is now; NULL: nothing. */
static const char *objection(const struct mf_rpc *rpc, const struct kind *k,
                             const struct frame *f) {
  int first = !rpc->gathering;
  if (rpc->gathering && f->type != rpc->gathering)
    return "another message inside a message in parts";
  if (!first && (f->id || f->nfds))
    return "message part with its own id or handles";
  if (first && !(k->states & (1u << rpc->far)))
    return "message not allowed in this state";
  if (first && !k->numbered != !f->id)
    return k->numbered ? "reply without an id" : "id on a message that has none";
  if ((f->flags & FRAME_MORE) && !k->parts)
    return "message type not allowed in parts";
  if (f->nfds && (!k->handles || !rpc->options.handles))
    return "unexpected handles (the option handles is off, or this message takes none)";
  if (f->type == RPC_HANDLES && (!f->nfds || f->length))
    return "malformed handles frame";
  if (rpc->nfds && first && !k->handles)
    return "handles without a message";
  if (rpc->nfds + f->nfds > RPC_MESSAGE_FDS_MAX)
    return "too many handles for one message";
  return NULL;
}

/* Every message that a callback of the user's gets is the first part of one of these. */
struct delivery {
  mf_message m;
  struct buf *gather; /* what its bytes lie in, from the first on; or NULL */
};

static void deliver(struct mf_rpc *rpc, const struct kind *k, uint64_t id, const void *data,
                    size_t length, struct buf *gather) {
  size_t nfds = rpc->nfds;
  struct delivery d = {{data, length, nfds ? rpc->fds : NULL, nfds}, gather};
  rpc->nfds = 0; /* they are the message's */
  k->take(rpc, id, &d.m);
  close_left(d.m.fds, nfds);
}

void *mf_message_take(const mf_message *m) {
  const struct delivery *d = (const void *)m;
  size_t cap;
  return d->gather ? buf_yield(d->gather, &cap) : NULL;
}

static void lack_memory(struct mf_rpc *rpc, const char *text) {
  mf_kill(rpc->process, SIGKILL);
  fail(rpc, MF_ENOMEM, text);
}

static void begin_gathering(struct mf_rpc *rpc, const struct frame *f) {
  size_t cap;
  rpc->gathering = f->type;
  rpc->gather_id = f->id;
  if (!rpc->gather.data) {
    void *block = blockcache_take_largest(&rpc->home->blockcache, &cap);
    buf_adopt(&rpc->gather, block, cap);
  }
}

static void end_part(struct mf_rpc *rpc, int more) {
  const struct kind *k = &kinds[rpc->gathering - RPC_HELLO];
  size_t cap;
  void *block;
  if (more)
    return;
  rpc->gathering = 0;
  deliver(rpc, k, rpc->gather_id, buf_peek(&rpc->gather), buf_size(&rpc->gather), &rpc->gather);
  block = buf_yield(&rpc->gather, &cap);
  blockcache_give(&rpc->home->blockcache, block, cap);
}

/* A frame of whose body the first `have` bytes are there. */
static void on_frame(struct mf_rpc *rpc, const struct frame *f, size_t have) {
  const struct kind *k = &kinds[f->type - RPC_HELLO];
  const char *wrong = objection(rpc, k, f);
  int more = (f->flags & FRAME_MORE) != 0, r = 0;
  if (wrong) {
    broken(rpc, wrong);
    return;
  }
  if (f->nfds)
    r = keep_fds(rpc, f->nfds);
  if (!r && f->type == RPC_HANDLES)
    return;
  if (f->length > rpc->gather.max - buf_size(&rpc->gather)) {
    broken(rpc, "message longer than message_max");
    return;
  }
  if (!r && !rpc->gathering && !more && have == f->length) {
    deliver(rpc, k, f->id, f->body, f->length, NULL);
    return;
  }
  if (!rpc->gathering)
    begin_gathering(rpc, f);
  if (!r)
    r = buf_put(&rpc->gather, f->body, have);
  if (r) {
    lack_memory(rpc, "not enough memory for a message");
    return;
  }
  if (have == f->length) {
    end_part(rpc, more);
    return;
  }
  rpc->torn = 1;
  rpc->partial_more = more;
}

/* ---- reading: bytes ---- */

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
  on_frame(rpc, &f, have);
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
      broken(rpc, r < 0 ? "malformed frame" : "handles without a matching frame");
      return 1;
    }
    if (r == MF_AGAIN && (rpc->bye || open_frame(rpc) == MF_AGAIN))
      return 0;
    (*budget)--;
    if (rpc->bye)
      broken(rpc, "data after goodbye");
    else if (r == 0)
      on_frame(rpc, &f, f.length);
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
  end_part(rpc, rpc->partial_more);
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
    lack_memory(rpc, "not enough memory to read replies");
    return 2;
  }
  room = iov[0].iov_len + (niov > 1 ? iov[1].iov_len : 0);
  got = receive(rpc, iov, niov, &fds);
  if (got == -EAGAIN)
    return 1;
  if (got == -EMFILE) {
    mf_kill(rpc->process, SIGKILL);
    fail(rpc, MF_ELIMIT, "no free descriptor for the handles of a reply (limit nofile)");
    return 2;
  }
  if (got <= 0) {
    on_end_of_file(rpc);
    return 2;
  }
  nfds = fds.n;
  if (rpc->exited)
    rpc->last_words += (size_t)got;
  if (sort_bytes(rpc, (size_t)got, &fds) < 0) {
    broken(rpc, "too many handles for one frame");
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
static int read_some(struct mf_rpc *rpc) {
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
    drop_input(rpc);
  if (rpc->more)
    schedule(rpc);
  return r != 0 && !rpc->more;
}

/* The process has ended: what it wrote is read to its end, also where another process
 * holds its socket, then its death is reported. */
static void drain(struct mf_rpc *rpc) {
  int done;
  if (rpc->reading || rpc->over)
    return;
  done = rpc->fd < 0 || rpc->eof || read_some(rpc);
  if (rpc->over)
    return;
  if (done || rpc->last_words > LAST_WORDS_MAX)
    finish_end(rpc);
  else
    schedule(rpc);
}

void rpc_look(mf_rpc *rpc) {
  read_some(rpc);
}

static void on_ready(struct watch *w, unsigned events) {
  struct mf_rpc *rpc = list_entry(w, struct mf_rpc, watch);
  struct home *h = rpc->home;
  home_enter(h);
  if (events & WATCH_WRITE)
    flush(rpc);
  if ((events & WATCH_READ) && !rpc->more)
    read_some(rpc);
  schedule(rpc);
  home_leave(h);
}

/* ---- what is done in tasks ---- */

static int is_relieved(const struct mf_rpc *rpc) {
  return rpc->calls.used <= rpc->options.pending_max / 2 &&
         queue_bytes(rpc) <= rpc->options.queue_bytes_max / 2;
}

static void on_process_closed(mf_process *p, void *data);

/* Its socket was closed on it, on which it leaves; where its function does not return it is
 * killed (on_patience). A pool sees to its workers itself. */
static int is_leaving(const struct mf_rpc *rpc) {
  return rpc->aborted && !rpc->owner && rpc->ran && !rpc->exited && !rpc->killed;
}

/* The last steps, one after the other, each once nothing of the former is left. */
static void tell_the_end(struct mf_rpc *rpc) {
  mf_error e = {0};
  if (rpc->error_pending) {
    rpc->error_pending = 0;
    failure_tell(&rpc->failure, &e);
    e.started = rpc->far < FAR_SERVING ? MF_STARTED_NO : MF_STARTED_UNKNOWN;
    e.exit = rpc->exited ? &rpc->exit : NULL;
    if (rpc->options.on_error)
      rpc->options.on_error(&e, rpc->options.data);
  }
  if (rpc->close_pending) {
    rpc->close_pending = 0;
    if (rpc->options.on_close)
      rpc->options.on_close(rpc->options.data);
  }
  if (rpc->closing && rpc->over && !rpc->closed && !is_leaving(rpc)) {
    rpc->closed = 1;
    process_hook_exit(rpc->process, NULL, NULL);
    rpc->process->forked_hook.close = NULL;
    mf_close(rpc->process, on_process_closed, rpc);
  }
}

static void on_task(struct task *t) {
  struct mf_rpc *rpc = list_entry(t, struct mf_rpc, task);
  if (rpc->closed)
    return;
  if (rpc->more && !rpc->exited)
    read_some(rpc);
  if (rpc->exited && !rpc->over)
    drain(rpc);
  if (!rpc->full)
    flush(rpc);
  notify_pending(rpc);
  if (rpc->limited && !rpc->over && is_relieved(rpc)) {
    rpc->limited = 0;
    if (rpc->options.on_drain)
      rpc->options.on_drain(rpc->options.data);
  }
  if (!list_empty(&rpc->pending))
    schedule(rpc);
  else if (rpc->over)
    tell_the_end(rpc);
  update_busy(rpc);
}

/* ---- time ---- */

static void on_call_timeout(struct deadline *d) {
  struct call *c = list_entry(d, struct call, deadline);
  call_fail(c, MF_ETIMEOUT, c->flying ? MF_STARTED_UNKNOWN : MF_STARTED_NO);
}

static void on_retry(struct deadline *d) {
  struct mf_rpc *rpc = list_entry(d, struct mf_rpc, retry);
  schedule(rpc);
}

int call_options_load(const mf_call_options *from, mf_call_options *ret) {
  *ret = (mf_call_options)MF_CALL_OPTIONS_INIT;
  return from && sized_load(ret, sizeof *ret, from) < 0 ? MF_EINVAL : 0;
}

unsigned rpc_timeout(const mf_call_options *c, unsigned standard_ms) {
  return c->timeout_ms ? c->timeout_ms : standard_ms;
}

static void set_timeout(struct call *c, unsigned timeout_ms) {
  c->timeout_ms = timeout_ms;
  if (timeout_ms != MF_NO_TIMEOUT)
    deadline_set(c->rpc->home, &c->deadline, timeout_ms);
}

/* ---- calls from outside ---- */

static int check(const mf_rpc *rpc) {
  if (!rpc)
    return MF_EINVAL;
  return home_foreign(rpc->home) ? MF_EFORKED : 0;
}

static int has_room(struct mf_rpc *rpc, size_t length) {
  size_t queued = queue_bytes(rpc);
  if (rpc->calls.used < rpc->options.pending_max &&
      (!queued || queued + length + FRAME_HEADER_SIZE <= rpc->options.queue_bytes_max))
    return 1;
  rpc->limited = 1;
  return 0;
}

static int park(struct mf_rpc *rpc, struct call *c, const mf_message *m,
                struct payload *p) {
  int r = 0;
  if (p)
    c->payload = payload_hold(p);
  else
    r = payload_new(m, &rpc->home->blockcache, NULL, &c->payload);
  if (r)
    return r;
  rpc->parked_bytes += FRAME_HEADER_SIZE + c->payload->length;
  list_push(&rpc->parked, &c->link);
  return 0;
}

/* p: the request where it is held already, else NULL. */
static int submit(struct mf_rpc *rpc, const mf_message *m, struct payload *p,
                  unsigned timeout_ms, mf_reply_cb cb, void *data, uint64_t *ret_id) {
  struct call *c;
  int r;
  if (rpc->closing)
    return MF_ECLOSED;
  r = payload_check(m, rpc->options.message_max);
  if (!r && !rpc->over && !has_room(rpc, m->length))
    r = MF_ELIMIT;
  if (r)
    return r;
  c = call_new(rpc, cb, data);
  if (!c)
    return MF_ENOMEM;
  if (rpc->over) {
    call_fail(c, 0, MF_STARTED_NO);
  } else {
    int waits = !list_empty(&rpc->parked) || rpc->out.nbytes >= OUT_LOW;
    int lent = m->length >= REF_MIN && !p;
    set_timeout(c, timeout_ms);
    if (lent && !waits && rpc->fd >= 0 && !rpc->full && !rpc->write_closed)
      r = send_long(rpc, c, m);
    else if (waits || lent)
      r = park(rpc, c, m, p);
    else
      r = put_call(rpc, c, m, p);
    if (r) {
      call_free(c);
      return r;
    }
    if (rpc->out.nbytes >= OUT_LOW && !rpc->full)
      flush(rpc);
    else
      schedule(rpc);
  }
  rpc->stats.calls++;
  update_busy(rpc);
  if (ret_id)
    *ret_id = c->id;
  return 0;
}

int mf_rpc_call(mf_rpc *rpc, const mf_message *m, const mf_call_options *options,
                mf_reply_cb cb, void *data, uint64_t *ret_id) {
  mf_call_options o;
  int r = check(rpc);
  if (!r)
    r = call_options_load(options, &o);
  return r ? r
           : submit(rpc, m, NULL, rpc_timeout(&o, rpc->options.timeout_ms), cb, data,
                    ret_id);
}

int rpc_submit(mf_rpc *rpc, struct payload *p, unsigned timeout_ms, mf_reply_cb cb,
               void *data, uint64_t *ret_id) {
  mf_message m = {p->data, p->length, p->fds, p->nfds};
  return submit(rpc, &m, p, timeout_ms, cb, data, ret_id);
}

int mf_rpc_cancel(mf_rpc *rpc, uint64_t id) {
  struct call *c;
  int r = check(rpc);
  if (r)
    return r;
  c = idmap_get(&rpc->calls, id);
  if (!c || c->notified || !list_empty(&c->pending_link))
    return -ESRCH;
  call_fail(c, MF_ECANCELLED, c->flying ? MF_STARTED_UNKNOWN : MF_STARTED_NO);
  return 0;
}

mf_process *mf_rpc_process(const mf_rpc *rpc) {
  return rpc ? rpc->process : NULL;
}

int rpc_is_over(const mf_rpc *rpc) {
  return rpc->over;
}

const mf_exit *rpc_exit(const mf_rpc *rpc) {
  return &rpc->exit;
}

int mf_rpc_get_stats(const mf_rpc *rpc, mf_rpc_stats *ret) {
  mf_rpc_stats s;
  int r = check(rpc);
  if (r)
    return r;
  if (!ret)
    return MF_EINVAL;
  s = rpc->stats;
  s.pending = rpc->nwaiting;
  s.queue_bytes = queue_bytes(rpc);
  return sized_store(ret, &s, sizeof s) < 0 ? MF_EINVAL : 0;
}

/* ---- life ---- */

static void copy_exit(struct mf_rpc *rpc, const mf_exit *x) {
  char *text = x->error ? strdup(x->error) : NULL;
  free(rpc->exit_text); /* one that ended before run is reported with the run, and once more */
  rpc->exit_text = text;
  rpc->exit = *x;
  rpc->exit.error = text;
}

static void on_exit_told(mf_process *p, const mf_exit *x, void *data) {
  struct mf_rpc *rpc = data;
  /* "Nobody will ever tell" is no news of its end: the socket's is. */
  if (!x->known && !p->gone && !rpc->eof && rpc->fd >= 0)
    return;
  rpc->exited = 1;
  copy_exit(rpc, x);
  schedule(rpc);
}

static void on_run(mf_process *p, const mf_error *error, int socket, void *data) {
  struct mf_rpc *rpc = data;
  int r;
  if (error) {
    if (error->exit) {
      rpc->exited = 1;
      copy_exit(rpc, error->exit);
    }
    fail_with(rpc, error);
    return;
  }
  if (rpc->over) { /* given up meanwhile */
    rpc->seam->ops->close(rpc->seam, &socket);
    return;
  }
  rpc->fd = socket;
  rpc->ran = 1;
  r = rpc->seam->ops->watch(rpc->seam, &rpc->watch, socket, WATCH_READ);
  if (r < 0) {
    mf_kill(rpc->process, SIGKILL);
    fail(rpc, r == -ENOMEM ? MF_ENOMEM : r, "the socket of the process can't be watched");
    return;
  }
  schedule(rpc);
}

static void rpc_free(struct mf_rpc *rpc) {
  task_clear(&rpc->task);
  deadline_clear(&rpc->patience);
  deadline_clear(&rpc->grace);
  deadline_clear(&rpc->retry);
  idmap_deinit(&rpc->calls);
  list_each_safe(it, next, &rpc->spare) {
    free(list_entry(it, struct call, link));
  }
  inbox_deinit(&rpc->in);
  outbox_deinit(&rpc->out);
  buf_deinit(&rpc->gather);
  buf_deinit(&rpc->text);
  free(rpc->fds);
  failure_deinit(&rpc->failure);
  free(rpc->exit_text);
  free(rpc);
}

static void on_process_closed(mf_process *p, void *data) {
  struct mf_rpc *rpc = data;
  if (rpc->close_cb)
    rpc->close_cb(rpc, rpc->close_data);
  rpc_free(rpc);
}

/* The server's last argument; rpc_proto.h has its layout. */
static int put_parameters(struct buf *b, const char *function, const mf_rpc_options *o,
                          unsigned usage_ms) {
  const char *init = o->init ? o->init : "";
  const char *serialiser = o->serialiser ? o->serialiser : "raw";
  unsigned flags = (o->async ? RPC_ASYNC : 0) | (o->handles ? RPC_TAKES_HANDLES : 0) |
                   (o->strict && !o->async ? RPC_STRICT : 0) |
                   (usage_ms ? RPC_MEASURED : 0);
  int r = buf_put_u32(b, RPC_MAGIC);
  if (!r)
    r = buf_put_u16(b, RPC_VERSION);
  if (!r)
    r = buf_put_u16(b, flags);
  if (!r)
    r = buf_put_u64(b, o->message_max);
  if (!r)
    r = buf_put_u32(b, usage_ms);
  if (!r)
    r = buf_put_str(b, function, strlen(function));
  if (!r)
    r = buf_put_str(b, init, strlen(init));
  return r ? r : buf_put_str(b, serialiser, strlen(serialiser));
}

static int start_server(struct mf_rpc *rpc, struct mf_process *p, const char *function,
                        const mf_rpc_options *o, unsigned usage_ms) {
  struct buf b;
  int r;
  buf_init(&b, PROTO_PAYLOAD_MAX);
  r = put_parameters(&b, function, o, usage_ms);
  r = r == -E2BIG ? MF_ELIMIT
      : r         ? MF_ENOMEM
                  : mf_send_arg(p, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
  p->refuses_fds = !o->handles;
  if (!r)
    r = mf_run(p, RPC_FUNCTION, on_run, rpc);
  if (r)
    p->refuses_fds = 0;
  if (!r)
    deadline_clear(&p->limit); /* calls have their own */
  return r;
}

void mf_rpc_options_init(mf_rpc_options *o) {
  mf_rpc_options init = MF_RPC_OPTIONS_INIT;
  *o = init;
}

int rpc_options_load(const mf_rpc_options *from, mf_rpc_options *o) {
  mf_rpc_options_init(o);
  if (from && sized_load(o, sizeof *o, from) < 0)
    return MF_EINVAL;
  if (o->message_max > PROTO_PAYLOAD_MAX || !o->pending_max ||
      (o->init && !*o->init) || (o->serialiser && !*o->serialiser))
    return MF_EINVAL;
  return 0;
}

/* The copy is no parent of the clone: a socket kept there would hide our end from it. */
static void close_in_copy(void *guest) {
  struct mf_rpc *rpc = guest;
  fd_close(&rpc->fd);
  outbox_deinit(&rpc->out);
  inbox_drop_fds(&rpc->in);
  close_left(rpc->fds, rpc->nfds);
  rpc->nfds = 0;
  list_each(it, &rpc->parked) {
    payload_close(list_entry(it, struct call, link)->payload);
  }
}

int rpc_new(struct mf_process *p, const char *function, const mf_rpc_options *o,
            unsigned usage_ms, const struct rpc_owner *owner, void *owner_data,
            mf_rpc **ret) {
  struct mf_rpc *rpc = calloc(1, sizeof *rpc);
  int r;
  if (!rpc)
    return MF_ENOMEM;
  rpc->process = p;
  rpc->home = p->home;
  rpc->seam = p->home->seam;
  rpc->options = *o;
  rpc->owner = owner;
  rpc->owner_data = owner_data;
  rpc->fd = -1;
  rpc->watch.on_ready = on_ready;
  inbox_init(&rpc->in, RPC_HELLO, RPC_ANSWER_LAST);
  outbox_init(&rpc->out);
  buf_init(&rpc->gather, o->message_max);
  buf_init(&rpc->text, 2 * FAILURE_TEXT_MAX + 2);
  idmap_init(&rpc->calls);
  list_init(&rpc->parked);
  list_init(&rpc->flying);
  list_init(&rpc->pending);
  list_init(&rpc->spare);
  deadline_init(&rpc->patience, on_patience);
  deadline_init(&rpc->grace, on_grace);
  deadline_init(&rpc->retry, on_retry);
  task_init(&rpc->task, on_task);
  r = start_server(rpc, p, function, o, usage_ms);
  if (r) {
    rpc_free(rpc);
    return r;
  }
  process_hook_exit(p, on_exit_told, rpc);
  p->forked_hook.close = close_in_copy;
  p->forked_hook.guest = rpc;
  *ret = rpc;
  return 0;
}

int mf_rpc_new(mf_process *p, const char *function, const mf_rpc_options *options,
               mf_rpc **ret) {
  mf_rpc_options o;
  int r = process_check(p);
  if (!r && (!function || !*function || !ret))
    r = MF_EINVAL;
  if (!r)
    r = rpc_options_load(options, &o);
  return r ? r : rpc_new(p, function, &o, 0, NULL, NULL, ret);
}

void mf_rpc_abort(mf_rpc *rpc) {
  if (check(rpc) || rpc->closed)
    return;
  rpc->aborted = 1;
  rpc->error_pending = rpc->close_pending = 0;
  fail(rpc, MF_ECANCELLED, "cancelled by the caller");
  if (is_leaving(rpc))
    deadline_set(rpc->home, &rpc->patience, EXIT_PATIENCE_MS);
  schedule(rpc);
  update_busy(rpc);
}

void mf_rpc_quiet(mf_rpc *rpc) {
  if (check(rpc))
    return;
  rpc->quiet = 1;
  update_busy(rpc);
}

void mf_rpc_close(mf_rpc *rpc, mf_rpc_close_cb cb, void *data) {
  if (check(rpc) || rpc->closing)
    return;
  rpc->closing = 1;
  rpc->close_cb = cb;
  rpc->close_data = data;
  start_grace(rpc);
  schedule(rpc);
  update_busy(rpc);
}
