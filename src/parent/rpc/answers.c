/* What the process says: each message is checked against its place in the protocol, and handed
 * to the caller, the user or the pool. */
#include "parent/rpc/answers.h"

#include "parent/private.h"
#include "parent/rpc/call.h"
#include "parent/rpc/end.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* ---- by kind ---- */

static struct call *answered(struct mf_rpc *rpc, uint64_t id) {
  struct call *c = idmap_get(&rpc->calls, id);
  if (!c || !c->flying)
    return NULL;
  rpc->stats.answers++;
  rpc_start_grace(rpc);
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
    rpc_call_free(c);
  return 1;
}

static void take_result(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  struct call *c = answered(rpc, id);
  mf_reply_cb cb;
  void *data;
  if (!c) {
    rpc_broken(rpc, "result for an unknown call");
    return;
  }
  if (is_late(rpc, c))
    return;
  cb = c->cb;
  data = c->data;
  rpc_call_free(c);
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
    rpc_broken(rpc, c ? "malformed error reply" : "error reply for an unknown call");
    return;
  }
  if (is_late(rpc, c))
    return;
  cb = c->cb;
  data = c->data;
  rpc_call_free(c);
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
    rpc_broken(rpc, "malformed hello");
    return;
  }
  if (version != RPC_VERSION) {
    snprintf(text, sizeof text, "it speaks version %u, this library version %u", version,
             (unsigned)RPC_VERSION);
    rpc_broken(rpc, text);
    return;
  }
  if (longest < rpc->options.message_max)
    rpc->options.message_max = longest;
  rpc->far = FAR_INIT;
}

static void take_ready(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  rpc->far = FAR_SERVING;
  rpc_start_grace(rpc);
  if (rpc->owner && rpc->owner->on_ready)
    rpc->owner->on_ready(rpc->owner_data);
}

static void take_failed(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  mf_error e;
  if (!read_failure(rpc, m, &e)) {
    rpc_broken(rpc, "malformed failure report");
    return;
  }
  rpc_fail_with(rpc, &e); /* calls: not started, as it was never ready */
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
    rpc_broken(rpc, "malformed memory report");
  else if (rpc->owner && rpc->owner->on_usage)
    rpc->owner->on_usage(rpc->owner_data, rpc->stats.usage);
}

static void take_bye(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  if (!rpc->end_put || !list_empty(&rpc->flying)) {
    rpc_broken(rpc, "goodbye while calls are pending or before the end was requested");
    return;
  }
  rpc->bye = 1;
  rpc->far = FAR_GONE;
  rpc_start_grace(rpc);
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

/* ---- delivery ---- */

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
  rpc_drop_fds(d.m.fds, nfds);
}

void *mf_message_take(const mf_message *m) {
  const struct delivery *d = (const void *)m;
  size_t cap;
  return d->gather ? buf_yield(d->gather, &cap) : NULL;
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

void rpc_end_part(struct mf_rpc *rpc, int more) {
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
void rpc_on_frame(struct mf_rpc *rpc, const struct frame *f, size_t have) {
  const struct kind *k = &kinds[f->type - RPC_HELLO];
  const char *wrong = objection(rpc, k, f);
  int more = (f->flags & FRAME_MORE) != 0, r = 0;
  if (wrong) {
    rpc_broken(rpc, wrong);
    return;
  }
  if (f->nfds)
    r = keep_fds(rpc, f->nfds);
  if (!r && f->type == RPC_HANDLES)
    return;
  if (f->length > rpc->gather.max - buf_size(&rpc->gather)) {
    rpc_broken(rpc, "message longer than message_max");
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
    rpc_lack_memory(rpc, "not enough memory for a message");
    return;
  }
  if (have == f->length) {
    rpc_end_part(rpc, more);
    return;
  }
  rpc->torn = 1;
  rpc->partial_more = more;
}
