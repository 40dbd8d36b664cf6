/* The server of an rpc: start, synchronous calls, events, the end. Runs in clones.
 *
 * Answers may be written together. A synchronous server can't write while a call is at
 * work, so it collects answers only as long as calls take next to no time; one slow call,
 * and each answer goes at once for a while. With RPC_STRICT it always does. */
#include "template/rpc/rpc_server.h"

#include "base/result.h"
#include "socket/handle.h"
#include "os/proc.h"
#include "template/entry.h"
#include "template/script.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <lauxlib.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <string.h>
#include <unistd.h>

enum {
  QUICK_NS = 50 * 1000,
  QUICK_IN_A_ROW = 16,
  BATCH_NS = 500 * 1000,
  LEND_MIN = 32 * 1024 /* bytes of a result that is not copied */
};

static struct rpc_server the_server; /* large; its pages are touched only by an rpc */

struct rpc_server *rpc_server_self(void) {
  return &the_server;
}

static struct rpc_server *serving(void) {
  struct rpc_server *s = &the_server;
  return s->state != RPC_SERVER_NONE && s->pid == getpid() ? s : NULL;
}

/* ---- failures ---- */

int rpc_server_on_error(lua_State *L) {
  script_describe(L, 1, &the_server.failure);
  the_server.failure.code = FAILURE_REMOTE;
  lua_settop(L, 1);
  return 1;
}

void rpc_server_fail(struct rpc_server *s, int code, const char *text) {
  failure_clear(&s->failure);
  s->failure.code = code;
  failure_set_message(&s->failure, text, strlen(text));
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

/* A long body that is one string becomes that string where it lies: Lua writes its header
 * before it, and copies the characters onto themselves. */
static void push_in_place(struct rpc_server *s, lua_State *L, struct gather *g) {
  s->offering = 1;
  heap_offer(s->link.heap, g->map, g->map_size, g->lead + g->length + 1);
  lua_pushlstring(L, (const char *)gather_body(g), g->length);
  end_offer(s);
}

static int fits_in_place(const struct rpc_server *s, struct gather *g) {
  size_t need = g->lead + g->length + 1;
  if (!serialiser_is_raw(&s->serialiser) || !s->link.heap || g->lead == 0 ||
      g->length < HEAP_BIG)
    return 0;
  return (need <= g->map_size && g->map_size - need <= g->map_size / 4) ||
         gather_fit(g, 1) == 0;
}

int rpc_server_decode(struct rpc_server *s, lua_State *L, const struct rpc_call *call,
                      struct codec_error *e) {
  if (call->gather && fits_in_place(s, call->gather)) {
    push_in_place(s, L, call->gather);
    return 1;
  }
  return serialiser_decode(L, &s->serialiser, call->body, call->size, call->fds,
                           call->nfds, e);
}

/* ---- failures that were raised ---- */

void rpc_server_complete(struct rpc_server *s, int status) {
  if (s->offering) /* no memory for a string */
    end_offer(s);
  if (status == LUA_ERRMEM)
    rpc_server_fail(s, FAILURE_NOMEM, "not enough memory");
  else if (s->failure.nmessage == 0)
    rpc_server_fail(s, FAILURE_REMOTE, "error without a message");
  s->failure.code = status == LUA_ERRMEM ? FAILURE_NOMEM : FAILURE_REMOTE;
}

static void put_failure(struct rpc_server *s, unsigned type, uint64_t id) {
  struct buf body;
  buf_init(&body, FRAME_BODY_MAX);
  if (failure_encode(&s->failure, &body) < 0)
    s->link.broken = 1;
  else
    rpc_link_put(&s->link, type, id, &body, NULL);
  buf_deinit(&body);
}

void rpc_server_refuse(struct rpc_server *s, uint64_t id, int entered) {
  s->failure.phase = entered ? 0 : 1; /* of an rpc failure: the function was not entered */
  s->failure.error = 0;
  put_failure(s, RPC_ERROR, id);
}

/* ---- answers ---- */

static struct codec_fds *welcome(struct rpc_server *s, struct codec_fds *fds) {
  return s->flags & RPC_TAKES_HANDLES ? fds : NULL;
}

static void put_usage(struct rpc_server *s) {
  struct proc_memory m;
  uint64_t now = proc_now_ns();
  if (!(s->flags & RPC_MEASURED) || now < s->usage_next_ns)
    return;
  s->usage_next_ns = now + s->usage_interval_ns;
  if (proc_memory(0, &m) < 0)
    return;
  struct buf body;
  buf_init(&body, 64);
  if (buf_put_u64(&body, m.uss) == 0)
    rpc_link_put(&s->link, RPC_USAGE, 0, &body, NULL);
  buf_deinit(&body);
}

void rpc_server_answer(struct rpc_server *s, lua_State *L, uint64_t id, int first) {
  struct codec_error e;
  int n = lua_gettop(L) - first + 1;
  size_t size;
  const char *lent = s->link.waits ? serialiser_borrow(L, &s->serialiser, first, n, &size)
                                   : NULL;
  if (lent && size >= LEND_MIN && size <= s->out.max) {
    rpc_link_put_ref(&s->link, RPC_RESULT, id, lent, size);
    put_usage(s);
    return;
  }
  buf_consume(&s->out, buf_size(&s->out)); /* what an error may have left there */
  codec_fds_close(&s->out_fds);
  int rc = serialiser_encode(L, &s->serialiser, first, n, "result", &s->out,
                             welcome(s, &s->out_fds), &e);
  if (rc == 0) {
    rpc_link_put(&s->link, RPC_RESULT, id, &s->out, &s->out_fds);
  } else {
    codec_fds_close(&s->out_fds);
    rpc_server_fail_codec(s, &e);
    rpc_server_refuse(s, id, 1);
  }
  put_usage(s);
}

/* ---- synchronous calls ---- */

struct job {
  struct rpc_server *s;
  const struct rpc_call *call;
  int entered, answered;
};

/* Protected: decodes, calls, encodes. */
static int enter(lua_State *L) {
  struct job *job = lua_touserdata(L, 1);
  struct rpc_server *s = job->s;
  struct codec_error e;
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->function);
  int n = rpc_server_decode(s, L, job->call, &e);
  if (n < 0) {
    rpc_server_fail_codec(s, &e);
    return 0;
  }
  job->entered = 1;
  lua_call(L, n, LUA_MULTRET);
  server_end_copy(server_self());
  rpc_server_answer(s, L, job->call->id, 2);
  job->answered = 1;
  return 0;
}

static void run_call(struct rpc_server *s, lua_State *L, const struct rpc_call *call,
                     int handler) {
  struct job job = {.s = s, .call = call};
  if (call->lost) {
    rpc_server_fail(s, FAILURE_LIMIT,
                    "no free descriptor for the handles of the call (limit nofile)");
    rpc_server_refuse(s, call->id, 0);
    return;
  }
  failure_clear(&s->failure);
  lua_pushcfunction(L, enter);
  lua_pushlightuserdata(L, &job);
  int status = lua_pcall(L, 1, 0, handler);
  server_end_copy(server_self());
  if (status != LUA_OK)
    rpc_server_complete(s, status);
  lua_settop(L, handler);
  if (!job.answered)
    rpc_server_refuse(s, call->id, job.entered);
}

/* Whether the answers that are queued may wait for more. */
static int may_wait(struct rpc_server *s, uint64_t began_ns, uint64_t now_ns) {
  s->quick = now_ns - began_ns < QUICK_NS ? s->quick + 1 : 0;
  if (!s->batch_since_ns)
    s->batch_since_ns = now_ns;
  return !(s->flags & RPC_STRICT) && s->quick >= QUICK_IN_A_ROW &&
         now_ns - s->batch_since_ns < BATCH_NS && s->link.out.nbytes < RPC_BATCH_BYTES;
}

static int send_all(struct rpc_server *s) {
  s->batch_since_ns = 0;
  return rpc_link_send(&s->link, 1);
}

/* 0 to go on, or the parent is gone. */
static int wait_for_calls(struct rpc_server *s) {
  if (send_all(s) < 0)
    return -EPIPE;
  ssize_t n = rpc_link_receive(&s->link, 1);
  return n > 0 ? 0 : n == 0 ? -EPIPE : (int)n;
}

static void say_goodbye(struct rpc_server *s) {
  rpc_link_put(&s->link, RPC_BYE, 0, NULL, NULL);
  send_all(s);
}

/* 0: orderly or the parent is gone; else a negated errno. */
static int serve_calls(struct rpc_server *s, lua_State *L) {
  struct rpc_call call;
  int rc = 0;
  lua_pushcfunction(L, rpc_server_on_error);
  int handler = lua_gettop(L);
  uint64_t began = proc_now_ns();
  while (rc == 0) {
    int got = rpc_link_next(&s->link, &call);
    if (got < 0)
      return got;
    if (got == RPC_REQUEST_END) {
      say_goodbye(s);
      return 0;
    }
    if (got == MF_AGAIN) {
      rc = wait_for_calls(s);
      began = proc_now_ns();
      continue;
    }
    run_call(s, L, &call, handler);
    uint64_t now = proc_now_ns();
    if (!may_wait(s, began, now))
      rc = send_all(s);
    began = now;
  }
  return rc == -EPIPE ? 0 : rc;
}

/* ---- start ---- */

struct parameters {
  size_t body_max;
  const char *function, *init, *serialiser;
  size_t nfunction, ninit;
};

static const char *push_str(lua_State *L, struct reader *r, size_t *n) {
  const char *p = reader_str(r, n);
  return lua_pushlstring(L, p ? p : "", *n);
}

/* Takes the last argument, leaving its three strings on the stack. */
static void read_parameters(lua_State *L, struct rpc_server *s, struct parameters *ret) {
  size_t size, n;
  const char *text = lua_tolstring(L, -1, &size);
  struct reader r;
  reader_init(&r, text, size);
  unsigned long magic = reader_u32(&r), version = reader_u16(&r);
  if (magic != RPC_MAGIC || version != RPC_VERSION)
    luaL_error(L, "moonfork.rpc: the parent speaks version %d of the rpc protocol, this "
                  "template %d", (int)version, RPC_VERSION);
  s->flags = reader_u16(&r);
  ret->body_max = (size_t)reader_u64(&r);
  s->usage_interval_ns = reader_u32(&r) * UINT64_C(1000000);
  luaL_checkstack(L, 8, NULL);
  ret->function = push_str(L, &r, &ret->nfunction);
  ret->init = push_str(L, &r, &ret->ninit);
  ret->serialiser = push_str(L, &r, &n);
  if (!r.ok)
    luaL_error(L, "moonfork.rpc: malformed parameters");
}

/* init may load what the serialiser needs, and may make events: it is opened for the first
 * of them, or after init. */
static void open_serialiser(struct rpc_server *s, lua_State *L) {
  if (!s->serialiser_name)
    return;
  serialiser_open(L, s->serialiser_name, &s->serialiser);
  s->serialiser_name = NULL;
}

struct start {
  struct rpc_server *s;
  const struct parameters *p;
};

/* Protected. Stack: start | the arguments of init. */
static int prepare(lua_State *L) {
  const struct start *start = lua_touserdata(L, 1);
  const struct parameters *p = start->p;
  struct rpc_server *s = start->s;
  if (s->flags & RPC_ASYNC)
    rpc_async_check(L);
  if (p->ninit > 0) {
    script_push_function(L, p->init, p->ninit);
    lua_replace(L, 1);
    lua_call(L, lua_gettop(L) - 1, 0);
  }
  lua_settop(L, 0);
  open_serialiser(s, L);
  script_push_function(L, p->function, p->nfunction);
  s->function = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

static void put_hello(struct rpc_server *s, uint64_t body_max) {
  struct buf body;
  buf_init(&body, 64);
  int rc = buf_put_u32(&body, RPC_MAGIC);
  if (rc == 0)
    rc = buf_put_u16(&body, RPC_VERSION);
  if (rc == 0)
    rc = buf_put_u16(&body, 0);
  if (rc == 0)
    rc = buf_put_u64(&body, body_max);
  s->link.broken |= rc < 0;
  rpc_link_put(&s->link, RPC_HELLO, 0, &body, NULL);
  buf_deinit(&body);
}

/* What was queued is written before the process leaves, whoever ends it. */
static void before_exit(void) {
  struct rpc_server *s = serving();
  if (s)
    rpc_link_send(&s->link, 1);
}

static void leave_failed(struct rpc_server *s) {
  s->failure.phase = PHASE_FUNCTION;
  put_failure(s, RPC_FAILED, 0);
  int gone = send_all(s) < 0; /* then that may be why it failed */
  server_exit(server_self(), gone ? 0 : 1);
}

static void start_link(struct rpc_server *s, int fd, const struct parameters *p) {
  rpc_link_init(&s->link, fd, p->body_max, server_self()->args.lead, server_self()->heap);
  buf_init(&s->out, p->body_max);
  buf_init(&s->event_out, p->body_max);
  s->out.keep = s->event_out.keep = LINK_KEEP;
  s->link.waits = !(s->flags & RPC_ASYNC);
  buf_init(&s->dropped, SIZE_MAX);
  s->serialiser_name = p->serialiser; /* on serve's stack during init */
  s->pid = getpid();
  s->state = RPC_SERVER_INIT;
  server_before_exit = before_exit;
  put_hello(s, p->body_max);
  send_all(s);
}

/* An asynchronous server's answers of some megabytes come and go. As mappings of their own
 * (glibc's way from 128 KiB on) each would begin with a page fault for every page. */
static void keep_big_blocks(void) {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 16 << 20);
  mallopt(M_TRIM_THRESHOLD, 32 << 20);
#endif
}

/* serve(socket, ..., parameters): the function of an rpc's run. */
static int l_serve(lua_State *L) {
  struct rpc_server *s = &the_server;
  struct parameters p;
  int nargs = lua_gettop(L) - 2;
  if (!server_self() || serving() || nargs < 0 || lua_type(L, -1) != LUA_TSTRING)
    return luaL_error(L, "moonfork.rpc.serve: only p:rpc and p:pool may call it");
  int fd = handle_check(L, 1);
  if (fd < 0)
    return lua_error(L);
  lua_pushvalue(L, -1);
  read_parameters(L, s, &p);
  int held = lua_gettop(L);
  start_link(s, fd, &p);
  struct start start = {s, &p};
  luaL_checkstack(L, nargs + 8, NULL);
  lua_pushcfunction(L, rpc_server_on_error);
  lua_pushcfunction(L, prepare);
  lua_pushlightuserdata(L, &start);
  for (int i = 0; i < nargs; i++)
    lua_pushvalue(L, 2 + i);
  failure_clear(&s->failure);
  int status = lua_pcall(L, nargs + 1, 0, held + 1);
  server_end_copy(server_self());
  if (status != LUA_OK) {
    rpc_server_complete(s, status);
    leave_failed(s);
  }
  lua_settop(L, 1); /* the socket stays open; what init was given is its own business */
  s->state = RPC_SERVER_SERVING;
  rpc_link_put(&s->link, RPC_READY, 0, NULL, NULL);
  if (send_all(s) < 0)
    return 0;
  if (s->flags & RPC_ASYNC) {
    keep_big_blocks();
    rpc_async_serve(s, L);
  }
  int rc = serve_calls(s, L);
  s->state = RPC_SERVER_NONE;
  if (rc < 0)
    return luaL_error(L, "moonfork.rpc: %s", rc == -EPROTO ? "protocol error of the parent"
                                                           : strerror(-rc));
  return 0;
}

/* ---- for the function ---- */

static struct rpc_server *check_serving(lua_State *L, const char *what) {
  struct rpc_server *s = serving();
  if (!s)
    luaL_error(L, "%s: this process is no rpc server", what);
  if (s->link.broken && s->flags & RPC_ASYNC)
    server_exit(server_self(), 0); /* an error would be printed by luv */
  if (s->link.broken)
    luaL_error(L, "%s: the parent is gone", what);
  return s;
}

/* What is made between calls goes at once; an asynchronous server's before it waits. */
static void send_event(struct rpc_server *s) {
  if (!(s->flags & RPC_ASYNC))
    send_all(s);
}

/* event(...) -> true; or nil, message, code */
static int l_event(lua_State *L) {
  struct rpc_server *s = check_serving(L, "event");
  struct codec_error e;
  int n = lua_gettop(L);
  open_serialiser(s, L);
  buf_consume(&s->event_out, buf_size(&s->event_out));
  codec_fds_close(&s->event_fds);
  int rc = serialiser_encode(L, &s->serialiser, 1, n, "argument", &s->event_out,
                             welcome(s, &s->event_fds), &e);
  if (rc < 0) {
    codec_fds_close(&s->event_fds);
    luaL_pushfail(L);
    lua_pushstring(L, e.text);
    lua_pushstring(L, rc == -E2BIG ? "LIMIT" : "EINVAL");
    return 3;
  }
  rpc_link_put(&s->link, RPC_EVENT, 0, &s->event_out, &s->event_fds);
  send_event(s);
  lua_pushboolean(L, 1);
  return 1;
}

/* flush() -> true: all is written; false: the parent is gone */
static int l_flush(lua_State *L) {
  struct rpc_server *s = serving();
  lua_pushboolean(L, !s || rpc_link_send(&s->link, 1) == 0);
  return 1;
}

/* retire(): no new calls for this worker; once is enough */
static int l_retire(lua_State *L) {
  struct rpc_server *s = check_serving(L, "retire");
  if (s->retired)
    return 0;
  s->retired = 1;
  rpc_link_put(&s->link, RPC_RETIRE, 0, NULL, NULL);
  send_event(s);
  return 0;
}

int template_open_rpc(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"serve", l_serve}, {"event", l_event}, {"flush", l_flush}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}

int template_open_pool(lua_State *L) {
  static const luaL_Reg functions[] = {{"retire", l_retire}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
