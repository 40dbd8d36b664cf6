/* moonfork: the program of the shell. A stock Lua with its standard libraries that runs
 * moonfork.cli (lua/moonfork/cli), which has everything else. The C part says where the
 * modules are, and what Lua can't ask of a terminal. */
#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <lua.h>
#include <lualib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Folders of Lua and C modules relative to the program, as they are installed. */
#ifndef LMOD_BESIDE
#define LMOD_BESIDE "../share/lua/5.4"
#endif
#ifndef CMOD_BESIDE
#define CMOD_BESIDE "../lib/lua/5.4"
#endif

/* From the folder of the program to that of what `moonfork bench` runs. */
#ifndef BENCH_BESIDE
#define BENCH_BESIDE "../libexec/moonfork/bench"
#endif

/* columns(fd) -> the width of the terminal, or nil */
static int columns(lua_State *L) {
  struct winsize size;
  if (ioctl((int)luaL_checkinteger(L, 1), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    lua_pushinteger(L, size.ws_col);
  else
    lua_pushnil(L);
  return 1;
}

/* kind(fd) -> "terminal", "pipe", or "other" */
static int kind(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  struct stat status;
  const char *text = "other";
  if (isatty(fd))
    text = "terminal";
  else if (fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode))
    text = "pipe";
  lua_pushstring(L, text);
  return 1;
}

/* The path of this program; NULL where the system does not say. */
static const char *own_path(char room[PATH_MAX]) {
  ssize_t length = readlink("/proc/self/exe", room, PATH_MAX - 1);
  if (length <= 0)
    return NULL;
  room[length] = 0;
  return room;
}

/* The folder that it is in. */
static const char *own_folder(char room[PATH_MAX]) {
  char *slash = own_path(room) ? strrchr(room, '/') : NULL;
  if (!slash)
    return NULL;
  *slash = 0;
  return room;
}

/* What the system says when a descriptor can't be had: one that this program needs, or
 * one that no process of this machine gets. */
static void set_shortages(lua_State *L) {
  lua_pushstring(L, strerror(EMFILE));
  lua_setfield(L, -2, "no_descriptor");
  lua_pushstring(L, strerror(ENFILE));
  lua_setfield(L, -2, "no_descriptor_at_all");
}

static int open_system(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"columns", columns},
      {"kind", kind},
      {NULL, NULL},
  };
  luaL_newlib(L, functions);
  lua_pushliteral(L, MOONFORK_VERSION);
  lua_setfield(L, -2, "version");
  set_shortages(L);
  char room[PATH_MAX];
  lua_pushstring(L, own_path(room));
  lua_setfield(L, -2, "path");
  const char *self = own_folder(room);
  if (self) {
    lua_pushfstring(L, "%s/" BENCH_BESIDE, self);
    lua_setfield(L, -2, "bench");
  }
  lua_getglobal(L, "package"); /* where other programs find modules, for the doctor */
  lua_getfield(L, -1, "path");
  lua_setfield(L, -3, "lua_path");
  lua_getfield(L, -1, "cpath");
  lua_setfield(L, -3, "lua_cpath");
  lua_pop(L, 1);
  return 1;
}

/* Puts the templates of BASE/BESIDE before package.FIELD, when MARK is there: a program
 * that was moved or installed under a prefix of its own uses the modules that came with
 * it. */
static void search_beside(lua_State *L, const char *folder, const char *beside,
                          const char *mark, const char *field) {
  char *place = NULL;
  char *real = NULL;
  if (asprintf(&place, "%s/%s/%s", folder, beside, mark) >= 0 && access(place, R_OK) == 0)
    real = realpath(place, NULL);
  free(place);
  if (!real)
    return;
  real[strlen(real) - strlen(mark) - 1] = 0;
  lua_getglobal(L, "package");
  if (strstr(mark, ".so"))
    lua_pushfstring(L, "%s/?.so;", real);
  else
    lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;", real, real);
  free(real);
  lua_getfield(L, -2, field);
  lua_concat(L, 2);
  lua_setfield(L, -2, field);
  lua_pop(L, 1);
}

static void find_modules(lua_State *L) {
  char room[PATH_MAX];
  const char *self = own_folder(room);
  if (!self)
    return;
  search_beside(L, self, LMOD_BESIDE, "moonfork/cli/init.lua", "path");
  search_beside(L, self, CMOD_BESIDE, "moonfork/core.so", "cpath");
}

static int add_traceback(lua_State *L) {
  const char *message = lua_tostring(L, 1);
  luaL_traceback(L, L, message ? message : "(an error that is no text)", 1);
  return 1;
}

/* Arguments: argc, argv. Result: the exit code. */
static int run(lua_State *L) {
  int argc = (int)lua_tointeger(L, 1);
  char **argv = lua_touserdata(L, 2);
  luaL_openlibs(L);
  luaL_requiref(L, "moonfork.cli.system", open_system, 0);
  lua_pop(L, 1);
  find_modules(L);
  lua_newtable(L);
  for (int i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i);
  }
  lua_setglobal(L, "arg");
  lua_getglobal(L, "require");
  lua_pushliteral(L, "moonfork.cli");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "main");
  lua_getglobal(L, "arg");
  lua_call(L, 1, 1);
  return 1;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN); /* a reader that has enough shows as EPIPE */
  lua_State *L = luaL_newstate();
  if (!L) {
    fputs("moonfork: not enough memory\n", stderr);
    return 1;
  }
  lua_pushcfunction(L, add_traceback);
  lua_pushcfunction(L, run);
  lua_pushinteger(L, argc);
  lua_pushlightuserdata(L, argv);
  int code = 1;
  if (lua_pcall(L, 2, 1, 1) != LUA_OK)
    fprintf(stderr, "moonfork: %s\n", lua_tostring(L, -1));
  else
    code = (int)lua_tointeger(L, -1);
  lua_close(L);
  if (fflush(stdout) != 0 && errno != EPIPE && code == 0) {
    fprintf(stderr, "moonfork: standard output: %s\n", strerror(errno));
    code = 1;
  }
  return code;
}
