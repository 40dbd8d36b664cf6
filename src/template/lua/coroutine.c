/* A handler that wants to stop Lua code has to know the thread whose code runs, and Lua
 * does not tell. So the two functions that make another thread run are ours; otherwise
 * they are as Lua's. What C modules resume by themselves (cqueues) runs unnoticed. */
#include "template/lua/coroutine.h"

#include "template/lua/on_term.h"
#include <lauxlib.h>
#include <lualib.h>

/* Moves n arguments over and lets it run. The number of results, which are on L then, or
 * -1 and the error is. */
static int resume(lua_State *L, lua_State *co, int n) {
  int nresults = 0;
  if (!lua_checkstack(co, n)) {
    lua_pushliteral(L, "too many arguments to resume");
    return -1;
  }
  lua_xmove(L, co, n);
  on_term_running(co);
  on_term_look(co);
  int status = lua_resume(co, L, n, &nresults);
  on_term_running(L);
  on_term_look(L);
  if (status != LUA_OK && status != LUA_YIELD) {
    lua_xmove(co, L, 1);
    return -1;
  }
  if (!lua_checkstack(L, nresults + 1)) {
    lua_pop(co, nresults);
    lua_pushliteral(L, "too many results to resume");
    return -1;
  }
  lua_xmove(co, L, nresults);
  return nresults;
}

static int l_resume(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTHREAD);
  lua_State *co = lua_tothread(L, 1);
  int n = resume(L, co, lua_gettop(L) - 1);
  lua_pushboolean(L, n >= 0);
  lua_insert(L, n >= 0 ? -(n + 1) : -2);
  return n >= 0 ? n + 1 : 2;
}

static int close_thread(lua_State *L, lua_State *co) {
#if LUA_VERSION_RELEASE_NUM >= 50406
  return lua_closethread(co, L);
#else
  (void)L;
  return lua_resetthread(co);
#endif
}

/* Upvalue: the thread. Its errors go on in the caller, with the place where they are
 * strings. */
static int l_wrapped(lua_State *L) {
  lua_State *co = lua_tothread(L, lua_upvalueindex(1));
  int n = resume(L, co, lua_gettop(L));
  if (n >= 0)
    return n;
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

static int l_wrap(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  lua_pushcclosure(L, l_wrapped, 1);
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
  static const luaL_Reg functions[] = {
      {"resume", l_resume}, {"wrap", l_wrap}, {NULL, NULL}};
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
