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
}

void callback_open(lua_State *L) {
  forget_all(L, lua_absindex(L, -1));
}

static void push_slot(lua_State *L, int n) {
  lua_getiuservalue(L, lua_upvalueindex(1), n);
}

static void push_newest(lua_State *L) {
  push_slot(L, CALLBACK_NEWEST);
  lua_rawgeti(L, -1, 1);
  lua_remove(L, -2);
}

int callback_is_running(lua_State *L) {
  push_newest(L);
  int is = lua_isthread(L, -1);
  lua_pop(L, 1);
  return is;
}

/* It has resumed another coroutine and waits for that. */
static int is_normal(lua_State *co) {
  lua_Debug frame;
  return lua_status(co) == LUA_OK && lua_getstack(co, 0, &frame);
}

/* The levels, newest[], the level of this coroutine (nil: 0) and the newest. */
static void push_place(lua_State *L) {
  push_slot(L, CALLBACK_LEVELS);
  push_slot(L, CALLBACK_NEWEST);
  lua_pushthread(L);
  lua_rawget(L, -3);
  lua_rawgeti(L, -2, 1);
}

/* How many callbacks are inside each other here, from the place on top. A coroutine that
 * a callback started is as deep as the callback. */
static lua_Integer depth(lua_State *L) {
  lua_Integer own = lua_tointeger(L, -2), inherited = 0;
  lua_State *outer = lua_tothread(L, -1);
  if (outer && outer != L && is_normal(outer)) {
    lua_pushvalue(L, -1);
    lua_rawget(L, -5);
    inherited = lua_tointeger(L, -1);
    lua_pop(L, 1);
  }
  return own > inherited ? own : inherited;
}

/* ---- calling ---- */

/* An entry for this coroutine, whose key and value then only have to be changed. */
void callback_prepare(lua_State *L) {
  luaL_checkstack(L, 2 * LUA_MINSTACK, NULL);
  push_slot(L, CALLBACK_LEVELS);
  lua_pushthread(L);
  if (lua_rawget(L, -2) == LUA_TNIL) {
    lua_pushthread(L);
    lua_pushinteger(L, 0);
    lua_rawset(L, -4);
  }
  lua_pop(L, 2);
}

/* Stack afterwards: the place of before, the message handler, the function and its
 * arguments. */
int callback_begin(lua_State *L, int nargs) {
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  push_place(L);
  lua_Integer inside = depth(L) + 1;
  lua_pushthread(L);
  lua_rawseti(L, -4, 1);
  lua_pushthread(L);
  lua_pushinteger(L, inside);
  lua_rawset(L, -6);
  push_slot(L, CALLBACK_TRACEBACK);
  lua_rotate(L, -(nargs + 1) - 5, 5);
  return lua_gettop(L) - nargs - 1;
}

/* As it was before: on top is what push_place pushed then. */
static void pop_place(lua_State *L) {
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
  lua_rotate(L, -5, 1);
  pop_place(L);
  push_slot(L, CALLBACK_RAISED);
  lua_insert(L, -2);
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

/* callback(f, ...): what f raises goes to the program's handler, or is raised */
static int l_callback(lua_State *L) {
  int nargs = lua_gettop(L) - 1;
  int handler = callback_begin(L, nargs);
  return called(L, lua_pcallk(L, nargs, 0, handler, 0, called), 0);
}

static int l_callback_depth(lua_State *L) { /* callback_depth() -> integer */
  push_place(L);
  lua_pushinteger(L, depth(L));
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
