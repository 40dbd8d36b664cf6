/* What the process says: each message is checked against its place in the protocol, and
 * handed to the caller, the user or the pool. */
#include "parent/rpc/answers.h"

#include "base/result.h"
#include "parent/private.h"
#include "parent/rpc/rpc_call.h"
#include "parent/rpc/rpc_end.h"
#include "parent/rpc/rpc_trace.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- by kind ---- */

static struct call *answered(struct mf_rpc *rpc, uint64_t id) {
  struct call *c = idmap_get(&rpc->calls->ids, id);
  if (!c || c->rpc != rpc || !c->flying)
    return NULL; /* not this process's to answer */
  rpc->stats.answers++;
  rpc_start_grace(rpc);
  return c;
}

static void take_result(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  struct call *c = answered(rpc, id);
  if (c)
    rpc_call_end(c, NULL, m);
  else
    rpc_broken(rpc, "result for an unknown call");
}

/* A fork or a broken protocol is nothing that an rpc reports. */
static int error_code(unsigned code) {
  return code == FAILURE_FORK || code == FAILURE_PROTOCOL ? 0 : failure_code(code);
}

/* Reads a failure into e; its texts lie in rpc->text, its value in the message. 0 when it
 * is malformed. */
static int read_failure(struct mf_rpc *rpc, const mf_message *m, mf_error *e) {
  struct failure_body b;
  memset(e, 0, sizeof *e);
  if (failure_body_decode(&b, m->data, m->length) < 0 || !error_code(b.code))
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
  mf_error e;
  if (!c || !read_failure(rpc, m, &e)) {
    rpc_broken(rpc, c ? "malformed error reply" : "error reply for an unknown call");
    return;
  }
  rpc_call_end(c, &e, NULL);
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
  rpc_trace_ready(rpc);
  rpc_start_grace(rpc);
  if (rpc->owner.ops)
    rpc->owner.ops->on_ready(rpc->owner.data);
}

static void take_failed(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  mf_error e;
  if (!read_failure(rpc, m, &e)) {
    rpc_broken(rpc, "malformed failure report");
    return;
  }
  rpc->never_ready = 1;
  rpc_fail_with(rpc, &e);
}

static void take_retire(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  if (rpc->owner.ops)
    rpc->owner.ops->on_retire(rpc->owner.data);
}

static void take_usage(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  struct reader r;
  reader_init(&r, m->data, m->length);
  rpc->stats.usage = reader_u64(&r);
  rpc->stats.shared = reader_u64(&r);
  if (!r.ok)
    rpc_broken(rpc, "malformed memory report");
  else if (rpc->owner.ops)
    rpc->owner.ops->on_usage(rpc->owner.data, rpc->stats.usage, rpc->stats.shared);
}

static void take_forked(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  process_forked_running(rpc->process, id);
}

static void take_fork_failed(struct mf_rpc *rpc, uint64_t id, const mf_message *m) {
  process_fork_denied(rpc->process, id, m->data, m->length);
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

/* Everything that a clone can say, and in which states. */
static const struct kind {
  unsigned states; /* bits of enum far */
  void (*take)(struct mf_rpc *rpc, uint64_t id, const mf_message *m);
} kinds[RPC_ANSWER_LAST - RPC_HELLO + 1] = {
/* the first is RPC_HELLO's */
#define IN(far) (1u << FAR_##far)
    [0] = {IN(STARTING), take_hello},
    [RPC_READY - RPC_HELLO] = {IN(INIT), take_ready},
    [RPC_FAILED - RPC_HELLO] = {IN(INIT), take_failed},
    [RPC_RESULT - RPC_HELLO] = {IN(SERVING), take_result},
    [RPC_ERROR - RPC_HELLO] = {IN(SERVING), take_error},
    [RPC_EVENT - RPC_HELLO] = {IN(INIT) | IN(SERVING), take_event},
    [RPC_HANDLES - RPC_HELLO] = {IN(INIT) | IN(SERVING), NULL},
    [RPC_RETIRE - RPC_HELLO] = {IN(INIT) | IN(SERVING), take_retire},
    [RPC_USAGE - RPC_HELLO] = {IN(INIT) | IN(SERVING), take_usage},
    [RPC_BYE - RPC_HELLO] = {IN(SERVING), take_bye},
    [RPC_FORKED - RPC_HELLO] = {IN(SERVING), take_forked},
    [RPC_FORK_FAILED - RPC_HELLO] = {IN(SERVING), take_fork_failed},
#undef IN
};

static const unsigned char rules[RPC_ANSWER_LAST - RPC_HELLO + 1] = {
    [0] = MESSAGE_OWN,
    [RPC_FAILED - RPC_HELLO] = MESSAGE_PARTS | MESSAGE_OWN,
    [RPC_RESULT - RPC_HELLO] = MESSAGE_NUMBERED | MESSAGE_PARTS | MESSAGE_HANDLES,
    [RPC_ERROR - RPC_HELLO] = MESSAGE_NUMBERED | MESSAGE_PARTS | MESSAGE_OWN,
    [RPC_EVENT - RPC_HELLO] = MESSAGE_PARTS | MESSAGE_HANDLES,
    [RPC_HANDLES - RPC_HELLO] = MESSAGE_HANDLES | MESSAGE_AHEAD,
    [RPC_USAGE - RPC_HELLO] = MESSAGE_OWN,
    [RPC_FORKED - RPC_HELLO] = MESSAGE_NUMBERED | MESSAGE_EMPTY,
    [RPC_FORK_FAILED - RPC_HELLO] = MESSAGE_NUMBERED | MESSAGE_PARTS | MESSAGE_OWN,
};

static const char *refuse(void *owner, unsigned type) {
  const struct mf_rpc *rpc = owner;
  if (rpc->bye)
    return "data after goodbye";
  return kinds[type - RPC_HELLO].states & (1u << rpc->far)
             ? NULL
             : "message not allowed in this state";
}

/* ---- long bodies ---- */

static struct mf_rpc *rpc_of(struct message_store *s) {
  return list_entry(s, struct mf_rpc, store);
}

static void begin_body(struct message_store *s) {
  struct mf_rpc *rpc = rpc_of(s);
  size_t cap;
  if (!rpc->body.data) {
    void *block = blockcache_take_largest(&rpc->context->blockcache, &cap);
    buf_adopt(&rpc->body, block, cap);
  }
}

/* Memory grows with what arrives: at most as much room as the message has already, unless
 * there is more. */
static void *body_room(struct message_store *s, size_t n, size_t *ret_n) {
  struct buf *b = &rpc_of(s)->body;
  size_t size = buf_size(b), least = size < INBOX_ROOM_MAX ? INBOX_ROOM_MAX : size;
  void *room = buf_reserve(b, n < least ? n : least);
  *ret_n = n < b->cap - b->tail ? n : b->cap - b->tail;
  return room;
}

static void commit_body(struct message_store *s, size_t n) {
  buf_commit(&rpc_of(s)->body, n);
}

static const void *body(struct message_store *s) {
  return buf_peek(&rpc_of(s)->body);
}

void rpc_init_messages(struct mf_rpc *rpc) {
  struct message_options o = {.first_type = RPC_HELLO,
                              .last_type = RPC_ANSWER_LAST,
                              .rules = rules,
                              .body_max = rpc->options.message_max,
                              .fds_max = RPC_MESSAGE_FDS_MAX,
                              .no_handles = !rpc->options.handles,
                              .exact_fds = 1,
                              .store = &rpc->store,
                              .refuse = refuse,
                              .owner = rpc};
  rpc->store = (struct message_store){begin_body, body_room, commit_body, body};
  size_t most = rpc->options.message_max;
  buf_init(&rpc->body, most > FRAME_BODY_MAX ? most : FRAME_BODY_MAX); /* MESSAGE_OWN */
  message_init(&rpc->messages, &o);
}

/* ---- delivery ---- */

/* Every message that a callback of the user's gets is the first part of one of these. */
struct delivery {
  mf_message m;
  struct buf *body; /* what its bytes lie in, from the first on; or NULL */
};

/* What the callback has left of the message's handles is closed. The callback may run the
 * loop again, but reading is not entered twice. */
static void deliver(struct mf_rpc *rpc, const struct message *m) {
  struct delivery d = {{m->body, m->length, m->nfds ? m->fds : NULL, m->nfds},
                       m->stored ? &rpc->body : NULL};
  size_t cap;
  kinds[m->type - RPC_HELLO].take(rpc, m->id, &d.m);
  for (size_t i = 0; i < m->nfds; i++)
    fd_drop(&m->fds[i]);
  if (m->stored) {
    void *block = buf_yield(&rpc->body, &cap);
    blockcache_give(&rpc->context->blockcache, block, cap);
  }
}

void *mf_message_take(const mf_message *m, size_t most, size_t *ret_size) {
  const struct delivery *d = (const void *)m;
  return d->body && d->body->cap <= most ? buf_yield(d->body, ret_size) : NULL;
}

void mf_message_give(struct uv_loop_s *loop, void *block, size_t size) {
  struct context *ctx = context_find(loop);
  if (ctx)
    blockcache_give(&ctx->blockcache, block, size);
  else
    free(block);
}

int rpc_deliver(struct mf_rpc *rpc, int *budget) {
  struct message m;
  for (; *budget > 0; --*budget) {
    int r = message_next(&rpc->messages, &m);
    if (r == MF_AGAIN)
      return 0;
    if (r == 0)
      deliver(rpc, &m);
    else if (r == -ENOMEM)
      rpc_lack_memory(rpc, "not enough memory for a message");
    else
      rpc_broken_at(origin_of_code(ORIGIN), rpc, rpc->messages.wrong);
    if (rpc->over)
      return 1;
  }
  return 1;
}
