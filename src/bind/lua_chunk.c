/* Chunks (wire/chunk.h) behind a userdata: items are packed one by one, travel together,
 * and their answers are unpacked one by one. What is sent when is for Lua
 * (moonfork/map.lua).
 *
 *   new -> add ... -> send -> answered: result | failed: settle -> next ... -> reset
 *                                    \-> split: the rest is another chunk
 *
 * The record tells how far a worker came that died, was killed or had no time left. It is
 * used again only after an answer: else its worker may be writing to it still. */
#include "bind/lua_chunk.h"

#include "base/copied.h"
#include "base/result.h"
#include "bind/reply.h"
#include "bind/service_call.h"
#include "os/fd.h"
#include "os/share.h"
#include "parent/common/failure.h"
#include "socket/line.h"
#include "wire/chunk.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BIND_CHUNK BIND_ID "chunk"

struct chunk {
  struct resident resident;
  struct service **box; /* anchored as the user value */
  struct buf items;     /* the message: header and items; empty: none yet */
  size_t item_max;      /* bytes; longer ones travel alone */
  uint32_t n;
  uint32_t nfound; /* the item that was asked for last; 0: none since the items changed */
  size_t found;    /* where it ends among them */
  int fd;          /* of the record; -1: none */
  struct chunk_record *record;
  unsigned char *answers; /* a block, or NULL */
  size_t size;
  int *fds; /* of the last answer; a block, or NULL */
  size_t nfds;
  struct reader reader;
  uint32_t answered, failures, given, us;
  struct reader told; /* the items: behind that of the last joined answer */
  uint32_t ntold;     /* so many */
  struct buf text;    /* of answers that are joined; empty between two calls */
};

static struct chunk *check_chunk(lua_State *L, int idx) {
  struct chunk *c = luaL_checkudata(L, idx, BIND_CHUNK);
  if (!c->record)
    luaL_error(L, "the map belongs to the process that this one was forked from");
  return c;
}

/* ---- life ---- */

static void drop_answers(struct chunk *c) {
  for (size_t i = 0; i < c->nfds; i++)
    fd_drop(&c->fds[i]);
  free(c->fds);
  free(c->answers);
  c->fds = NULL;
  c->answers = NULL;
  c->nfds = c->size = 0;
  c->answered = c->failures = c->given = c->ntold = 0;
}

static void drop_record(struct chunk *c) {
  if (c->fd >= 0)
    fd_drop(&c->fd);
  if (c->record)
    share_unmap(c->record, CHUNK_RECORD_SIZE);
  c->record = NULL;
}

static void abandon(struct resident *resident) {
  struct chunk *c = list_entry(resident, struct chunk, resident);
  fd_close(&c->fd);
  for (size_t i = 0; i < c->nfds; i++)
    fd_close(&c->fds[i]);
  c->nfds = 0;
}

static int l_chunk_gc(lua_State *L) {
  struct chunk *c = luaL_checkudata(L, 1, BIND_CHUNK);
  list_remove(&c->resident.link);
  drop_answers(c);
  drop_record(c);
  buf_deinit(&c->items);
  buf_deinit(&c->text);
  return 0;
}

/* chunk_new(raw[, bytes]) -> chunk; nothing where there is no memory for a record. bytes:
 * items that are longer are not added */
static int l_chunk_new(lua_State *L) {
  struct service *s = service_check(L, 1);
  lua_Integer item_max = luaL_optinteger(L, 2, LUA_MAXINTEGER);
  struct chunk *c = lua_newuserdatauv(L, sizeof *c, 1);
  *c = (struct chunk){.box = s->box,
                      .fd = -1,
                      .item_max = (size_t)item_max,
                      .resident = {.abandon = abandon}};
  list_init(&c->resident.link);
  buf_init(&c->items, SIZE_MAX);
  buf_init(&c->text, SIZE_MAX);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, BIND_CHUNK);
  list_push(&s->reactor->residents, &c->resident.link);
  void *map;
  if (share_new(CHUNK_RECORD_SIZE, &c->fd, &map) < 0)
    return 0;
  c->record = map;
  return 1;
}

/* chunk_reset(chunk): as a new one; only after an answer */
static int l_chunk_reset(lua_State *L) {
  struct chunk *c = check_chunk(L, 1);
  drop_answers(c);
  buf_consume(&c->items, buf_size(&c->items));
  c->n = c->nfound = 0;
  chunk_record_clear(c->record);
  return 0;
}

/* ---- items ---- */

static int put_item(struct chunk *c, const void *item, size_t size) {
  static const unsigned char header[CHUNK_HEADER] = {0};
  size_t before = buf_size(&c->items);
  int rc = before ? 0 : buf_put(&c->items, header, sizeof header);
  if (rc == 0)
    rc = buf_put_str(&c->items, item, size);
  if (rc == 0)
    c->n++;
  return rc;
}

static int push_unpackable(lua_State *L, int code, const char *text) {
  lua_pushnil(L);
  bind_error_push(L, bind_error_name(code), text, NULL, MF_STARTED_NO, NULL);
  return 2;
}

/* chunk_add(chunk, ...) -> bytes of the chunk; nil, error: the item can't be packed;
 * false: it has handles, or is too long. Both leave the chunk as it was. */
static int l_chunk_add(lua_State *L) {
  struct chunk *c = check_chunk(L, 1);
  struct service *s = *c->box;
  struct codec_error e;
  if (!s)
    return push_unpackable(L, MF_ECLOSED, "the pool is closed");
  luaL_checkstack(L, 8, NULL);
  buf_consume(&s->out, buf_size(&s->out));
  codec_fds_close(&s->fds);
  int rc = serialiser_encode(L, &s->serialiser, 2, lua_gettop(L) - 1, "argument", &s->out,
                             &s->fds, &e);
  int is_apart = s->fds.n > 0 || buf_size(&s->out) > c->item_max;
  codec_fds_close(&s->fds);
  if (rc < 0)
    return push_unpackable(L, rc, e.text);
  if (is_apart) {
    lua_pushboolean(L, 0);
    return 1;
  }
  rc = put_item(c, buf_peek(&s->out), buf_size(&s->out));
  if (rc < 0)
    return push_unpackable(L, rc, NULL);
  lua_pushinteger(L, (lua_Integer)buf_size(&c->items));
  return 1;
}

/* Adds the line as an item. 0, or e->code. */
static int add_line(lua_State *L, struct chunk *c, struct service *s,
                    const struct line *line, struct codec_error *e) {
  buf_consume(&s->out, buf_size(&s->out));
  int rc =
      serialiser_encode_string(L, &s->serialiser, line->text, line->size, &s->out, e);
  if (rc == 0 && (rc = put_item(c, buf_peek(&s->out), buf_size(&s->out))) < 0)
    snprintf(e->text, sizeof e->text, "%s", strerror(-rc));
  return rc;
}

/* chunk_read(chunk, socket, end, items, bytes) -> n, bytes, state: adds the lines of the
 * socket that are there, while the chunk has fewer items and bytes. end: the byte behind
 * a line. state: nil; "end": there are no more; "later": no more are there yet; "failed",
 * message: the next can't be read or packed */
static int l_chunk_read(lua_State *L) {
  struct chunk *c = check_chunk(L, 1);
  struct service *s = *c->box;
  struct socket *from = socket_check_open(L, 2);
  size_t nend;
  const char *end = luaL_checklstring(L, 3, &nend);
  luaL_argcheck(L, nend == 1, 3, "one byte expected");
  lua_Integer most = luaL_checkinteger(L, 4), bytes_most = luaL_checkinteger(L, 5);
  struct codec_error e = {.text = "the pool is closed"};
  struct line line;
  lua_Integer n = 0, bytes = 0;
  int rc = s ? 1 : -EPIPE, packed = s ? 0 : rc;
  while (rc > 0 && c->n < most && (lua_Integer)buf_size(&c->items) < bytes_most) {
    rc = line_peek(from, *end, &line);
    if (rc <= 0 || (packed = add_line(L, c, s, &line, &e)) < 0)
      break;
    bytes += (lua_Integer)line.taken;
    n++;
    socket_take(from, line.taken);
  }
  lua_pushinteger(L, n);
  lua_pushinteger(L, bytes);
  if (packed < 0 || (rc < 0 && rc != -EAGAIN)) {
    lua_pushliteral(L, "failed");
    lua_pushstring(L, packed < 0     ? e.text
                      : rc == -E2BIG ? "line too long"
                                     : strerror(-rc));
    return 4;
  }
  if (rc == 0)
    lua_pushliteral(L, "end");
  else if (rc < 0)
    lua_pushliteral(L, "later");
  else
    lua_pushnil(L);
  return 3;
}

/* chunk_split(chunk, n, rest): keeps the first n items and adds the others to rest */
static int l_chunk_split(lua_State *L) {
  struct chunk *c = check_chunk(L, 1), *rest = check_chunk(L, 3);
  uint32_t keep = (uint32_t)luaL_checkinteger(L, 2);
  struct reader r;
  size_t size;
  reader_init(&r, buf_peek(&c->items), buf_size(&c->items));
  reader_take(&r, CHUNK_HEADER);
  for (uint32_t i = 0; i < keep && i < c->n; i++)
    reader_str(&r, &size);
  size_t cut = reader_left(&r);
  for (uint32_t i = keep; i < c->n; i++) {
    const char *item = reader_str(&r, &size);
    if (put_item(rest, item, size) < 0)
      return luaL_error(L, "not enough memory");
  }
  c->items.tail -= cut;
  c->nfound = 0;
  c->n = keep < c->n ? keep : c->n;
  return 0;
}

/* They are asked for one after the other: each search goes on where the last one ended.
 */
static const char *find_item(struct chunk *c, uint32_t wanted, size_t *ret_size) {
  struct reader r;
  const char *item = NULL;
  if (wanted <= c->nfound)
    c->nfound = 0;
  reader_init(&r, buf_peek(&c->items), buf_size(&c->items));
  reader_take(&r, c->nfound ? c->found : CHUNK_HEADER);
  for (; c->nfound < wanted; c->nfound++)
    item = reader_str(&r, ret_size);
  c->found = buf_size(&c->items) - reader_left(&r);
  return item;
}

/* chunk_item(chunk, i) -> the values of item i, from 1 on */
static int l_chunk_item(lua_State *L) {
  struct chunk *c = check_chunk(L, 1);
  lua_Integer wanted = luaL_checkinteger(L, 2);
  struct codec_error e;
  size_t size = 0;
  luaL_argcheck(L, wanted >= 1 && wanted <= c->n && *c->box, 2, "no such item");
  const char *item = find_item(c, (uint32_t)wanted, &size);
  int n = serialiser_decode(L, &(*c->box)->serialiser, item, size, NULL, 0, &e);
  return n < 0 ? luaL_error(L, "%s", e.text) : n;
}

/* chunk_unpack(chunk) -> a list of the items, each as table.pack has it */
static int l_chunk_unpack(lua_State *L) {
  struct chunk *c = check_chunk(L, 1);
  struct codec_error e;
  struct reader r;
  size_t size;
  reader_init(&r, buf_peek(&c->items), buf_size(&c->items));
  reader_take(&r, CHUNK_HEADER);
  lua_createtable(L, (int)c->n, 0);
  for (uint32_t i = 1; *c->box && i <= c->n; i++) {
    const char *item = reader_str(&r, &size);
    int n = serialiser_decode(L, &(*c->box)->serialiser, item, size, NULL, 0, &e);
    if (n < 0)
      return luaL_error(L, "%s", e.text);
    lua_createtable(L, n, 1);
    lua_pushinteger(L, n);
    lua_setfield(L, -2, "n");
    lua_insert(L, -1 - n);
    for (int at = n; at > 0; at--)
      lua_rawseti(L, -1 - at, at);
    lua_rawseti(L, -2, (lua_Integer)i);
  }
  return 1;
}

/* ---- sending, answers ---- */

/* The reply's bytes become the chunk's. */
static void take_reply(struct reply *r, void *chunk) {
  struct chunk *c = chunk;
  struct reader in;
  drop_answers(c);
  if (r->size < CHUNK_HEADER)
    return;
  reader_init(&in, r->data, CHUNK_HEADER);
  uint32_t answered = reader_u32(&in);
  c->us = reader_u32(&in);
  c->answers = reply_take(r, &c->size, &c->fds, &c->nfds);
  if (!c->answers || answered > c->n)
    return;
  c->answered = chunk_answers_count(c->answers + CHUNK_HEADER, c->size - CHUNK_HEADER,
                                    answered, &c->failures);
  if (c->answered < answered)
    c->answered = 0; /* malformed */
  reader_init(&c->reader, c->answers + CHUNK_HEADER, c->size - CHUNK_HEADER);
}

/* chunk_send(raw, milliseconds, microseconds, chunk, callback) -> call. milliseconds: of
 * the timeout, 0: as the pool says; microseconds: when the worker answers, 0: when it is
 * done */
static int l_chunk_send(lua_State *L) {
  struct service *s = service_check(L, 1);
  mf_call_options o = MF_CALL_OPTIONS_INIT;
  o.timeout_ms = (unsigned)luaL_checkinteger(L, 2);
  o.chunk = 1;
  uint32_t us = (uint32_t)luaL_checkinteger(L, 3);
  struct chunk *c = check_chunk(L, 4);
  luaL_checktype(L, 5, LUA_TFUNCTION);
  luaL_argcheck(L, c->n > 0, 4, "no items");
  chunk_header_put(c->items.data + c->items.head, c->n, us);
  mf_message m = {buf_peek(&c->items), buf_size(&c->items), &c->fd, 1};
  return call_message(L, s, &o, &m, 5, 4, take_reply, c);
}

/* chunk_result(chunk) -> answered, failures, microseconds, bytes: after an answer.
 * answered 0: it was malformed, or the worker was told to stop before the first */
static int l_chunk_result(lua_State *L) {
  struct chunk *c = check_chunk(L, 1);
  lua_pushinteger(L, c->answered);
  lua_pushinteger(L, c->failures);
  lua_pushinteger(L, c->us);
  lua_pushinteger(L, (lua_Integer)c->size);
  return 4;
}

/* chunk_settle(chunk) -> answered, failures, entered: after an error. Nothing more is
 * entered; those that were entered and are not answered are as the error says */
static int l_chunk_settle(lua_State *L) {
  struct chunk *c = check_chunk(L, 1);
  uint32_t bytes = 0, entered = 0;
  drop_answers(c);
  c->answers = malloc(RPC_CHUNK_BYTES);
  if (!c->answers)
    return luaL_error(L, "not enough memory");
  chunk_record_stop(c->record);
  chunk_record_read(c->record, c->n, c->answers, &bytes, &c->answered, &entered);
  c->size = bytes;
  c->answered = chunk_answers_count(c->answers, bytes, c->answered, &c->failures);
  reader_init(&c->reader, c->answers, bytes);
  lua_pushinteger(L, c->answered);
  lua_pushinteger(L, c->failures);
  lua_pushinteger(L, entered);
  return 3;
}

/* chunk_stop(chunk): its worker enters no further item */
static int l_chunk_stop(lua_State *L) {
  chunk_record_stop(check_chunk(L, 1)->record);
  return 0;
}

/* ---- answers, one by one ---- */

/* Into f. 0, or -EPROTO. */
static int read_failure(const struct chunk_answer *a, struct failure *f) {
  struct failure_body b;
  if (failure_body_decode(&b, a->body, a->size) < 0 || !failure_code(b.code))
    return -EPROTO;
  f->code = failure_code(b.code);
  f->started = b.second ? MF_STARTED_NO : MF_STARTED_UNKNOWN;
  f->message = b.message ? strndup(b.message, b.nmessage) : NULL;
  failure_take(f, &b);
  return 0;
}

static int push_failure(lua_State *L, struct chunk *c, const struct chunk_answer *a) {
  struct failure f = {0};
  struct completion told;
  mf_error e;
  if (read_failure(a, &f) < 0)
    failure_set(&f, MF_EPROTOCOL, "malformed failure of an item", NULL);
  failure_tell(&f, &e);
  completion_init(&told, (*c->box) ? (*c->box)->reactor : NULL, NULL);
  completion_set_error(&told, &e);
  failure_deinit(&f);
  completion_push_failure(L, &told);
  completion_clear(&told);
  return 1;
}

/* chunk_next(chunk) -> nil, results... | error: of the next item that is answered */
static int l_chunk_next(lua_State *L) {
  struct chunk *c = check_chunk(L, 1);
  struct service *s = *c->box;
  struct chunk_answer a;
  struct codec_error e;
  luaL_argcheck(L, c->given < c->answered, 1, "no answer");
  if (chunk_answer_next(&c->reader, &a) < 0)
    return luaL_error(L, "malformed answer");
  int last = ++c->given == c->answered;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  if (a.kind == CHUNK_FAILURE)
    return push_failure(L, c, &a);
  if (!s)
    return push_unpackable(L, MF_ECLOSED, "the pool is closed") - 1;
  lua_pushnil(L);
  int n = serialiser_decode(L, &s->serialiser, a.body, a.size, last ? c->fds : NULL,
                            last ? c->nfds : 0, &e);
  if (n < 0) {
    reply_push_unreadable(L, &e);
    return 1;
  }
  return 1 + n;
}

/* Appends the n values on top as a text, and pops them: tabs between them, nil is
 * nothing. May raise what a __tostring raises. */
static int put_values(lua_State *L, struct buf *out, int n) {
  int rc = 0, first = lua_gettop(L) - n + 1;
  for (int i = first; i < first + n && rc == 0; i++) {
    size_t size = 0;
    if (i > first)
      rc = buf_put(out, "\t", 1);
    if (rc < 0 || lua_isnil(L, i))
      continue;
    const char *text = luaL_tolstring(L, i, &size);
    rc = buf_put(out, text, size);
    lua_pop(L, 1);
  }
  lua_settop(L, first - 1);
  return rc;
}

static int put_packed(lua_State *L, struct chunk *c, const void *data, size_t size,
                      const char *end, size_t nend) {
  struct codec_error e;
  int n = serialiser_decode(L, &(*c->box)->serialiser, data, size, NULL, 0, &e);
  if (n < 0)
    return n;
  luaL_checkstack(L, 4, NULL);
  int rc = put_values(L, &c->text, n);
  return rc < 0 ? rc : buf_put(&c->text, end, nend);
}

/* The item whose answer is the next. */
static int put_item_text(lua_State *L, struct chunk *c, const char *end, size_t nend) {
  const char *item = NULL;
  size_t size = 0;
  if (c->ntold == 0) {
    reader_init(&c->told, buf_peek(&c->items), buf_size(&c->items));
    reader_take(&c->told, CHUNK_HEADER);
  }
  for (; c->ntold <= c->given; c->ntold++)
    item = reader_str(&c->told, &size);
  return item ? put_packed(L, c, item, size, end, nend) : -EPROTO;
}

/* chunk_text(chunk, end[, between]) -> text, n: of the next n items that are answered,
 * each with end behind it, up to the first that failed or can't be read; "", 0: the next
 * is such a one, or none is left. between: each item before its answer, and this between
 * them */
static int l_chunk_text(lua_State *L) {
  struct chunk *c = check_chunk(L, 1);
  size_t nend, nbetween;
  const char *end = luaL_checklstring(L, 2, &nend);
  const char *between = luaL_optlstring(L, 3, NULL, &nbetween);
  lua_Integer n = 0;
  /* the descriptors of an answer come with the last item */
  uint32_t most = c->nfds > 0 && c->answered > 0 ? c->answered - 1 : c->answered;
  buf_consume(&c->text, buf_size(&c->text)); /* of a call that raised */
  while (*c->box && c->given < most) {
    struct reader before = c->reader, items = c->told;
    uint32_t ntold = c->ntold;
    struct chunk_answer a;
    size_t size = buf_size(&c->text);
    if (chunk_answer_next(&c->reader, &a) < 0)
      return luaL_error(L, "malformed answer");
    if (a.kind == CHUNK_FAILURE ||
        (between && put_item_text(L, c, between, nbetween) < 0) ||
        put_packed(L, c, a.body, a.size, end, nend) < 0) {
      c->reader = before;
      c->told = items;
      c->ntold = ntold;
      c->text.tail -= buf_size(&c->text) - size;
      break;
    }
    c->given++;
    n++;
  }
  lua_pushlstring(L, (const char *)buf_peek(&c->text), buf_size(&c->text));
  lua_pushinteger(L, n);
  buf_consume(&c->text, buf_size(&c->text));
  return 2;
}

/* All that it has is the original's; its service is nobody's, and takes it no more. */
static int l_chunk_copied(lua_State *L) {
  struct chunk *c = lua_touserdata(L, 1);
  *c = (struct chunk){.box = c->box, .fd = -1};
  list_init(&c->resident.link);
  buf_init(&c->items, SIZE_MAX);
  buf_init(&c->text, SIZE_MAX);
  return 0;
}

void chunk_open(lua_State *L) {
  luaL_newmetatable(L, BIND_CHUNK);
  reactor_copies(L, l_chunk_copied, NULL);
  lua_pushcfunction(L, l_chunk_gc);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, COPIED_END_FIELD);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}

const luaL_Reg bind_chunk_functions[] = {
    {"chunk_new", l_chunk_new},       {"chunk_reset", l_chunk_reset},
    {"chunk_add", l_chunk_add},       {"chunk_split", l_chunk_split},
    {"chunk_send", l_chunk_send},     {"chunk_result", l_chunk_result},
    {"chunk_settle", l_chunk_settle}, {"chunk_stop", l_chunk_stop},
    {"chunk_next", l_chunk_next},     {"chunk_unpack", l_chunk_unpack},
    {"chunk_item", l_chunk_item},     {"chunk_read", l_chunk_read},
    {"chunk_text", l_chunk_text},     {NULL, NULL},
};
