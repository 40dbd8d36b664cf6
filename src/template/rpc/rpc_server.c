/* What synchronous and asynchronous serving share: arguments, answers, failures, memory
 * reports. Runs in clones. */
#include "template/rpc/rpc_server.h"

#include "os/proc.h"
#include "template/lua/script.h"
#include "template/server/server.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
  LEND_MIN = 32 * 1024, /* bytes of a result, or of a string in one, that is not copied */
  LENT_MAX = 16         /* of one message */
};

static struct rpc_server the_server; /* large; its pages are touched only by an rpc */

static void free_rpc(struct rpc_server *s) {
  rpc_link_drop(&s->link);
  buf_deinit(&s->out);
  buf_deinit(&s->event_out);
  buf_deinit(&s->dropped);
  free(s);
}

/* A thread's is made by the first who asks. */
struct rpc_server *rpc_server_self(void) {
  struct server *me = server_self();
  if (!me || !me->thread)
    return &the_server;
  if (!me->rpc)
    me->rpc = calloc(1, sizeof *me->rpc);
  me->free_rpc = free_rpc;
  return me->rpc;
}

struct rpc_server *rpc_server_serving(void) {
  struct rpc_server *s = rpc_server_self();
  return s && s->state != RPC_SERVER_NONE && s->pid == getpid() ? s : NULL;
}

/* ---- failures ---- */

int rpc_server_on_error(lua_State *L) {
  struct failure_record *f = &rpc_server_self()->failure;
  script_describe(L, 1, f);
  f->code = FAILURE_REMOTE;
  lua_settop(L, 1);
  return 1;
}

void rpc_server_fail_at(const char *origin, struct rpc_server *s, int code,
                        const char *text) {
  failure_record_set_at(origin, &s->failure, code, 0, 0, text);
}

void rpc_server_fail_codec(struct rpc_server *s, const struct codec_error *e) {
  int code = e->code == -E2BIG || e->code == -EMFILE ? FAILURE_LIMIT
             : e->code == -ENOMEM                    ? FAILURE_NOMEM
                                                     : FAILURE_INVAL;
  rpc_server_fail(s, code, e->text);
}

/* ---- arguments ---- */

static void end_offer(struct rpc_server *s) {
  struct gather *g = &s->link.gather;
  s->offering = 0;
  if (heap_withdraw(s->link.heap))
    gather_init(g, g->lead); /* the heap owns the mapping now */
}

/* A long string that ends the body becomes a Lua string where it lies: Lua writes its
 * header before it, and copies the characters onto themselves. */
static void push_in_place(struct rpc_server *s, lua_State *L, struct gather *g,
                          size_t n) {
  s->offering = 1;
  heap_offer(s->link.heap, g->map, g->map_size, s->link.lead + n + 1);
  lua_pushlstring(L, (const char *)g->map + s->link.lead, n);
  end_offer(s);
}

/* Whether the last n bytes are where Lua would have them, in a mapping that is about as
 * large as they need. */
static int fits_in_place(const struct rpc_server *s, struct gather *g, size_t n) {
  size_t need = g->lead + g->length + 1;
  if (!s->link.heap || s->link.lead == 0 || n < HEAP_BIG || s->link.lead + n + 1 != need)
    return 0;
  return (need <= g->map_size && g->map_size - need <= g->map_size / 4) ||
         gather_fit(g, 1) == 0;
}

int rpc_server_push_last(lua_State *L, const char *text, size_t n, void *server) {
  struct rpc_server *s = server;
  struct gather *g = s->placing;
  if (!g || !fits_in_place(s, g, n))
    return 0;
  push_in_place(s, L, g, n);
  return 1;
}

int rpc_server_decode(struct rpc_server *s, lua_State *L, const struct rpc_call *call,
                      struct codec_error *e) {
  struct gather *g = call->gather;
  if (g && serialiser_is_raw(&s->serialiser) && fits_in_place(s, g, g->length)) {
    push_in_place(s, L, g, g->length);
    return 1;
  }
  s->placing = g;
  int n = serialiser_decode(L, &s->serialiser, call->body, call->size, call->fds,
                            call->nfds, e);
  s->placing = NULL;
  return n;
}

/* ---- failures that were raised ---- */

void rpc_server_complete(struct rpc_server *s, int status) {
  if (s->offering) /* no memory for a string */
    end_offer(s);
  s->placing = NULL;
  if (status == LUA_ERRMEM)
    rpc_server_fail(s, FAILURE_NOMEM, "not enough memory");
  else if (s->failure.nmessage == 0)
    rpc_server_fail(s, FAILURE_REMOTE, "error without a message");
  s->failure.code = status == LUA_ERRMEM ? FAILURE_NOMEM : FAILURE_REMOTE;
}

void rpc_server_put_failure(struct rpc_server *s, unsigned type, uint64_t id) {
  struct buf body;
  buf_init(&body, FRAME_BODY_MAX);
  if (failure_record_encode(&s->failure, &body) < 0)
    s->link.broken = 1;
  else
    rpc_link_put(&s->link, type, id, &body, NULL);
  buf_deinit(&body);
}

void rpc_server_refuse(struct rpc_server *s, uint64_t id, int entered) {
  s->failure.phase =
      entered ? 0 : 1; /* of an rpc failure: the function was not entered */
  s->failure.error = 0;
  rpc_server_put_failure(s, RPC_ERROR, id);
}

int rpc_server_begin(struct rpc_server *s, const struct rpc_call *call) {
  if (!call->lost) {
    failure_record_clear(&s->failure);
    return 1;
  }
  rpc_server_fail(s, FAILURE_LIMIT,
                  "no free descriptor for the handles of the call (limit nofile)");
  rpc_server_refuse(s, call->id, 0);
  return 0;
}

/* ---- answers ---- */

int rpc_server_send(struct rpc_server *s) {
  s->batch_since_ns = 0;
  return rpc_link_send(&s->link, 1);
}

struct codec_fds *rpc_server_handles(struct rpc_server *s, struct codec_fds *fds) {
  return s->flags & RPC_TAKES_HANDLES ? fds : NULL;
}

void rpc_server_put_usage(struct rpc_server *s) {
  struct proc_memory m;
  if (!(s->flags & RPC_MEASURED)) /* asked first: the clock is a tenth of a small call */
    return;
  uint64_t now = proc_now_ns();
  if (now < s->usage_next_ns)
    return;
  s->usage_next_ns = now + s->usage_interval_ns;
  if (server_self()->thread)
    m = (struct proc_memory){.uss = server_lua_live(server_self())}; /* as cmd_memory.c */
  else if (proc_memory(0, &m) < 0)
    return;
  struct buf body;
  buf_init(&body, 64);
  if (buf_put_u64(&body, m.uss) == 0 && buf_put_u64(&body, m.shared) == 0)
    rpc_link_put(&s->link, RPC_USAGE, 0, &body, NULL);
  buf_deinit(&body);
}

static int encode(struct rpc_server *s, lua_State *L, int first, int n,
                  struct codec_lending *lending) {
  struct codec_error e;
  buf_consume(&s->out, buf_size(&s->out)); /* what an error may have left there */
  codec_fds_close(&s->out_fds);
  if (serialiser_encode_lending(L, &s->serialiser, first, n, "result", &s->out,
                                rpc_server_handles(s, &s->out_fds), lending, &e) == 0)
    return 1;
  codec_fds_close(&s->out_fds);
  rpc_server_fail_codec(s, &e);
  return 0;
}

int rpc_server_encode(struct rpc_server *s, lua_State *L, int first) {
  return encode(s, L, first, lua_gettop(L) - first + 1, NULL);
}

/* Where answers are written at once, long strings are sent from where they are. 1: done;
 * 0: s->out is the whole body, or s->failure has the reason (*ret_failed). */
static int answer_lending(struct rpc_server *s, lua_State *L, uint64_t id, int first,
                          int *ret_failed) {
  struct lent lent[LENT_MAX];
  struct codec_lending l = {.least = LEND_MIN, .lent = lent, .max = LENT_MAX};
  int n = lua_gettop(L) - first + 1;
  luaL_checkstack(L, 8, NULL);
  lua_pushnil(L);
  l.anchor = lua_gettop(L);
  *ret_failed = !encode(s, L, first, n, &l);
  if (*ret_failed || l.n == 0)
    return 0;
  struct iovec pieces[2 * LENT_MAX + 1];
  size_t npieces = lent_cut(buf_peek(&s->out), buf_size(&s->out), l.lent, l.n, pieces);
  rpc_link_put_pieces(&s->link, RPC_RESULT, id, pieces, npieces, &s->out_fds);
  buf_consume(&s->out, buf_size(&s->out));
  return 1;
}

void rpc_server_answer(struct rpc_server *s, lua_State *L, uint64_t id, int first) {
  int n = lua_gettop(L) - first + 1, failed = 0;
  size_t size;
  const char *lent =
      s->link.waits ? serialiser_borrow(L, &s->serialiser, first, n, &size) : NULL;
  if (lent && size >= LEND_MIN && size <= s->out.max) {
    rpc_link_put_ref(&s->link, RPC_RESULT, id, lent, size);
    rpc_server_put_usage(s);
    return;
  }
  if (s->link.waits && answer_lending(s, L, id, first, &failed)) {
    rpc_server_put_usage(s);
    return;
  }
  if (s->link.waits ? !failed : rpc_server_encode(s, L, first))
    rpc_link_put(&s->link, RPC_RESULT, id, &s->out, &s->out_fds);
  else
    rpc_server_refuse(s, id, 1);
  rpc_server_put_usage(s);
}
