/* The start of a server, and what its function may call: events, retire, flush. Runs in
 * clones. */
#include "codec/classes.h"
#include "socket/handle.h"
#include "template/lua/script.h"
#include "template/modules.h"
#include "template/rpc/rpc_async.h"
#include "template/rpc/rpc_fork.h"
#include "template/rpc/rpc_server.h"
#include "template/rpc/rpc_sync.h"
#include "template/server/server.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <lauxlib.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <string.h>
#include <unistd.h>

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
    luaL_error(L,
               "moonfork.rpc: the parent speaks version %d of the rpc protocol, this "
               "template %d",
               (int)version, RPC_VERSION);
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

/* init may load what the serialiser needs, and may make events: it is opened for the
 * first of them, or after init. */
static void open_serialiser(struct rpc_server *s, lua_State *L) {
  if (!s->serialiser_name)
    return;
  serialiser_open(L, s->serialiser_name, &s->serialiser);
  s->serialiser_name = NULL;
  s->serialiser.reads = "argument";
  s->serialiser.push_last = rpc_server_push_last;
  s->serialiser.push_data = s;
  s->link.aligns = !serialiser_is_raw(&s->serialiser);
  s->serialiser.strict_classes = (s->flags & RPC_STRICT_CLASSES) != 0;
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
  struct rpc_server *s = rpc_server_serving();
  if (s)
    rpc_link_send(&s->link, 1);
}

static void leave_failed(struct rpc_server *s) {
  s->failure.phase = PHASE_FUNCTION;
  rpc_server_put_failure(s, RPC_FAILED, 0);
  int gone = rpc_server_send(s) < 0; /* then that may be why it failed */
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
  server_mark_original();
  s->state = RPC_SERVER_INIT;
  server_self()->before_exit = before_exit;
  put_hello(s, p->body_max);
  rpc_server_send(s);
}

/* An asynchronous server's answers of some megabytes come and go. As mappings of their
 * own (glibc's way from 128 KiB on) each would begin with a page fault for every page. */
static void keep_big_blocks(void) {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 16 << 20);
  mallopt(M_TRIM_THRESHOLD, 32 << 20);
#endif
}

/* serve(socket, ..., parameters): the function of an rpc's run. */
static int l_serve(lua_State *L) {
  struct rpc_server *s = rpc_server_self();
  struct parameters p;
  int nargs = lua_gettop(L) - 2;
  if (!s)
    return luaL_error(L, "not enough memory");
  if (!server_self() || rpc_server_serving() || nargs < 0 ||
      lua_type(L, -1) != LUA_TSTRING)
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
  if (s->flags & RPC_FORKS)
    rpc_fork_remember(L, 2, nargs);
  failure_record_clear(&s->failure);
  int status = lua_pcall(L, nargs + 1, 0, held + 1);
  server_end_copy(server_self());
  if (status != LUA_OK) {
    rpc_server_complete(s, status);
    leave_failed(s);
  }
  lua_settop(L, 1); /* the socket stays open; what init was given is its own business */
  s->state = RPC_SERVER_SERVING;
  rpc_link_put(&s->link, RPC_READY, 0, NULL, NULL);
  if (rpc_server_send(s) < 0)
    return 0;
  if (s->flags & RPC_ASYNC) {
    keep_big_blocks();
    rpc_async_serve(s, L);
  }
  int rc = rpc_sync_serve(s, L);
  s->state = RPC_SERVER_NONE;
  if (rc < 0)
    return luaL_error(L, "moonfork.rpc: %s",
                      rc == -EPROTO ? "protocol error of the parent" : strerror(-rc));
  return 0;
}

/* ---- for the function ---- */

static struct rpc_server *check_serving(lua_State *L, const char *what) {
  struct rpc_server *s = rpc_server_serving();
  if (!s)
    luaL_error(L, "%s: this process is no rpc server", what);
  else if (s->link.broken && s->flags & RPC_ASYNC)
    server_exit(server_self(), 0); /* an error would be printed by luv */
  else if (s->link.broken)
    luaL_error(L, "%s: the parent is gone", what);
  return s;
}

/* What is made between calls goes at once; an asynchronous server's before it waits. */
static void send_event(struct rpc_server *s) {
  if (!(s->flags & RPC_ASYNC))
    rpc_server_send(s);
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
                             rpc_server_handles(s, &s->event_fds), &e);
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
  struct rpc_server *s = rpc_server_serving();
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
  static const luaL_Reg functions[] = {{"serve", l_serve},
                                       {"event", l_event},
                                       {"flush", l_flush},
                                       {"register", classes_register},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}

int template_open_pool(lua_State *L) {
  static const luaL_Reg functions[] = {{"retire", l_retire}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
