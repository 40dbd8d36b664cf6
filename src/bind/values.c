/* What Lua is told: error objects, exit statuses, memory figures. Runs in the parent. */
#include "bind/values.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#define ERROR_NAME "moonfork.error" /* template/lua/script.c looks for it */

/* The set of err.code is closed, so system errors are put under the nearest name. */
const char *bind_error_name(int code) {
  static const struct {
    int code;
    const char *name;
  } names[] = {
      {MF_EREMOTE, "REMOTE"},
      {MF_ECLONE_DIED, "CLONE_DIED"},
      {MF_ETEMPLATE_START, "TEMPLATE_START"},
      {MF_ETEMPLATE_DIED, "TEMPLATE_DIED"},
      {MF_EFORK_FAILED, "FORK_FAILED"},
      {MF_ETIMEOUT, "TIMEOUT"},
      {MF_ECANCELLED, "CANCELLED"},
      {MF_ECLOSED, "CLOSED"},
      {MF_ELIMIT, "LIMIT"},
      {MF_EPROTOCOL, "PROTOCOL"},
      {MF_ENOMEM, "NOMEM"},
      {MF_EUNSUPPORTED, "UNSUPPORTED"},
      {MF_EENGINE, "ENGINE"},
      {-ENOMEM, "NOMEM"},
      {-EMFILE, "LIMIT"},
      {-ENFILE, "LIMIT"},
      {-E2BIG, "LIMIT"},
      {-EAGAIN, "LIMIT"},
      {-ENOSPC, "LIMIT"},
      {-EDQUOT, "LIMIT"},
      {-EFBIG, "LIMIT"},
      {-ENOSYS, "UNSUPPORTED"},
      {-ENOTSUP, "UNSUPPORTED"},
      {-ESRCH, "CLOSED"},
      {-ETIMEDOUT, "TIMEOUT"},
      {-ECANCELED, "CANCELLED"},
      {-EPROTO, "PROTOCOL"},
  };
  for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
    if (names[i].code == code)
      return names[i].name;
  return "EINVAL";
}

static void set_string(lua_State *L, const char *key, const char *value) {
  if (!value)
    return;
  lua_pushstring(L, value);
  lua_setfield(L, -2, key);
}

static void set_number(lua_State *L, const char *key, lua_Number value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, key);
}

static void set_integer(lua_State *L, const char *key, uint64_t value) {
  lua_pushinteger(L, (lua_Integer)value);
  lua_setfield(L, -2, key);
}

void ending_set(struct ending *e, const mf_exit *exit) {
  e->exit = *exit;
  e->exit.error = NULL;
  e->error = exit->error ? strdup(exit->error) : NULL;
}

void bind_ending_push(lua_State *L, const struct ending *e) {
  int has_more = e->error || (e->exit.known && e->exit.signal);
  lua_createtable(L, 0, has_more ? 4 : 2); /* one of them for each process */
  if (!e->exit.known) {
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "unknown");
    return;
  }
  if (e->exit.signal) {
    set_integer(L, "signal", (uint64_t)e->exit.signal);
    lua_pushboolean(L, e->exit.core);
    lua_setfield(L, -2, "core");
  } else {
    set_integer(L, "code", (uint64_t)e->exit.code);
  }
  set_string(L, "error", e->error);
  if (!e->exit.has_rusage)
    return;
  lua_createtable(L, 0, 3);
  set_number(L, "utime", (lua_Number)e->exit.utime_us / 1e6);
  set_number(L, "stime", (lua_Number)e->exit.stime_us / 1e6);
  set_integer(L, "maxrss", e->exit.maxrss_bytes);
  lua_setfield(L, -2, "rusage");
}

void bind_memory_push(lua_State *L, const mf_memory_info *m) {
  lua_createtable(L, 0, 5);
  set_integer(L, "pss", m->pss);
  set_integer(L, "uss", m->uss);
  set_integer(L, "rss", m->rss);
  set_integer(L, "shared", m->shared);
  set_integer(L, "lua", m->lua);
}

void bind_error_push(lua_State *L, const char *code, const char *message,
                     const char *traceback, int started, const struct ending *ending) {
  lua_createtable(L, 0, 5);
  set_string(L, "code", code);
  set_string(L, "message", message ? message : code);
  set_string(L, "traceback", traceback);
  set_string(L, "started", started == MF_STARTED_NO ? "no" : "unknown");
  if (ending) {
    bind_ending_push(L, ending);
    lua_setfield(L, -2, "exit");
  }
  luaL_setmetatable(L, BIND_ERROR);
}

int bind_result_push(lua_State *L, int rc) {
  if (rc >= 0) {
    lua_pushboolean(L, 1);
    return 1;
  }
  if (rc == MF_EFORKED)
    return luaL_error(L, "the process object belongs to the process that this one was "
                         "forked from");
  lua_pushnil(L);
  bind_error_push(L, bind_error_name(rc), mf_strerror(rc), NULL, MF_STARTED_NO, NULL);
  return 2;
}

/* The message, and on lines of their own the traceback of the other process. */
static int l_error_tostring(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_getfield(L, 1, "message");
  luaL_tolstring(L, 2, NULL);
  if (lua_getfield(L, 1, "traceback") != LUA_TSTRING)
    lua_pop(L, 1);
  else {
    lua_pushliteral(L, "\n");
    lua_insert(L, -2);
    lua_concat(L, 3);
  }
  return 1;
}

/* Its message in the place of an error object at idx. */
static void use_message(lua_State *L, int idx) {
  if (luaL_getmetafield(L, idx, "__name") == LUA_TNIL)
    return;
  int is_error = lua_istable(L, idx) && lua_type(L, -1) == LUA_TSTRING &&
                 strcmp(lua_tostring(L, -1), ERROR_NAME) == 0;
  lua_pop(L, 1);
  if (!is_error)
    return;
  lua_getfield(L, idx, "message");
  luaL_tolstring(L, -1, NULL);
  lua_replace(L, idx);
  lua_pop(L, 1);
}

/* `..` joins the message alone: the traceback does not belong into the middle of a line.
 */
static int l_error_concat(lua_State *L) {
  lua_settop(L, 2);
  use_message(L, 1);
  use_message(L, 2);
  lua_concat(L, 2);
  return 1;
}

void bind_error_open(lua_State *L) {
  luaL_newmetatable(L, BIND_ERROR);
  lua_pushcfunction(L, l_error_tostring);
  lua_setfield(L, -2, "__tostring");
  lua_pushcfunction(L, l_error_concat);
  lua_setfield(L, -2, "__concat");
  lua_pushliteral(L, ERROR_NAME);
  lua_setfield(L, -2, "__name");
  lua_pop(L, 1);
}
