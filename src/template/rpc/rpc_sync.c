/* Serving one call after the other. Runs in clones.
 *
 * Answers may be written together. A synchronous server can't write while a call is at
 * work, so it collects answers only as long as calls take next to no time; one slow call,
 * and each answer goes at once for a while. With RPC_STRICT it always does. */
#include "template/rpc/rpc_sync.h"

#include "base/result.h"
#include "os/proc.h"
#include "template/lua/on_term.h"
#include "template/rpc/rpc_chunk.h"
#include "template/rpc/rpc_fork.h"
#include "template/server/server.h"
#include "wire/rpc_proto.h"
#include <errno.h>

enum { QUICK_NS = 50 * 1000, QUICK_IN_A_ROW = 16, BATCH_NS = 500 * 1000 };

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
  if (!rpc_server_begin(s, call))
    return;
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

/* 0 to go on, or the parent is gone. */
static int wait_for_calls(struct rpc_server *s) {
  if (rpc_server_send(s) < 0)
    return -EPIPE;
  ssize_t n = rpc_link_receive(&s->link, 1);
  return n > 0 ? 0 : n == 0 ? -EPIPE : (int)n;
}

static void say_goodbye(struct rpc_server *s) {
  rpc_link_put(&s->link, RPC_BYE, 0, NULL, NULL);
  rpc_server_send(s);
}

/* 0: orderly or the parent is gone; else a negated errno. */
int rpc_sync_serve(struct rpc_server *s, lua_State *L) {
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
      if (rc == -EINTR) {
        on_term_safe_point(L);
        rc = 0;
      }
      began = proc_now_ns();
      continue;
    }
    if (got == RPC_REQUEST_FORK)
      rpc_fork_run(s, L, &call);
    else if (call.chunk)
      rpc_chunk_run(s, L, &call, handler);
    else
      run_call(s, L, &call, handler);
    uint64_t now = proc_now_ns();
    if (!may_wait(s, began, now))
      rc = rpc_server_send(s);
    began = now;
  }
  return rc == -EPIPE ? 0 : rc;
}
