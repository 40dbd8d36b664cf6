/* From the table that lua/moonfork/options.lua has checked and normalised to mf_options.
 * Strings are borrowed: they stay on the Lua stack. Runs in the parent. */
#include "bind/bind.h"

static const char *get_string(lua_State *L, int idx, const char *key) {
  lua_getfield(L, idx, key);
  return luaL_optstring(L, -1, NULL); /* the slot stays */
}

static lua_Integer get_integer(lua_State *L, int idx, const char *key) {
  lua_getfield(L, idx, key);
  lua_Integer n = luaL_optinteger(L, -1, 0);
  lua_pop(L, 1);
  return n;
}

static const char *const *get_env(lua_State *L, int idx) {
  if (lua_getfield(L, idx, "env") != LUA_TTABLE)
    return NULL;
  int table = lua_gettop(L);
  size_t n = lua_rawlen(L, table);
  luaL_checkstack(L, 8, NULL);
  const char **env = lua_newuserdatauv(L, sizeof(*env) * (n + 1), 0);
  for (size_t i = 0; i < n; i++) {
    lua_rawgeti(L, table, (lua_Integer)i + 1);
    env[i] = luaL_checkstring(L, -1);
    lua_pop(L, 1); /* the table keeps it */
  }
  env[n] = NULL;
  return env;
}

static void get_stdio(lua_State *L, int idx, mf_stdio stdio[3]) {
  static const char *const kinds[] = {"stdin", "stdout", "stderr"};
  static const char *const fds[] = {"stdin_fd", "stdout_fd", "stderr_fd"};
  for (int i = 0; i < 3; i++) {
    stdio[i].kind = (int)get_integer(L, idx, kinds[i]);
    stdio[i].fd = (int)get_integer(L, idx, fds[i]);
  }
}

void bind_options_read(lua_State *L, int idx, struct reactor *r, mf_options *ret) {
  mf_options_init(ret);
  ret->loop = &r->loop;
  if (lua_isnoneornil(L, idx))
    return;
  luaL_checktype(L, idx, LUA_TTABLE);
  luaL_checkstack(L, 16, NULL);
  ret->program = get_string(L, idx, "program");
  ret->cwd = get_string(L, idx, "cwd");
  ret->name = get_string(L, idx, "name");
  ret->lua_path = get_string(L, idx, "path");
  ret->lua_cpath = get_string(L, idx, "cpath");
  ret->env = get_env(L, idx);
  get_stdio(L, idx, ret->stdio);
  ret->gc = (int)get_integer(L, idx, "gc");
  ret->leash = (int)get_integer(L, idx, "leash");
  ret->handles = (int)get_integer(L, idx, "handles");
  ret->dumpable = (int)get_integer(L, idx, "dumpable");
  ret->new_session = (int)get_integer(L, idx, "session");
  ret->timeout_ms = (unsigned)get_integer(L, idx, "timeout");
  ret->spares_min = (unsigned)get_integer(L, idx, "spares_min");
  ret->spares_max = (unsigned)get_integer(L, idx, "spares_max");
}
