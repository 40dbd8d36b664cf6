/* One step of the reactor: a turn of the loop, then each completion goes to whom it is
 * for, and sleep where there was none. Runs in the parent.
 *
 * Turning the loop never runs Lua and telling never turns the loop, so that callbacks may
 * wait. A callback may also suspend the coroutine that called step; then step goes on
 * where it was, for what it knows is on its stack. */
#include "bind/callback.h"
#include "bind/completion.h"
#include "bind/hook.h"
#include "bind/lua_reactor.h"
#include <string.h>

/* Its stack: the arguments, and what it needs again and again. */
enum { SECONDS = 1, WAIT, FD, EVENTS, DEADLINE, HANDLER, BASE = HANDLER };

/* What has come of it so far. */
struct progress {
  int told, batch; /* completions: told, and to be told before the next turn */
};

static lua_Number now(void) {
  return (lua_Number)uv_hrtime() / 1e9;
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

/* For who goes on after the coroutine was suspended: a step tells no more than a turn. */
enum { IN_CALLBACK = 1, BATCH_SHIFT = 1, TOLD_SHIFT = 12 };
_Static_assert(TOLD_A_TURN < 1 << (TOLD_SHIFT - BATCH_SHIFT), "a batch has room");

static lua_KContext packed(struct progress p, int stage) {
  return (lua_KContext)p.told << TOLD_SHIFT | (lua_KContext)p.batch << BATCH_SHIFT |
         stage;
}

static struct progress unpacked(lua_KContext ctx) {
  return (struct progress){(int)(ctx >> TOLD_SHIFT),
                           (int)(ctx >> BATCH_SHIFT) &
                               ((1 << (TOLD_SHIFT - BATCH_SHIFT)) - 1)};
}

static int resumed(lua_State *L, int status, lua_KContext ctx);

static void end_callback(lua_State *L, int status, struct progress p) {
  if (callback_end(L, status))
    lua_callk(L, 1, 0, packed(p, 0), resumed);
}

static void call_in_main(lua_State *L, struct box *box, int nargs,
                         const struct callback_place *before) {
  int status = lua_pcall(L, nargs, 0, HANDLER);
  callback_leave(box, before);
  if (status != LUA_OK) {
    callback_push_raised(L);
    lua_call(L, 1, 0);
  }
}

/* What completion_pop has pushed. */
static void tell(lua_State *L, struct box *box, int is_call, struct progress p) {
  struct callback_place before;
  if (!is_call && lua_type(L, BASE + 2) == LUA_TFUNCTION &&
      strcmp(lua_tostring(L, BASE + 1), "call") == 0) {
    lua_remove(L, BASE + 1);
    is_call = 1;
  }
  int n = lua_gettop(L) - BASE;
  if (!is_call) {
    luaL_checkstack(L, 1, NULL);
    lua_getiuservalue(L, lua_upvalueindex(1), CALLBACK_TELL);
    lua_insert(L, BASE + 1);
    lua_callk(L, n, 0, packed(p, 0), resumed);
  } else if (callback_enter(L, box, &before)) {
    call_in_main(L, box, n - 1, &before);
  } else {
    int handler = callback_begin(L, n - 1);
    end_callback(L, lua_pcallk(L, n - 1, 0, handler, packed(p, IN_CALLBACK), resumed), p);
  }
  lua_settop(L, BASE);
}

/* Until the wait has its answer: callbacks may wait, and take some of the batch. */
static struct progress tell_batch(lua_State *L, struct progress p) {
  struct box *box = box_get(L);
  while (p.batch > 0 && !is_settled(L)) {
    struct reactor *r = reactor_of(box);
    int is_call = 0;
    callback_prepare(L, box);
    if (!r || completion_pop(L, r, &is_call) == 0)
      break;
    p.batch--;
    p.told++;
    tell(L, box, is_call, p);
  }
  return p;
}

/* ---- the step ---- */

static int result(lua_State *L, struct progress p, int is_ready) {
  struct reactor *r = reactor_peek(L);
  lua_pushinteger(L, p.told);
  if (lua_isnil(L, DEADLINE))
    lua_pushnil(L);
  else
    lua_pushnumber(L, lua_tonumber(L, DEADLINE) - now());
  lua_pushboolean(L, r && reactor_outstanding(r));
  lua_pushboolean(L, is_ready);
  return 4;
}

/* Milliseconds to sleep, -1: without an end; or whether that is not wanted at all. */
static int may_sleep(lua_State *L, struct progress p, lua_Hook hook, int *ret_ms) {
  if (p.told > 0 || is_settled(L) || hook_is_new(L, hook))
    return 0;
  struct reactor *r = reactor_peek(L);
  lua_Number left = lua_isnil(L, DEADLINE) ? 1 : lua_tonumber(L, DEADLINE) - now();
  if (left <= 0)
    return 0;
  if (lua_isnil(L, WAIT) && lua_isnil(L, FD) && !(r && reactor_outstanding(r)))
    return 0;
  *ret_ms = lua_isnil(L, DEADLINE) ? -1 : bind_to_ms(left);
  return 1;
}

/* A signal ends it, too: its handler may want to run Lua, which only Lua code lets it. */
static int go_on(lua_State *L, struct progress p) {
  lua_Hook hook = lua_gethook(L);
  int ms, fd = (int)luaL_optinteger(L, FD, -1);
  short events = bind_to_poll(luaL_optstring(L, EVENTS, ""));
  for (;;) {
    p = tell_batch(L, p);
    if (!may_sleep(L, p, hook, &ms))
      return result(L, p, 0);
    int ready = lua_reactor_sleep(L, ms, fd, events);
    if (ready != 0)
      return result(L, p, ready > 0);
    p.batch = lua_reactor_turn(L);
  }
}

static int resumed(lua_State *L, int status, lua_KContext ctx) {
  struct progress p = unpacked(ctx);
  if (ctx & IN_CALLBACK)
    end_callback(L, status, p);
  lua_settop(L, BASE);
  return go_on(L, p);
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
  callback_push_handler(L);
  return go_on(L, (struct progress){0, lua_reactor_turn(L)});
}

const luaL_Reg bind_step_functions[] = {{"step", l_step}, {NULL, NULL}};
