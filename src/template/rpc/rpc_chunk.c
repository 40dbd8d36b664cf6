/* Chunks (rpc_proto.h, wire/chunk.h): item after item, each as protected as a call of its
 * own. The record in memory that both sides map costs an item some nanoseconds, where a
 * message would cost microseconds. */
#include "template/rpc/rpc_chunk.h"

#include "os/proc.h"
#include "os/share.h"
#include "template/server/server.h"
#include "wire/chunk.h"
#include <errno.h>
#include <lauxlib.h>
#include <string.h>

struct chunk {
  struct rpc_server *s;
  struct chunk_record *record; /* or NULL */
  uint32_t n, limit_us, answered;
  struct reader items;
  const char *item; /* the one under way */
  size_t nitem;
  int entered, encoded;
  struct buf out; /* header and answers */
};

/* ---- what came ---- */

/* 0: it is malformed. */
static int read_chunk(struct chunk *c, const struct rpc_call *call) {
  size_t size;
  reader_init(&c->items, call->body, call->size);
  c->n = reader_u32(&c->items);
  c->limit_us = reader_u32(&c->items);
  struct reader all = c->items;
  for (uint32_t i = 0; i < c->n && all.ok; i++)
    if (!reader_str(&all, &size))
      all.ok = 0;
  return c->n > 0 && all.ok && reader_left(&all) == 0 && call->nfds <= 1;
}

/* ---- an item ---- */

/* Protected: decodes, calls, encodes. */
static int enter_item(lua_State *L) {
  struct chunk *c = lua_touserdata(L, 1);
  struct rpc_server *s = c->s;
  struct codec_error e;
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->function);
  int n = serialiser_decode(L, &s->serialiser, c->item, c->nitem, NULL, 0, &e);
  if (n < 0) {
    rpc_server_fail_codec(s, &e);
    return 0;
  }
  c->entered = 1;
  lua_call(L, n, LUA_MULTRET);
  server_end_copy(server_self());
  c->encoded = rpc_server_encode(s, L, 2);
  return 0;
}

static int put_answer(struct chunk *c, unsigned kind, const struct buf *body) {
  int rc = buf_put_u8(&c->out, kind);
  return rc ? rc : buf_put_str(&c->out, buf_peek(body), buf_size(body));
}

static void put_failure(struct chunk *c) {
  struct buf body;
  buf_init(&body, FRAME_BODY_MAX);
  c->s->failure.phase = c->entered ? 0 : 1; /* of an rpc failure: it was not entered */
  c->s->failure.error = 0;
  if (failure_record_encode(&c->s->failure, &body) < 0 ||
      put_answer(c, CHUNK_FAILURE, &body) < 0)
    c->s->link.broken = 1;
  buf_deinit(&body);
}

/* Answers that are long together end the chunk, so that only one too many can be too
 * long. */
static void put_item_answer(struct chunk *c) {
  struct rpc_server *s = c->s;
  size_t before = buf_size(&c->out);
  if (c->encoded && put_answer(c, CHUNK_RESULT, &s->out) == 0)
    return;
  if (c->encoded) {
    c->out.tail -= buf_size(&c->out) - before;
    rpc_server_fail(s, FAILURE_LIMIT, "the results of a chunk are too long together");
  }
  codec_fds_close(&s->out_fds);
  put_failure(c);
}

static void run_item(struct chunk *c, lua_State *L, int handler) {
  struct rpc_server *s = c->s;
  c->entered = c->encoded = 0;
  failure_record_clear(&s->failure);
  lua_pushcfunction(L, enter_item);
  lua_pushlightuserdata(L, c);
  int status = lua_pcall(L, 1, 0, handler);
  server_end_copy(server_self());
  if (status != LUA_OK)
    rpc_server_complete(s, status);
  lua_settop(L, handler);
}

/* ---- all ---- */

/* Does the next item. 0: it is not to be begun, or none is to follow. */
static int go_on(struct chunk *c, lua_State *L, int handler) {
  uint32_t count = c->answered + 1;
  if (c->record && !chunk_record_enter(c->record, count))
    return 0;
  c->item = reader_str(&c->items, &c->nitem);
  size_t before = buf_size(&c->out);
  run_item(c, L, handler);
  put_item_answer(c);
  c->answered = count;
  size_t added = buf_size(&c->out) - before;
  if (c->s->link.broken || c->s->out_fds.n > 0 || buf_size(&c->out) > RPC_CHUNK_BYTES)
    return 0;
  return !c->record ||
         chunk_record_finish(c->record, count, buf_peek(&c->out) + before, added);
}

static void refuse(struct rpc_server *s, const struct rpc_call *call, int code,
                   const char *text) {
  rpc_server_fail(s, code, text);
  rpc_server_refuse(s, call->id, 0);
}

void rpc_chunk_refuse(struct rpc_server *s, const struct rpc_call *call) {
  refuse(s, call, FAILURE_INVAL, "an asynchronous function takes no chunks");
}

static uint32_t us_since(uint64_t began_ns) {
  uint64_t us = (proc_now_ns() - began_ns) / 1000;
  return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

void rpc_chunk_run(struct rpc_server *s, lua_State *L, const struct rpc_call *call,
                   int handler) {
  struct chunk c = {.s = s};
  if (call->lost) {
    refuse(s, call, FAILURE_LIMIT,
           "no free descriptor for the record of the chunk (limit nofile)");
    return;
  }
  if (!read_chunk(&c, call)) {
    refuse(s, call, FAILURE_INVAL, "malformed chunk");
    return;
  }
  void *record = NULL;
  int r = call->nfds > 0 ? share_map(call->fds[0], CHUNK_RECORD_SIZE, &record) : 0;
  if (r < 0) {
    refuse(s, call, r == -EINVAL ? FAILURE_INVAL : FAILURE_LIMIT,
           "the record of the chunk can't be mapped");
    return;
  }
  c.record = record;
  uint64_t began = proc_now_ns();
  unsigned char header[CHUNK_HEADER] = {0};
  buf_init(&c.out, s->out.max);
  if (buf_put(&c.out, header, sizeof header) < 0)
    s->link.broken = 1;
  while (!s->link.broken && c.answered < c.n && go_on(&c, L, handler))
    if (c.limit_us && us_since(began) >= c.limit_us)
      break;
  if (!s->link.broken) {
    chunk_header_put(c.out.data + c.out.head, c.answered, us_since(began));
    rpc_link_put(&s->link, RPC_RESULT, call->id, &c.out, &s->out_fds);
    rpc_server_put_usage(s);
  }
  buf_deinit(&c.out);
  if (c.record)
    share_unmap(c.record, CHUNK_RECORD_SIZE);
}
