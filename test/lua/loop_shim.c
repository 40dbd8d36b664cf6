/* A C host's loop for scripts: what fork.use_loop needs to be tried from a stock
 * interpreter. new() -> light userdata; turn(loop, mode) runs uv_run ("default", "once",
 * "nowait") and tells whether something is alive; close(loop) -> true when it was empty.
 * Also a second Lua state of this process: other(code) runs the code in one and closes it
 * -> true, or nil and the message. Runs in the parent. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdlib.h>
#include <uv.h>

__attribute__((visibility("default"))) int luaopen_loop_shim(lua_State *L);

static int l_new(lua_State *L) {
  uv_loop_t *loop = malloc(sizeof(*loop));
  if (!loop || uv_loop_init(loop) < 0) {
    free(loop);
    return luaL_error(L, "no loop");
  }
  lua_pushlightuserdata(L, loop);
  return 1;
}

static int l_turn(lua_State *L) {
  static const char *const names[] = {"default", "once", "nowait", NULL};
  static const uv_run_mode modes[] = {UV_RUN_DEFAULT, UV_RUN_ONCE, UV_RUN_NOWAIT};
  uv_loop_t *loop = lua_touserdata(L, 1);
  int alive = uv_run(loop, modes[luaL_checkoption(L, 2, "default", names)]);
  lua_pushboolean(L, alive);
  return 1;
}

static int l_close(lua_State *L) {
  uv_loop_t *loop = lua_touserdata(L, 1);
  int rc = uv_loop_close(loop);
  if (rc == 0)
    free(loop);
  lua_pushboolean(L, rc == 0);
  return 1;
}

/* other(code [, loop]): the chunk gets the loop */
static int l_other(lua_State *L) {
  lua_State *state = luaL_newstate();
  if (!state)
    return luaL_error(L, "no state");
  luaL_openlibs(state);
  int rc = luaL_loadstring(state, luaL_checkstring(L, 1));
  if (rc == LUA_OK) {
    if (lua_isnoneornil(L, 2))
      lua_pushnil(state);
    else
      lua_pushlightuserdata(state, lua_touserdata(L, 2));
    rc = lua_pcall(state, 1, 0, 0);
  }
  if (rc == LUA_OK) {
    lua_pushboolean(L, 1);
    lua_close(state);
    return 1;
  }
  lua_pushnil(L);
  lua_pushstring(L, lua_tostring(state, -1));
  lua_close(state);
  return 2;
}

int luaopen_loop_shim(lua_State *L) {
  static const luaL_Reg functions[] = {{"new", l_new},
                                       {"turn", l_turn},
                                       {"close", l_close},
                                       {"other", l_other},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
