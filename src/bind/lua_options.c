/* From the table that lua/moonfork/options.lua has checked and normalised to mf_options.
 * Strings are borrowed: they stay on the Lua stack. Runs in the parent. */
#include "bind/lua_options.h"

#include "bind/field.h"

/* A list of strings; NULL: there is none. */
static const char *const *get_list(lua_State *L, int idx, const char *name) {
  if (lua_getfield(L, idx, name) != LUA_TTABLE)
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
    stdio[i].kind = (int)field_integer(L, idx, kinds[i], 0);
    stdio[i].fd = (int)field_integer(L, idx, fds[i], 0);
  }
}

void bind_options_read(lua_State *L, int idx, struct reactor *r, mf_options *ret) {
  mf_options_init(ret);
  ret->loop = &r->loop;
  if (lua_isnoneornil(L, idx))
    return;
  luaL_checktype(L, idx, LUA_TTABLE);
  luaL_checkstack(L, 16, NULL);
  ret->program = field_string(L, idx, "program");
  ret->cwd = field_string(L, idx, "cwd");
  ret->name = field_string(L, idx, "name");
  ret->lua_path = field_string(L, idx, "path");
  ret->lua_cpath = field_string(L, idx, "cpath");
  ret->env = get_list(L, idx, "env");
  ret->command = get_list(L, idx, "command");
  ret->beat_ms = (unsigned)field_integer(L, idx, "beat", 0);
  ret->window = (size_t)field_integer(L, idx, "window", 0);
  get_stdio(L, idx, ret->stdio);
  ret->gc = (int)field_integer(L, idx, "gc", 0);
  ret->leash = (int)field_integer(L, idx, "leash", 0);
  ret->handles = (int)field_integer(L, idx, "handles", 0);
  ret->dumpable = (int)field_integer(L, idx, "dumpable", 0);
  ret->tree = (int)field_integer(L, idx, "tree", 0);
  ret->isolation = (int)field_integer(L, idx, "isolation", 0);
  ret->lazy = (int)field_integer(L, idx, "lazy", 0);
  ret->new_session = (int)field_integer(L, idx, "session", 0);
  ret->timeout_ms = (unsigned)field_integer(L, idx, "timeout", 0);
  ret->spares_min = (unsigned)field_integer(L, idx, "spares_min", 0);
  ret->spares_max = (unsigned)field_integer(L, idx, "spares_max", 0);
  ret->image = field_string(L, idx, "image");
  ret->image_verify = (int)field_integer(L, idx, "verify", 0);
}
