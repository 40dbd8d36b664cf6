#include "template/rpc/rpc_fork.h"

#include "os/fd.h"
#include "socket/handle.h"
#include "template/fork/promote.h"
#include "template/serve/entry.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <lauxlib.h>
#include <string.h>

enum { STRINGS_MAX = 64 * 1024 }; /* bytes that are kept for it, in each worker */
enum { SOCKET = 1 };
static const char arguments_key; /* of the registry: a list with n; false: too long */

void rpc_fork_remember(lua_State *L, int first, int nargs) {
  size_t bytes = 0;
  for (int i = first; i < first + nargs; i++)
    bytes += lua_type(L, i) == LUA_TSTRING ? lua_rawlen(L, i) : 0;
  if (nargs == 0)
    return;
  if (bytes > STRINGS_MAX) {
    lua_pushboolean(L, 0);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &arguments_key);
    return;
  }
  lua_createtable(L, nargs, 1);
  for (int i = 0; i < nargs; i++) {
    lua_pushvalue(L, first + i);
    lua_rawseti(L, -2, i + 1);
  }
  lua_pushinteger(L, nargs);
  lua_setfield(L, -2, "n");
  lua_createtable(L, 0, 1); /* weak: whether a handle stays open is init's business */
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &arguments_key);
}

/* Calls take(L, s, i) with each argument on top. May raise. */
static void each_argument(lua_State *L, struct server *s,
                          void (*take)(lua_State *L, struct server *s, int i)) {
  int type = lua_rawgetp(L, LUA_REGISTRYINDEX, &arguments_key);
  if (type == LUA_TBOOLEAN)
    luaL_error(L, "the arguments of init are longer than 64 KiB in all");
  if (type != LUA_TTABLE)
    return;
  lua_getfield(L, -1, "n");
  int n = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  for (int i = 1; i <= n; i++) {
    lua_rawgeti(L, -1, i);
    take(L, s, i);
    lua_pop(L, 1);
  }
}

static void check_argument(lua_State *L, struct server *s, int i) {
  (void)s;
  if (lua_type(L, -1) != LUA_TSTRING &&
      (lua_isnil(L, -1) || handle_check(L, lua_gettop(L)) < 0))
    luaL_error(L,
               "argument %d of init, a handle, is closed; workers of the new template "
               "would not get it",
               i);
}

static int l_check_arguments(lua_State *L) {
  each_argument(L, NULL, check_argument);
  return 0;
}

/* Whether workers of the copy can be given what this one was given: 0, or -1 with the
 * reason in the server's failure. */
static int check_arguments(lua_State *L, struct server *s) {
  lua_pushcfunction(L, l_check_arguments);
  if (lua_pcall(L, 0, 0, 0) == LUA_OK)
    return 0;
  size_t n;
  const char *text = lua_tolstring(L, -1, &n);
  failure_record_clear(&s->failure);
  s->failure.code = FAILURE_FORK;
  s->failure.phase = PHASE_FORK;
  failure_record_set_message(&s->failure, text ? text : "", text ? n : 0);
  lua_pop(L, 1);
  return -1;
}

/* ---- the copy ---- */

static void put_argument(lua_State *L, struct server *s, int i) {
  int r;
  (void)i;
  if (lua_type(L, -1) == LUA_TSTRING) {
    size_t n;
    const char *text = lua_tolstring(L, -1, &n);
    r = args_put_string(&s->args, text, n);
  } else {
    int fd = fd_dup(handle_check(L, lua_gettop(L)));
    r = fd < 0 ? fd : args_put_handle(&s->args, fd);
  }
  if (r < 0)
    luaL_error(L, "an argument can't be kept: %s", strerror(-r));
}

/* Protected. The socket is at index 1. */
static int l_leave_function(lua_State *L) {
  struct rpc_server *s = rpc_server_self();
  lua_getfield(L, SOCKET, "close");
  lua_pushvalue(L, SOCKET);
  lua_call(L, 1, 0);
  each_argument(L, server_self(), put_argument);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &arguments_key);
  luaL_unref(L, LUA_REGISTRYINDEX, s->function);
  return 0;
}

static int leave_function(struct server *sv) {
  struct rpc_server *s = rpc_server_self();
  lua_State *L = sv->L;
  int status;
  rpc_link_drop(&s->link);
  lua_pushcfunction(L, l_leave_function);
  lua_pushvalue(L, SOCKET);
  status = lua_pcall(L, 1, 0, 0);
  if (status != LUA_OK) {
    const char *text = lua_tostring(L, -1);
    server_fail_with(sv, FAILURE_NOMEM, PHASE_START, ENOMEM, "%s",
                     text ? text : "not enough memory");
    return -1;
  }
  buf_deinit(&s->out);
  buf_deinit(&s->event_out);
  buf_deinit(&s->dropped);
  codec_fds_close(&s->out_fds);
  codec_fds_close(&s->event_fds);
  memset(s, 0, sizeof *s); /* RPC_SERVER_NONE: its clones may serve again */
  return 0;
}

/* ---- the request ---- */

static void put_refusal(struct rpc_server *s, const struct server *sv, uint64_t id) {
  struct buf body;
  buf_init(&body, FRAME_BODY_MAX);
  if (failure_record_encode(&sv->failure, &body) < 0)
    s->link.broken = 1;
  else
    rpc_link_put(&s->link, RPC_FORK_FAILED, id, &body, NULL);
  buf_deinit(&body);
}

void rpc_fork_run(struct rpc_server *s, lua_State *L, const struct rpc_call *call) {
  struct server *sv = server_self();
  struct fdset fds;
  struct command c = {.type = CMD_FORK,
                      .id = call->id,
                      .body = call->body,
                      .length = call->size,
                      .fds = &fds,
                      .lost_fds = call->lost};
  int r = rpc_server_send(s); /* nothing is to be told twice */
  fdset_init(&fds);
  for (size_t i = 0; i < call->nfds && fds.n < FRAME_FDS_MAX; i++) {
    fdset_push(&fds, call->fds[i]);
    call->fds[i] = -1;
  }
  if (r == 0 && check_arguments(L, sv) < 0)
    r = -1;
  if (r == 0)
    r = promote_fork(sv, &c);
  if (r == SERVED_BORN) {
    promote_leave(sv, leave_function);
    entry_born(sv);
  }
  fdset_close(&fds);
  if (r == 0)
    rpc_link_put(&s->link, RPC_FORKED, call->id, NULL, NULL);
  else
    put_refusal(s, sv, call->id);
}
