/* moonfork.pseudo_core, the C part of moonfork.pseudo (lua/moonfork/pseudo.lua, which
 * looks at arguments and makes error objects). In the interpreter that was started it has
 * `run`; in the pseudo-processes that this begins, all the rest. */
#include "image/selfcheck.h"
#include "pseudo/driver.h"
#include "pseudo/family.h"
#include "pseudo/resuming.h"
#include "pseudo/streams.h"
#include "pseudo/surroundings.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

__attribute__((visibility("default"))) int luaopen_moonfork_pseudo_core(lua_State *L);

/* ---- in the interpreter that was started ---- */

/* run(arg, path, cpath, script, name): ends the program, or gives a message. */
static int run_script(lua_State *L) {
  char text[600];
  struct driver_program program = {luaL_checkstring(L, 4), luaL_checkstring(L, 5), L,
                                   luaopen_moonfork_pseudo_core};
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checkstring(L, 2);
  luaL_checkstring(L, 3);
  int code = driver_run(&program, text, sizeof text);
  if (code >= 0)
    exit(code);
  lua_pushstring(L, text);
  return 1;
}

/* ---- processes ---- */

/* exit(code, close) */
static int leave(lua_State *L) {
  struct family_member *m = family_self;
  int none = 0;
  m->exit_code = (int)luaL_checkinteger(L, 1) & 255;
  m->close_state = lua_toboolean(L, 2);
  atomic_compare_exchange_strong(&m->ending, &none, ENDING_EXIT);
  return resuming_leave(L);
}

static int getpid_of(lua_State *L) {
  lua_pushinteger(L, family_self->id);
  return 1;
}
static int getppid_of(lua_State *L) {
  lua_pushinteger(L, family_parent(family_self));
  return 1;
}

/* wait(pid, block): pid, code, signal; 0 while it runs; nil: there is none. */
static int wait_for(lua_State *L) {
  long id;
  int code, signal;
  streams_flush(L); /* what this process has printed comes before what it waits for */
  switch (family_wait(family_self, (long)luaL_checkinteger(L, 1), lua_toboolean(L, 2),
                      &id, &code, &signal)) {
  case WAITED_ENDED:
    lua_pushinteger(L, id);
    if (signal)
      lua_pushnil(L);
    else
      lua_pushinteger(L, code);
    if (signal)
      lua_pushinteger(L, signal);
    else
      lua_pushnil(L);
    return 3;
  case WAITED_RUNNING:
    lua_pushinteger(L, 0);
    return 1;
  case WAITED_LEFT:
    return resuming_leave(L);
  case WAITED_NONE:
    break;
  }
  lua_pushnil(L);
  return 1;
}

/* kill(pid, signal): whether there is one. */
static int kill_one(lua_State *L) {
  lua_pushboolean(
      L, family_kill((long)luaL_checkinteger(L, 1), (int)luaL_checkinteger(L, 2)) == 0);
  if (atomic_load(&family_self->ending))
    return resuming_leave(L); /* it was this one */
  return 1;
}

/* ---- surroundings ---- */

static int get_variable(lua_State *L) {
  lua_pushstring(L, surroundings_get(family_self->surroundings, luaL_checkstring(L, 1)));
  return 1;
}
static int set_variable(lua_State *L) {
  lua_pushboolean(L, surroundings_set(family_self->surroundings, luaL_checkstring(L, 1),
                                      luaL_optstring(L, 2, NULL)) == 0);
  return 1;
}
static int change_directory(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  return luaL_fileresult(L, chdir(path) == 0, path);
}
static int directory(lua_State *L) {
  char *path = getcwd(NULL, 0);
  if (!path)
    return luaL_fileresult(L, 0, NULL);
  lua_pushstring(L, path);
  free(path);
  return 1;
}
static int set_mask(lua_State *L) {
  if (lua_isnoneornil(L, 1)) {
    mode_t mask = umask(077);
    umask(mask);
    lua_pushinteger(L, mask);
  } else {
    lua_pushinteger(L, umask((mode_t)luaL_checkinteger(L, 1)));
  }
  return 1;
}

int luaopen_moonfork_pseudo_core(lua_State *L) {
  static const luaL_Reg outside[] = {{"run", run_script}, {NULL, NULL}};
  static const luaL_Reg inside[] = {{"fork", resuming_fork},
                                    {"exit", leave},
                                    {"getpid", getpid_of},
                                    {"getppid", getppid_of},
                                    {"wait", wait_for},
                                    {"kill", kill_one},
                                    {"getenv", get_variable},
                                    {"setenv", set_variable},
                                    {"chdir", change_directory},
                                    {"getcwd", directory},
                                    {"umask", set_mask},
                                    {"pipe", streams_pipe},
                                    {NULL, NULL}};
  lua_newtable(L);
  luaL_setfuncs(L, family_self ? inside : outside, 0);
  if (!family_self) {
    lua_pushstring(L, selfcheck_reason());
    lua_setfield(L, -2, "reason");
  }
  lua_pushliteral(L, MOONFORK_VERSION);
  lua_setfield(L, -2, "version");
  return 1;
}
