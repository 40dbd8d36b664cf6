/* From the table that lua/moonfork/options.lua has checked and normalised to mf_options.
 * Strings are borrowed: they stay on the Lua stack. Runs in the parent. */
#include "bind/lua_options.h"

#include "bind/field.h"
#include "bind/option_fields.h"

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
#define STRING(field, name) ret->field = field_string(L, idx, #name);
#define NUMBER(field, name) ret->field = field_integer(L, idx, #name, ret->field);
  PROCESS_STRINGS(STRING)
  PROCESS_NUMBERS(NUMBER)
#undef STRING
#undef NUMBER
  ret->env = get_list(L, idx, "env");
  ret->command = get_list(L, idx, "command");
  get_stdio(L, idx, ret->stdio);
}
