/* The box of a Lua state, and what Lua asks of the reactor. Runs in the parent. */
#include "bind/lua_reactor.h"

#include "base/copied.h"
#include "bind/callback.h"
#include "bind/completion.h"
#include "bind/lua_trace.h"
#include "bind/reply.h"
#include "codec/classes.h"
#include "os/cpus.h"
#include "os/fdwait.h"
#include "os/proc.h"
#include "socket/wait.h"
#include "template/modules.h"
#include <pthread.h>
#include <sched.h>

/* ---- the box ---- */

static int end(lua_State *L, struct box *box) {
  struct reactor *r = box->reactor;
  box->closed = 1;
  box->reactor = NULL;
  if (!r || reactor_foreign(r) || !reactor_end(r))
    return 0;
  reply_stop_reading(r);
  completion_forget_all(r);
  reactor_free(L, r);
  return 0;
}

static int l_box_gc(lua_State *L) {
  return end(L, lua_touserdata(L, 1));
}

struct keeper {
  int of_others;
};

static int l_keeper_gc(lua_State *L) {
  const struct keeper *k = lua_touserdata(L, 1);
  return k->of_others ? 0 : end(L, lua_touserdata(L, lua_upvalueindex(1)));
}

/* A copy's box begins anew, with a keeper of its own. */
static int l_keeper_copied(lua_State *L) {
  ((struct keeper *)lua_touserdata(L, 1))->of_others = 1;
  return 0;
}

/* What a clone has made is finalised at its end, and what it has inherited, its box, is
 * not. */
static void keep(lua_State *L) {
  struct keeper *k = lua_newuserdatauv(L, sizeof *k, 0);
  k->of_others = 0;
  lua_createtable(L, 0, 2);
  reactor_copies(L, l_keeper_copied, NULL);
  lua_getfield(L, LUA_REGISTRYINDEX, BIND_BOX);
  lua_pushcclosure(L, l_keeper_gc, 1);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_setfield(L, LUA_REGISTRYINDEX, BIND_ID "keeper");
}

void lua_reactor_tell_copied(lua_State *L) {
  if (lua_getfield(L, LUA_REGISTRYINDEX, BIND_ID "copied") == LUA_TFUNCTION)
    lua_pcall(L, 0, 0, 0);
  else
    lua_pop(L, 1);
}

/* on_copied(f): f() in each copy of the interpreter, before anything else is done there */
static int l_on_copied(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_setfield(L, LUA_REGISTRYINDEX, BIND_ID "copied");
  return 0;
}

/* What it knows of its interpreter. */
static void box_know(lua_State *L, struct box *box) {
  luaL_getmetatable(L, BIND_OBJECT); /* nil: not yet there */
  luaL_getmetatable(L, BIND_PROCESS);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  box->object_class = lua_topointer(L, -3);
  box->raw_class = lua_topointer(L, -2);
  box->main = lua_tothread(L, -1);
  lua_pop(L, 3);
}

/* The reactor is the original's. In a copy in the same process it goes on there. */
static int l_box_copied(lua_State *L) {
  struct box *box = lua_touserdata(L, 1);
  *box = (struct box){.keep = keep};
  box_know(L, box);
  lua_reactor_tell_copied(L);
  return 0;
}

struct box *box_open(lua_State *L) {
  struct box *box = lua_newuserdatauv(L, sizeof(*box), CALLBACK_SLOTS);
  *box = (struct box){0};
  box_know(L, box);
  callback_open(L);
  luaL_newmetatable(L, BIND_BOX);
  lua_pushcfunction(L, l_box_gc);
  lua_setfield(L, -2, "__gc");
  reactor_copies(L, l_box_copied, NULL);
  lua_pushcfunction(L, l_box_gc);
  lua_setfield(L, -2, COPIED_END_FIELD);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  lua_setfield(L, LUA_REGISTRYINDEX, BIND_BOX);
  return box;
}

/* ---- functions ---- */

int lua_reactor_turn(lua_State *L) {
  struct reactor *r = reactor_peek(L);
  int n = 0;
  if (classes_at_work())
    return luaL_error(L, "the pack and unpack functions of a class can't wait");
  if (!r)
    return 0;
  reactor_tidy(L, r);
  reactor_turn(r);
  reply_read_on(L, r);
  if (mf_trace_failed())
    trace_tell(r);
  for (struct list *it = r->done.next; it != &r->done && n < TOLD_A_TURN; it = it->next)
    n++;
  return n;
}

static int l_turn(lua_State *L) { /* turn() */
  lua_reactor_turn(L);
  return 0;
}

static int l_outstanding(lua_State *L) { /* outstanding() -> boolean */
  struct reactor *r = reactor_peek(L);
  lua_pushboolean(L, r && reactor_outstanding(r));
  return 1;
}

static int l_timeout(lua_State *L) { /* timeout() -> seconds, for others; or nil: none */
  struct reactor *r = reactor_peek(L);
  int ms = r ? reactor_due(r) : -1;
  if (ms < 0)
    lua_pushnil(L);
  else
    lua_pushnumber(L, (lua_Number)ms / 1000);
  return 1;
}

/* fd() -> the descriptor for other loops, up to date; or nil, error */
static int l_fd(lua_State *L) {
  struct reactor *r = reactor_get(L);
  if (!r)
    return 2;
  r->exposed = 1;
  reactor_unattend(r, NULL);
  reactor_turn(r);
  lua_pushinteger(L, uv_backend_fd(&r->loop));
  return 1;
}

static int l_attention(lua_State *L) { /* attention(on) */
  struct reactor *r = reactor_peek(L);
  if (r) {
    r->attention = lua_toboolean(L, 1);
    reactor_arm(r);
  }
  return 0;
}

/* post(f) -> true: f(), or what tell does with another value, is a completion from now
 * on; or nil, error */
static int l_post(lua_State *L) {
  luaL_checkany(L, 1);
  struct reactor *r = reactor_get(L);
  if (!r)
    return 2;
  struct completion *c = completion_new(L, r, &completion_call, 1);
  if (!c)
    return bind_result_push(L, -ENOMEM);
  completion_done(c);
  reactor_arm(r);
  reactor_touch(r);
  return bind_result_push(L, 0);
}

/* In a clone that makes processes of its own, clone.on_term is looked after here as well.
 */
static int sleep_for(lua_State *L, struct pollfd *p, int n, int ms) {
  int attends = lua_getfield(L, LUA_REGISTRYINDEX, WAIT_ATTEND) != LUA_TNIL;
  lua_pop(L, 1);
  return attends ? wait_sleep(L, p, n, ms < 0 ? -1 : (double)ms / 1000)
                 : fdwait(p, n, ms);
}

static unsigned nprocessors;

static void count_processors(void) {
  nprocessors = cpus_usable();
}

/* Others go first wherever they want this processor: the clone that is to answer may. */
static int wait_busily(struct reactor *r, struct pollfd *p, int n) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  uint64_t until_ns = r ? mf_busy_wait(&r->loop) : 0;
  int ready = 0;
  if (until_ns == 0)
    return 0;
  pthread_once(&once, count_processors);
  if (nprocessors < 2)
    return 0;
  while ((ready = fdwait(p, n, 0)) == 0 && proc_now_ns() < until_ns)
    sched_yield();
  mf_busy_waited(&r->loop, ready != 0);
  return ready;
}

int lua_reactor_sleep(lua_State *L, int limit_ms, int fd, short events) {
  struct reactor *r = reactor_peek(L);
  int ms = r ? reactor_timeout(r) : -1;
  if (ms < 0 || (limit_ms >= 0 && limit_ms < ms))
    ms = limit_ms;
  struct pollfd fds[2] = {
      {.fd = fd, .events = events},
      {.fd = r ? uv_backend_fd(&r->loop) : -1, .events = POLLIN},
  };
  int n = ms ? wait_busily(r, fds, 2) : 0;
  if (n == 0)
    n = sleep_for(L, fds, 2, ms);
  return n < 0 ? -1 : n > 0 && fds[0].revents != 0;
}

static int l_block(lua_State *L) { /* block([seconds]): lua_reactor_sleep */
  lua_reactor_sleep(L, lua_isnoneornil(L, 1) ? -1 : bind_to_ms(luaL_checknumber(L, 1)),
                    -1, 0);
  return 0;
}

static int l_copied(lua_State *L) { /* copied() -> made by a process this is a copy of? */
  struct box *box = box_get(L);
  lua_pushboolean(L, box->reactor && reactor_foreign(box->reactor));
  return 1;
}

static int l_let_go(lua_State *L) { /* let_go() -> was there something to let go of? */
  lua_pushboolean(L, reactor_let_go(L));
  return 1;
}

/* on_birth(f) -> true: f() in each clone of this template, before any other code there;
 * nothing where moonfork.clone was not opened */
static int l_on_birth(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  if (lua_getfield(L, LUA_REGISTRYINDEX, TEMPLATE_ON_BIRTH) != LUA_TFUNCTION)
    return 0;
  lua_pushvalue(L, 1);
  lua_call(L, 1, 0);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_on_making(lua_State *L) { /* on_making(f): f() before a reactor is made */
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_setfield(L, LUA_REGISTRYINDEX, BIND_ID "making");
  return 0;
}

/* loop_room() -> true: libuv can make a loop; or nil, error */
static int l_loop_room(lua_State *L) {
  int rc = mf_check_loop_room();
  if (rc == 0)
    return bind_result_push(L, 0);
  return reactor_refuse(L, rc);
}

static int l_now(lua_State *L) { /* now() -> seconds of a clock that only goes forward */
  lua_pushnumber(L, (lua_Number)uv_hrtime() / 1e9);
  return 1;
}

static int l_reset(lua_State *L) { /* reset() -> true; or nil, error */
  struct reactor *r = reactor_peek(L);
  if (!r) {
    mf_drop_early();
    return bind_result_push(L, 0);
  }
  r->turned = 0;
  return bind_result_push(L, mf_reset(&r->loop));
}

const luaL_Reg bind_reactor_functions[] = {
    {"turn", l_turn},           {"outstanding", l_outstanding},
    {"timeout", l_timeout},     {"fd", l_fd},
    {"attention", l_attention}, {"post", l_post},
    {"block", l_block},         {"copied", l_copied},
    {"loop_room", l_loop_room}, {"now", l_now},
    {"reset", l_reset},         {"on_copied", l_on_copied},
    {"let_go", l_let_go},       {"on_birth", l_on_birth},
    {"on_making", l_on_making}, {NULL, NULL},
};
