/* One step of the reactor: a turn of the loop, then each completion goes to whom it is
 * for, and sleep where there was none. Runs in the parent.
 *
 * Turning the loop never runs Lua and telling never turns the loop, so that callbacks may
 * wait. A callback may also suspend the coroutine that called step; then step goes on
 * where it was, for what it knows is on its stack. */
#include "bind/callback.h"
#include "bind/completion.h"
#include "bind/lua_reactor.h"
#include <string.h>

/* Its stack: the arguments, and what has come of it so far. */
enum { SECONDS = 1, WAIT, FD, EVENTS, DEADLINE, TOLD, BATCH, BASE = BATCH };
enum stage { IN_CALLBACK, IN_TELL };

static lua_Number now(void) {
  return (lua_Number)uv_hrtime() / 1e9;
}

static void add(lua_State *L, int idx, lua_Integer n) {
  lua_pushinteger(L, lua_tointeger(L, idx) + n);
  lua_replace(L, idx);
}

/* ---- telling ---- */

static int is_settled(lua_State *L) {
  if (lua_isnil(L, WAIT))
    return 0;
  lua_getfield(L, WAIT, "done");
  int is = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return is;
}

static int resumed(lua_State *L, int status, lua_KContext stage);

static void end_callback(lua_State *L, int status) {
  if (callback_end(L, status))
    lua_callk(L, 1, 0, IN_TELL, resumed);
}

/* kind, target, error | nil, value... are on the stack. */
static void tell(lua_State *L) {
  int n = lua_gettop(L) - BASE;
  luaL_checkstack(L, 1, NULL);
  if (lua_type(L, BASE + 2) == LUA_TFUNCTION &&
      strcmp(lua_tostring(L, BASE + 1), "call") == 0) {
    lua_remove(L, BASE + 1);
    int handler = callback_begin(L, n - 2);
    end_callback(L, lua_pcallk(L, n - 2, 0, handler, IN_CALLBACK, resumed));
  } else {
    lua_getiuservalue(L, lua_upvalueindex(1), CALLBACK_TELL);
    lua_insert(L, BASE + 1);
    lua_callk(L, n, 0, IN_TELL, resumed);
  }
  lua_settop(L, BASE);
}

/* Until the wait has its answer: callbacks may wait, and take some of the batch. */
static void tell_batch(lua_State *L) {
  while (lua_tointeger(L, BATCH) > 0 && !is_settled(L)) {
    struct reactor *r = reactor_peek(L);
    callback_prepare(L);
    if (!r || completion_pop(L, r) == 0)
      break;
    add(L, BATCH, -1);
    add(L, TOLD, 1);
    tell(L);
  }
}

/* ---- the step ---- */

static int result(lua_State *L, int is_ready) {
  struct reactor *r = reactor_peek(L);
  lua_pushvalue(L, TOLD);
  if (lua_isnil(L, DEADLINE))
    lua_pushnil(L);
  else
    lua_pushnumber(L, lua_tonumber(L, DEADLINE) - now());
  lua_pushboolean(L, r && reactor_outstanding(r));
  lua_pushboolean(L, is_ready);
  return 4;
}

/* Milliseconds to sleep, -1: without an end; or whether that is not wanted at all. */
static int may_sleep(lua_State *L, int *ret_ms) {
  struct reactor *r = reactor_peek(L);
  lua_Number left = lua_isnil(L, DEADLINE) ? 1 : lua_tonumber(L, DEADLINE) - now();
  if (lua_tointeger(L, TOLD) > 0 || is_settled(L) || left <= 0)
    return 0;
  if (lua_isnil(L, WAIT) && lua_isnil(L, FD) && !(r && reactor_outstanding(r)))
    return 0;
  *ret_ms = lua_isnil(L, DEADLINE) ? -1 : bind_to_ms(left);
  return 1;
}

/* A signal ends it, too: its handler may want to run Lua, which only Lua code lets it. */
static int go_on(lua_State *L) {
  int ms, fd = (int)luaL_optinteger(L, FD, -1);
  short events = bind_to_poll(luaL_optstring(L, EVENTS, ""));
  for (;;) {
    tell_batch(L);
    if (!may_sleep(L, &ms))
      return result(L, 0);
    int ready = lua_reactor_sleep(L, ms, fd, events);
    if (ready != 0)
      return result(L, ready > 0);
    lua_pushinteger(L, lua_reactor_turn(L));
    lua_replace(L, BATCH);
  }
}

static int resumed(lua_State *L, int status, lua_KContext stage) {
  if (stage == IN_CALLBACK)
    end_callback(L, status);
  lua_settop(L, BASE);
  return go_on(L);
}

/* step(seconds | nil [, wait [, fd, events]]) -> how many completions it told, seconds
 * that are left | nil, is work outstanding?, is fd ready?
 *
 * It ends when some were told; when wait.done is true, a signal came, fd is ready or the
 * time is up; and without wait and fd when no work is outstanding. */
static int l_step(lua_State *L) {
  lua_settop(L, EVENTS);
  if (lua_isnoneornil(L, SECONDS))
    lua_pushnil(L);
  else
    lua_pushnumber(L, now() + luaL_checknumber(L, SECONDS));
  lua_pushinteger(L, 0);
  lua_pushinteger(L, lua_reactor_turn(L));
  return go_on(L);
}

const luaL_Reg bind_step_functions[] = {{"step", l_step}, {NULL, NULL}};
