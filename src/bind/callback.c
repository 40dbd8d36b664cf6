/* Calls of the program's functions. Runs in the parent. */
#include "bind/callback.h"

#include "bind/reactor.h"

/* ---- how deep ---- */

/* box.user value n = {}, weak as mode says */
static void set_weak(lua_State *L, int box, int n, const char *mode) {
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushstring(L, mode);
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_setiuservalue(L, box, n);
}

static void forget_all(lua_State *L, int box) {
  set_weak(L, box, CALLBACK_LEVELS, "k"); /* by coroutine: of callbacks in it */
  set_weak(L, box, CALLBACK_NEWEST, "v"); /* [1]: where the newest callback runs */
  lua_getiuservalue(L, box, CALLBACK_NEWEST);
  lua_pushboolean(L, 0);
  lua_rawseti(L, -2, 1);
  lua_pop(L, 1);
  ((struct box *)lua_touserdata(L, box))->callbacks =
      (struct callback_place){0, CALLBACK_NOWHERE};
}

void callback_open(lua_State *L) {
  forget_all(L, lua_absindex(L, -1));
}

static void push_slot(lua_State *L, int n) {
  lua_getiuservalue(L, lua_upvalueindex(1), n);
}

/* The coroutine of the newest callback that is in none but the main one; or nil. */
static void push_elsewhere(lua_State *L) {
  push_slot(L, CALLBACK_NEWEST);
  lua_rawgeti(L, -1, 1);
  lua_remove(L, -2);
}

int callback_is_running(lua_State *L) {
  const struct box *box = box_get(L);
  if (box->callbacks.level > 0)
    return 1;
  if (box->callbacks.newest != CALLBACK_ELSEWHERE)
    return 0;
  push_elsewhere(L);
  int is = lua_isthread(L, -1);
  lua_pop(L, 1);
  return is;
}

/* It has resumed another coroutine and waits for that. */
static int is_normal(lua_State *co) {
  lua_Debug frame;
  return lua_status(co) == LUA_OK && lua_getstack(co, 0, &frame);
}

/* Of the coroutine on top, which is popped. */
static lua_Integer pop_level(lua_State *L) {
  push_slot(L, CALLBACK_LEVELS);
  lua_insert(L, -2);
  lua_rawget(L, -2);
  lua_Integer level = lua_tointeger(L, -1);
  lua_pop(L, 2);
  return level;
}

static lua_Integer greater(lua_Integer a, lua_Integer b) {
  return a > b ? a : b;
}

/* How many callbacks are inside each other here. A coroutine that a callback started is
 * as deep as the callback. While the main one runs, no other has started it. */
static lua_Integer depth(lua_State *L, const struct box *box) {
  const struct callback_place *place = &box->callbacks;
  lua_Integer level =
      L == box->main || place->newest == CALLBACK_IN_MAIN ? place->level : 0;
  if (L == box->main && place->newest != CALLBACK_ELSEWHERE)
    return level;
  if (place->newest == CALLBACK_ELSEWHERE) {
    push_elsewhere(L);
    lua_State *outer = lua_tothread(L, -1);
    if (outer && outer != L && is_normal(outer))
      level = greater(level, pop_level(L));
    else
      lua_pop(L, 1);
  }
  lua_pushthread(L);
  return greater(level, pop_level(L));
}

/* ---- calling ---- */

static int is_simple(lua_State *L, const struct box *box) {
  return L == box->main && !lua_isyieldable(L);
}

int callback_enter(lua_State *L, struct box *box, struct callback_place *ret_before) {
  if (!is_simple(L, box))
    return 0;
  *ret_before = box->callbacks;
  box->callbacks.level = (int)depth(L, box) + 1;
  box->callbacks.newest = CALLBACK_IN_MAIN;
  return 1;
}

void callback_leave(struct box *box, const struct callback_place *before) {
  box->callbacks = *before;
}

void callback_push_handler(lua_State *L) {
  push_slot(L, CALLBACK_TRACEBACK);
}

void callback_push_raised(lua_State *L) {
  push_slot(L, CALLBACK_RAISED);
  lua_insert(L, -2);
}

/* An entry for this coroutine, whose key and value then only have to be changed. */
void callback_prepare(lua_State *L, const struct box *box) {
  luaL_checkstack(L, 2 * LUA_MINSTACK, NULL);
  if (is_simple(L, box))
    return;
  push_slot(L, CALLBACK_LEVELS);
  lua_pushthread(L);
  if (lua_rawget(L, -2) == LUA_TNIL) {
    lua_pushthread(L);
    lua_pushinteger(L, 0);
    lua_rawset(L, -4);
  }
  lua_pop(L, 2);
}

/* The levels, newest[], the level of this coroutine (nil: 0), the newest elsewhere, and
 * whether the newest is that or where. */
static void push_place(lua_State *L) {
  push_slot(L, CALLBACK_LEVELS);
  push_slot(L, CALLBACK_NEWEST);
  lua_pushthread(L);
  lua_rawget(L, -3);
  lua_rawgeti(L, -2, 1);
  lua_pushinteger(L, box_get(L)->callbacks.newest);
}

/* Stack afterwards: the place of before, the message handler, the function and its
 * arguments. */
int callback_begin(lua_State *L, int nargs) {
  enum { PUSHED = 6 };
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  lua_Integer inside = depth(L, box_get(L)) + 1;
  push_place(L);
  lua_pushthread(L);
  lua_rawseti(L, -5, 1);
  lua_pushthread(L);
  lua_pushinteger(L, inside);
  lua_rawset(L, -7);
  box_get(L)->callbacks.newest = CALLBACK_ELSEWHERE;
  callback_push_handler(L);
  lua_rotate(L, -(nargs + 1) - PUSHED, PUSHED);
  return lua_gettop(L) - nargs - 1;
}

/* As it was before: on top is what push_place pushed then. */
static void pop_place(lua_State *L) {
  box_get(L)->callbacks.newest = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  lua_rawseti(L, -3, 1);
  lua_pushthread(L);
  lua_insert(L, -2);
  lua_rawset(L, -4);
  lua_pop(L, 2);
}

int callback_end(lua_State *L, int status) {
  if (status == LUA_OK || status == LUA_YIELD) {
    lua_pop(L, 1);
    pop_place(L);
    return 0;
  }
  lua_replace(L, -2); /* what was raised, for the handler */
  lua_rotate(L, -6, 1);
  pop_place(L);
  callback_push_raised(L);
  return 1;
}

/* ---- functions ---- */

static int reported(lua_State *L, int status, lua_KContext ctx) {
  (void)L, (void)status, (void)ctx;
  return 0;
}

static int called(lua_State *L, int status, lua_KContext ctx) {
  (void)ctx;
  if (callback_end(L, status))
    lua_callk(L, 1, 0, 0, reported);
  return 0;
}

static int call_in_main(lua_State *L, int nargs, const struct callback_place *before) {
  callback_push_handler(L);
  lua_insert(L, 1);
  int status = lua_pcall(L, nargs, 0, 1);
  callback_leave(box_get(L), before);
  if (status != LUA_OK) {
    callback_push_raised(L);
    lua_call(L, 1, 0);
  }
  return 0;
}

/* callback(f, ...): what f raises goes to the program's handler, or is raised */
static int l_callback(lua_State *L) {
  struct callback_place before;
  int nargs = lua_gettop(L) - 1;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  if (callback_enter(L, box_get(L), &before))
    return call_in_main(L, nargs, &before);
  int handler = callback_begin(L, nargs);
  return called(L, lua_pcallk(L, nargs, 0, handler, 0, called), 0);
}

static int l_callback_depth(lua_State *L) { /* callback_depth() -> integer */
  lua_pushinteger(L, depth(L, box_get(L)));
  return 1;
}

/* callback_handlers(traceback, raised, tell): the message handler of callbacks, what is
 * called with the message when one has raised, and what gets the completions that are for
 * no function of the program's */
static int l_callback_handlers(lua_State *L) {
  lua_settop(L, 3);
  lua_setiuservalue(L, lua_upvalueindex(1), CALLBACK_TELL);
  lua_setiuservalue(L, lua_upvalueindex(1), CALLBACK_RAISED);
  lua_setiuservalue(L, lua_upvalueindex(1), CALLBACK_TRACEBACK);
  return 0;
}

static int l_callback_forget(lua_State *L) { /* callback_forget(): none is running here */
  forget_all(L, lua_upvalueindex(1));
  return 0;
}

const luaL_Reg bind_callback_functions[] = {
    {"callback", l_callback},
    {"callback_depth", l_callback_depth},
    {"callback_handlers", l_callback_handlers},
    {"callback_forget", l_callback_forget},
    {NULL, NULL},
};
