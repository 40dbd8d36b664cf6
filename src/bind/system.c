/* Small questions to the system that Lua has no words for. Runs in the parent. */
#include "bind/reactor.h"
#include "bind/service.h"
#include "bind/values.h"
#include "os/cpus.h"
#include "os/fd.h"
#include "os/signame.h"
#include "parent/private.h"
#include "socket/handle.h"
#include "socket/numeral.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int
l_signals(lua_State *L) { /* signals() -> {NAME = number}, the highest number */
  const struct signame *s;
  lua_newtable(L);
  for (size_t i = 0; (s = signame_at(i)); i++) {
    lua_pushinteger(L, s->number);
    lua_setfield(L, -2, s->name);
  }
  lua_pushinteger(L, NSIG - 1);
  return 2;
}

static int
l_limits(lua_State *L) { /* limits() -> {NAME = true}: what process:limit takes */
  const char *name;
  lua_newtable(L);
  for (unsigned i = 0; (name = mf_limit_name(i)); i++) {
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, name);
  }
  return 1;
}

static int l_ncpu(lua_State *L) { /* ncpu() -> processors that this process may use */
  lua_pushinteger(L, cpus_usable());
  return 1;
}

static int l_getcwd(lua_State *L) { /* getcwd() -> path; or nil, message */
  char *path = getcwd(NULL, 0);
  if (!path)
    return luaL_fileresult(L, 0, NULL);
  lua_pushstring(L, path);
  free(path);
  return 1;
}

static int l_handle(lua_State *L) { /* handle(value) -> descriptor; or nil, message */
  int fd = handle_check(L, 1);
  if (fd < 0) {
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
  }
  lua_pushinteger(L, fd);
  return 1;
}

static int l_error(lua_State *L) { /* error(code, message [, started]) -> error object */
  const char *code = luaL_checkstring(L, 1);
  const char *message = luaL_checkstring(L, 2);
  int unknown = lua_toboolean(L, 3);
  bind_error_push(L, code, message, NULL, unknown ? MF_STARTED_UNKNOWN : MF_STARTED_NO,
                  NULL);
  return 1;
}

static int l_number(lua_State *L) { /* number(x) -> its exact text */
  luaL_checktype(L, 1, LUA_TNUMBER);
  lua_settop(L, 1);
  numeral_put(L, 1);
  return 1;
}

struct dump_text {
  char *data;
  size_t length;
};

static int push_text(lua_State *L) { /* protected; struct dump_text -> string */
  const struct dump_text *t = lua_touserdata(L, 1);
  lua_pushlstring(L, t->data, t->length);
  return 1;
}

static int l_dump(lua_State *L) { /* dump() -> text */
  struct reactor *r = reactor_peek(L);
  struct dump_text t = {NULL, 0};
  if (!r) {
    lua_pushfstring(L, "moonfork %s, process %d: no processes\n", mf_version_string(),
                    (int)getpid());
    return 1;
  }
  FILE *out = open_memstream(&t.data, &t.length);
  int failed = !out || mf_dump(&r->loop, out) < 0;
  if (out)
    services_dump(r, out);
  if (out && fclose(out) != 0)
    failed = 1;
  lua_pushcfunction(L, push_text);
  lua_pushlightuserdata(L, &t);
  int status = failed ? LUA_ERRMEM : lua_pcall(L, 1, 1, 0);
  free(t.data);
  if (status == LUA_OK)
    return 1;
  return failed ? luaL_error(L, "not enough memory") : lua_error(L);
}

/* programs() -> the paths of moonfork-remote and of the template program */
static int l_programs(lua_State *L) {
  char room[MF_PROGRAM_PATH_MAX];
  lua_pushstring(L, mf_program(1, room));
  lua_pushstring(L, mf_program(0, room));
  return 2;
}

const luaL_Reg bind_system_functions[] = {
    {"signals", l_signals}, {"ncpu", l_ncpu},   {"getcwd", l_getcwd},
    {"handle", l_handle},   {"error", l_error}, {"number", l_number},
    {"limits", l_limits},   {"dump", l_dump},   {"programs", l_programs},
    {NULL, NULL},
};
