/* Asynchronous calls: f(done, ...) on luv's loop, any number beside each other. Runs in
 * clones.
 *
 * luv is loaded from Lua and used through Lua only: its loop is its own, and the library
 * has no libuv here. Two of its handles are ours: one watches the socket, the other (a
 * uv_prepare) runs before the loop sleeps, and writes together what was answered
 * meanwhile. luv ends the program when a callback raises, so no callback of ours does.
 * Where one of the user's does, luv asks debug.traceback for a text, prints it, and calls
 * exit(3): we look over its shoulder at both, so that the text becomes the process's last
 * words.
 *
 * A function that can never be answered, because its `done` was collected, is answered
 * with an error by done's finaliser. */
#include "template/rpc/rpc_async.h"

#include "base/result.h"
#include "os/sock.h"
#include "os/term.h"
#include "template/lua/script.h"
#include "template/rpc/rpc_chunk.h"
#include "template/rpc/rpc_watch.h"
#include "template/serve/runner.h"
#include "template/server/server.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { READS_MAX = 16 }; /* before others have a turn */

struct token { /* a call that was entered */
  uint64_t id;
  int answered;
};
static const char token_key;

/* ---- done ---- */

static void settle(struct rpc_server *s, struct token *t) {
  t->answered = 1;
  s->unanswered--;
}

/* done(...) -> true; false: it was called before. Upvalue: the token */
static int l_done(lua_State *L) {
  struct token *t = lua_touserdata(L, lua_upvalueindex(1));
  struct rpc_server *s = rpc_server_self();
  int first = !t->answered && s->pid == getpid();
  if (first) {
    rpc_server_answer(s, L, t->id, 1);
    settle(s, t);
  }
  lua_pushboolean(L, first);
  return 1;
}

static int token_gc(lua_State *L) {
  struct token *t = lua_touserdata(L, 1);
  struct rpc_server *s = rpc_server_self();
  if (t->answered || s->pid != getpid())
    return 0;
  settle(s, t);
  if (buf_put_u64(&s->dropped, t->id) < 0)
    s->link.broken = 1;
  return 0;
}

/* Finalisers run in the middle of other things; so they only take a note. */
static void refuse_dropped(struct rpc_server *s) {
  struct reader r;
  size_t size = buf_size(&s->dropped);
  reader_init(&r, buf_peek(&s->dropped), size);
  while (reader_left(&r) > 0) {
    uint64_t id = reader_u64(&r);
    rpc_server_fail(s, FAILURE_REMOTE, "the function dropped done without calling it");
    rpc_server_refuse(s, id, 1);
  }
  buf_consume(&s->dropped, size);
}

static void push_done(lua_State *L, uint64_t id, struct token **ret) {
  struct token *t = lua_newuserdatauv(L, sizeof *t, 0);
  *t = (struct token){.id = id, .answered = 1}; /* until it is entered */
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &token_key) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, token_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &token_key);
  }
  lua_setmetatable(L, -2);
  lua_pushcclosure(L, l_done, 1);
  *ret = t;
}

/* ---- calls ---- */

struct job {
  struct rpc_server *s;
  const struct rpc_call *call;
  struct token
      *token; /* lives as long as the job: on the stack, or anchored by the slot */
  int entered, refused;
};

/* Protected. Stack: job | slot. The slot keeps done while the error, if any, is told. */
static int enter(lua_State *L) {
  struct job *job = lua_touserdata(L, 1);
  struct rpc_server *s = job->s;
  struct codec_error e;
  struct token *t;
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->function);
  push_done(L, job->call->id, &t);
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, 2, 1);
  int n = rpc_server_decode(s, L, job->call, &e);
  if (n < 0) {
    rpc_server_fail_codec(s, &e);
    job->refused = 1;
    return 0;
  }
  t->answered = 0;
  s->unanswered++;
  job->token = t;
  job->entered = 1;
  lua_call(L, n + 1, 0);
  return 0;
}

/* The function raised. Where it had called done before, only people can be told. */
static void tell_error(struct rpc_server *s, const struct job *job) {
  if (job->token && job->token->answered) {
    fprintf(stderr, "moonfork: after done: %.*s\n%.*s\n", (int)s->failure.nmessage,
            s->failure.message, (int)s->failure.ntraceback, s->failure.traceback);
    return;
  }
  rpc_server_refuse(s, job->call->id, job->entered);
  if (job->token)
    settle(s, job->token);
}

/* Stack: handler | slot. */
static void run_call(struct rpc_server *s, lua_State *L, const struct rpc_call *call,
                     int handler) {
  struct job job = {.s = s, .call = call};
  if (!rpc_server_begin(s, call))
    return;
  lua_pushcfunction(L, enter);
  lua_pushlightuserdata(L, &job);
  lua_pushvalue(L, handler + 1);
  int status = lua_pcall(L, 2, 0, handler);
  if (status != LUA_OK)
    rpc_server_complete(s, status);
  if (status != LUA_OK || job.refused)
    tell_error(s, &job);
  lua_settop(L, handler + 1);
  lua_pushnil(L);
  lua_setiuservalue(L, handler + 1, 1);
}

/* ---- turns ---- */

static _Noreturn void leave(int code) {
  server_exit(server_self(), code);
}

static int has_room(const struct rpc_server *s) {
  return s->unanswered < RPC_ASYNC_CALLS_MAX && s->link.out.nbytes <= RPC_ASYNC_BYTES_MAX;
}

/* Reads what is there. An end of file before END, or a broken protocol, is the end:
 * within this turn, whatever is outstanding. */
static int receive(struct rpc_server *s) { /* 1: something came */
  server_end_copy(server_self());
  ssize_t n = rpc_link_receive(&s->link, 0);
  if (n == -EAGAIN || n > 0)
    return n > 0;
  leave(n == 0 ? 0 : 1);
}

/* 1: there was no room for more, which may have been read already. */
static int take_calls(struct rpc_server *s, lua_State *L, int readable, int handler) {
  struct rpc_call call;
  for (int reads = 0; !s->ended && has_room(s);) {
    int got = rpc_link_next(&s->link, &call);
    if (got == RPC_REQUEST_CALL && call.chunk) {
      rpc_chunk_refuse(s, &call);
    } else if (got == RPC_REQUEST_CALL) {
      run_call(s, L, &call, handler);
    } else if (got == RPC_REQUEST_END) {
      s->ended = 1;
    } else if (got < 0 || got == RPC_REQUEST_FORK) {
      leave(1);
    } else if (!readable || reads++ == READS_MAX) {
      return 0;
    } else {
      readable = receive(s);
    }
  }
  return !s->ended;
}

/* Takes calls and sends answers until the socket or the calls say wait: nothing wakes us
 * for calls that were read already. Gives what rpc_link_send gave. */
static int work(struct rpc_server *s, lua_State *L, int readable) {
  int rc, full;
  do {
    full = take_calls(s, L, readable, 1);
    refuse_dropped(s);
    if (readable && s->ended)
      receive(s);
    if (readable && !has_room(s) && sock_hung_up(s->link.fd))
      leave(0);
    if (s->ended && s->unanswered == 0) {
      rpc_link_put(&s->link, RPC_BYE, 0, NULL, NULL);
      rpc_link_send(&s->link, 1);
      leave(0);
    }
    rc = rpc_link_send(&s->link, 0);
    if (rc < 0)
      leave(0);
    readable = 0;
  } while (full && has_room(s));
  return rc;
}

/* step(readable) -> what to watch the socket for; d: that the parent hangs up */
static int l_step(lua_State *L) {
  static const char *const wants[] = {"d", "r", "wd", "rw"};
  struct rpc_server *s = rpc_server_self();
  int readable = lua_toboolean(L, 1);
  lua_settop(L, 0);
  lua_pushcfunction(L, rpc_server_on_error);
  lua_newuserdatauv(L, 0, 1);
  int rc = work(s, L, readable);
  lua_pushstring(L, wants[(s->ended || has_room(s) ? 1 : 0) | (rc == MF_AGAIN ? 2 : 0)]);
  return 1;
}

/* rewatch(wants); upvalue: the descriptor of rpc_watch_open */
static int l_rewatch(lua_State *L) {
  int watch = (int)lua_tointeger(L, lua_upvalueindex(1));
  rpc_watch_set(watch, rpc_server_self()->link.fd, luaL_checkstring(L, 1));
  return 0;
}

/* Watches, and turns the loop until step leaves. rewatch is nil where fd is the socket.
 */
static const char driver[] =
    "local uv, fd, step, rewatch = require 'luv', ...\n"
    "local poll, prepare = assert(uv.new_poll(fd)), assert(uv.new_prepare())\n"
    "local watched\n"
    "local watch\n"
    "local function turn(readable)\n"
    "  local wanted = step(readable)\n"
    "  if wanted ~= watched then watch(wanted) end\n"
    "end\n"
    "local function on_ready(err, events)\n"
    "  turn(err ~= nil or events:find('[rd]') ~= nil)\n"
    "end\n"
    "function watch(wanted)\n"
    "  watched = wanted\n"
    "  if rewatch then rewatch(wanted) else poll:start(wanted, on_ready) end\n"
    "end\n"
    "if rewatch then poll:start('r', on_ready) end\n"
    "prepare:start(function() turn(false) end)\n"
    "turn(true)\n"
    "while not prepare:is_closing() do uv.run() end\n";

/* ---- errors of luv's callbacks ---- */

/* As luv's message handler calls it: from C, with a message and level 2. */
static int is_uncaught(lua_State *L) {
  lua_Debug caller;
  return lua_gettop(L) == 2 && lua_type(L, 1) == LUA_TSTRING && lua_isinteger(L, 2) &&
         lua_tointeger(L, 2) == 2 && lua_getstack(L, 1, &caller) &&
         lua_getinfo(L, "S", &caller) && *caller.what == 'C';
}

/* debug.traceback([thread,] [message [, level]]) with one frame more: this one. Upvalue:
 * the original */
static int l_traceback(lua_State *L) {
  if (is_uncaught(L)) {
    script_describe(L, 1, &server_self()->failure);
    rpc_server_self()->uncaught = 1;
  }
  int level = lua_isthread(L, 1) ? 0 : 2; /* another thread has no frame of ours */
  if (level) {
    lua_settop(L, 2);
    lua_pushinteger(L, luaL_optinteger(L, 2, 1) + 1);
    lua_replace(L, 2);
  }
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, 1);
  return 1;
}

/* Nothing else of ours gets here: the library leaves by _exit. */
static void on_exit_called(void) {
  struct rpc_server *s = rpc_server_self();
  if (s->state != RPC_SERVER_SERVING || s->pid != getpid() || !s->uncaught)
    return;
  runner_leave_words(server_self());
  leave(1);
}

static void watch_errors(lua_State *L) {
  int top = lua_gettop(L);
  if (lua_getglobal(L, "debug") == LUA_TTABLE &&
      lua_getfield(L, -1, "traceback") == LUA_TFUNCTION) {
    lua_pushcclosure(L, l_traceback, 1);
    lua_setfield(L, -2, "traceback");
    atexit(on_exit_called);
  }
  lua_settop(L, top);
}

void rpc_async_check(lua_State *L) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "luv");
  lua_call(L, 1, 0);
}

void rpc_async_serve(struct rpc_server *s, lua_State *L) {
  watch_errors(L);
  if (luaL_loadbuffer(L, driver, sizeof driver - 1, "=moonfork.rpc") != LUA_OK)
    lua_error(L);
  int watch = rpc_watch_open(s->link.fd);
  int wake =
      watch < 0 ? -1 : term_wake_fd(); /* luv's wait is no wait of ours (on_term.c) */
  if (wake >= 0)
    rpc_watch_also(watch, wake);
  lua_pushinteger(L, watch < 0 ? s->link.fd : watch);
  lua_pushcfunction(L, l_step);
  if (watch < 0) {
    lua_pushnil(L);
  } else {
    lua_pushinteger(L, watch);
    lua_pushcclosure(L, l_rewatch, 1);
  }
  lua_call(L, 3, 0);
  leave(0); /* somebody closed every handle of the loop, ours too */
}
