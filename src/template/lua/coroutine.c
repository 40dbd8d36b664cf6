/* A handler that wants to stop Lua code has to know the thread whose code runs, and Lua
 * does not tell. So the two functions that make another thread run are ours; otherwise
 * they are as Lua's. They also pass on hibernation, which leaves a function by a yield:
 * for yield and isyieldable the function itself is no coroutine. What C modules resume by
 * themselves (cqueues) runs unnoticed. */
#include "template/lua/coroutine.h"

#include "template/lua/hibernate.h"
#include "template/lua/on_term.h"
#include <lauxlib.h>
#include <lualib.h>

static int close_thread(lua_State *L, lua_State *co) {
#if LUA_VERSION_RELEASE_NUM >= 50406
  return lua_closethread(co, L);
#else
  (void)L;
  return lua_resetthread(co);
#endif
}

enum how { RESUME, WRAP };

/* The thread: the first argument, or the upvalue of a function that wrap made. */
static lua_State *thread_of(lua_State *L, enum how how) {
  return lua_tothread(L, how == WRAP ? lua_upvalueindex(1) : 1);
}

/* An error, at the top of L. That of a function that wrap made goes on in the caller,
 * with the place where it is a string. */
static int fail(lua_State *L, enum how how) {
  if (how == RESUME) {
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
  }
  lua_State *co = thread_of(L, how);
  int status = lua_status(co);
  if (status != LUA_OK && status != LUA_YIELD) {
    status = close_thread(L, co);
    lua_xmove(co, L, 1);
  }
  if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int resume(lua_State *L, lua_State *co, int n, enum how how);

static int resume_again(lua_State *L, int status, lua_KContext how) {
  (void)status;
  return resume(L, thread_of(L, (enum how)how), 0, (enum how)how);
}

/* Lets it run with n arguments, which are on its stack. */
static int resume(lua_State *L, lua_State *co, int n, enum how how) {
  struct hibernate_call call;
  int nresults = 0;
  hibernate_resuming(&call, L, co);
  on_term_running(co);
  on_term_look(co);
  int status = lua_resume(co, L, n, &nresults);
  on_term_running(L);
  on_term_look(L);
  hibernate_resumed(&call);
  if (status == LUA_YIELD && hibernate_is_leaving())
    return lua_yieldk(L, 0, how, resume_again);
  if (status != LUA_OK && status != LUA_YIELD) {
    lua_xmove(co, L, 1);
    return fail(L, how);
  }
  if (!lua_checkstack(L, nresults + 1)) {
    lua_pop(co, nresults);
    lua_pushliteral(L, "too many results to resume");
    return fail(L, how);
  }
  if (how == RESUME)
    lua_pushboolean(L, 1);
  lua_xmove(co, L, nresults);
  return nresults + (how == RESUME);
}

static int begin(lua_State *L, lua_State *co, int n, enum how how) {
  if (!lua_checkstack(co, n)) {
    lua_pushliteral(L, "too many arguments to resume");
    return fail(L, how);
  }
  lua_xmove(L, co, n);
  return resume(L, co, n, how);
}

static int l_resume(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTHREAD);
  return begin(L, lua_tothread(L, 1), lua_gettop(L) - 1, RESUME);
}

static int l_wrapped(lua_State *L) {
  return begin(L, thread_of(L, WRAP), lua_gettop(L), WRAP);
}

static int l_wrap(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  lua_pushcclosure(L, l_wrapped, 1);
  return 1;
}

/* The function of run is no coroutine, though Lua runs it as one. */
static int l_yield(lua_State *L) {
  if (hibernate_is_program(L)) {
    lua_pushliteral(L, "attempt to yield from outside a coroutine");
    return lua_error(L);
  }
  return lua_yield(L, lua_gettop(L));
}

static int l_isyieldable(lua_State *L) {
  lua_State *co = L;
  if (!lua_isnone(L, 1)) {
    luaL_checktype(L, 1, LUA_TTHREAD);
    co = lua_tothread(L, 1);
  }
  lua_pushboolean(L, lua_isyieldable(co) && !hibernate_is_program(co));
  return 1;
}

/* A signal's handler may have set a hook between two steps of this. Upvalue: the original
 */
static int l_sethook(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  on_term_look(L);
  return lua_gettop(L);
}

void coroutine_install(lua_State *L) {
  static const luaL_Reg functions[] = {{"resume", l_resume},
                                       {"wrap", l_wrap},
                                       {"yield", l_yield},
                                       {"isyieldable", l_isyieldable},
                                       {NULL, NULL}};
  int top = lua_gettop(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, LUA_COLIBNAME) == LUA_TTABLE)
    luaL_setfuncs(L, functions, 0);
  lua_settop(L, top + 1);
  if (lua_getfield(L, -1, LUA_DBLIBNAME) == LUA_TTABLE &&
      lua_getfield(L, -1, "sethook") == LUA_TFUNCTION) {
    lua_pushcclosure(L, l_sethook, 1);
    lua_setfield(L, -2, "sethook");
  }
  lua_settop(L, top);
}
