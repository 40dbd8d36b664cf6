/* clone.exec (clone_exec.h). Runs in templates and clones. Everything that it changes on
 * its way is put back when the program can't be executed, in reverse order. */
#include "template/lua/clone_exec.h"

#include "base/at_birth.h"
#include "os/fd.h"
#include "socket/handle.h"
#include "socket/numeral.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifndef O_PATH
#define O_PATH O_RDONLY
#endif

extern char **environ;

AT_BIRTH int (*clone_exec_prepare)(void) = NULL;

/* ---- arguments ---- */

struct move {     /* one entry of fds */
  int to, source; /* source: borrowed */
  int copy;       /* of the source, above all targets */
  int saved;      /* what was at `to`; -1: nothing */
  int cloexec;    /* whether that was close-on-exec */
};

struct exec {
  const char *file, *cwd;
  char **argv, **envp; /* envp NULL: environ as it is */
  struct move *moves;
  int nmoves, done;   /* done: how many are in place */
  int top;            /* copies go above this number */
  int leash, old_cwd; /* -1: none */
  const char *step;   /* the option that could not be carried out; NULL: the program */
  int step_fd;        /* its entry of fds */
};

/* An array that lives as long as the call: a userdata that stays on the stack. */
static void *scratch(lua_State *L, size_t n, size_t size) {
  void *p = lua_newuserdatauv(L, n * size + 1, 0);
  memset(p, 0, n * size + 1);
  return p;
}

static const char *check_text(lua_State *L, int idx, int arg, const char *what) {
  size_t length;
  numeral_put(L, idx);
  const char *s = lua_type(L, idx) == LUA_TSTRING ? lua_tolstring(L, idx, &length) : NULL;
  if (s == NULL || strlen(s) != length)
    luaL_argerror(L, arg,
                  lua_pushfstring(L, "%s must be strings without zero bytes, got %s",
                                  what, luaL_typename(L, idx)));
  return s;
}

/* The strings stay reachable: numbers are converted in a table of our own. */
static char **check_argv(lua_State *L, int arg) {
  luaL_checktype(L, arg, LUA_TTABLE);
  lua_Integer n = luaL_len(L, arg);
  luaL_argcheck(L, n >= 0 && n < INT_MAX / 16, arg, "too long");
  char **argv = scratch(L, (size_t)n + 2, sizeof *argv);
  size_t count = 0;
  lua_createtable(L, (int)n, 0);
  for (lua_Integer i = 0; i <= n; i++) {
    if (lua_geti(L, arg, i) == LUA_TNIL && i == 0) {
      lua_pop(L, 1);
      continue;
    }
    argv[count++] = (char *)check_text(L, -1, arg, "arguments");
    lua_rawseti(L, -2, (lua_Integer)count);
  }
  luaL_argcheck(L, count > 0, arg, "empty (it begins with the program's name)");
  return argv;
}

static int is_changed(lua_State *L, int changes, const char *entry) {
  const char *equals = strchr(entry, '=');
  if (equals == NULL)
    return 0;
  lua_pushlstring(L, entry, (size_t)(equals - entry));
  int changed = lua_rawget(L, changes) != LUA_TNIL;
  lua_pop(L, 1);
  return changed;
}

static size_t count_changes(lua_State *L, int changes) {
  size_t n = 0;
  for (lua_pushnil(L); lua_next(L, changes); lua_pop(L, 1))
    n++;
  return n;
}

/* "name=value" for each change but the false ones; kept in the table on top. */
static size_t add_changes(lua_State *L, int changes, char **envp, size_t n) {
  int keep = lua_gettop(L);
  for (lua_pushnil(L); lua_next(L, changes); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || strchr(lua_tostring(L, -2), '=') != NULL)
      luaL_argerror(L, 3, "option 'env': names in env must be strings without '='");
    check_text(L, -2, 3, "option 'env': names in env");
    if (lua_isboolean(L, -1) && !lua_toboolean(L, -1))
      continue;
    const char *value = check_text(L, -1, 3, "option 'env': values in env");
    envp[n++] = (char *)lua_pushfstring(L, "%s=%s", lua_tostring(L, -2), value);
    lua_rawseti(L, keep, (lua_Integer)n);
  }
  return n;
}

static char **check_env(lua_State *L, int changes) {
  size_t n = 0;
  while (environ != NULL && environ[n] != NULL)
    n++;
  char **envp = scratch(L, n + count_changes(L, changes) + 1, sizeof *envp);
  size_t count = 0;
  for (size_t i = 0; i < n; i++)
    if (!is_changed(L, changes, environ[i]))
      envp[count++] = environ[i];
  lua_newtable(L);
  add_changes(L, changes, envp, count);
  return envp;
}

static int ask_handle(lua_State *L) {
  lua_pushinteger(L, handle_check(L, 1));
  lua_insert(L, 2); /* before a message that it may have pushed */
  return lua_gettop(L) - 1;
}

/* The descriptor of the handle on top, or -1 with a message on top. */
static int check_handle(lua_State *L, int to) {
  int top = lua_gettop(L);
  lua_pushcfunction(L, ask_handle);
  lua_pushvalue(L, top);
  if (lua_pcall(L, 1, LUA_MULTRET, 0) != LUA_OK)
    luaL_argerror(L, 3,
                  lua_pushfstring(L, "option 'fds': a handle expected for [%d], got %s",
                                  to, luaL_typename(L, top)));
  int fd = (int)lua_tointeger(L, top + 1);
  if (fd >= 0)
    lua_settop(L, top);
  else
    lua_pushfstring(L, "option 'fds': [%d]: %s", to, lua_tostring(L, -1));
  return fd;
}

/* 0, or -1 with a message on top: a handle that is no open descriptor. */
static int check_fds(lua_State *L, int fds, struct exec *e) {
  e->moves = scratch(L, count_changes(L, fds), sizeof *e->moves);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  for (lua_pushnil(L); lua_next(L, fds); lua_pop(L, 1)) {
    int is_integer;
    lua_Integer to = lua_tointegerx(L, -2, &is_integer);
    if (!is_integer || to < 0 || to > INT_MAX / 2)
      luaL_argerror(L, 3, "option 'fds': a key of fds is not the number of a descriptor");
    int source = check_handle(L, (int)to);
    if (source < 0)
      return -1;
    e->moves[e->nmoves++] = (struct move){(int)to, source, -1, -1, 0};
    if (to > e->top)
      e->top = (int)to;
  }
  return 0;
}

static void check_option_names(lua_State *L, int options) {
  for (lua_pushnil(L); lua_next(L, options); lua_pop(L, 1)) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    if (strcmp(name, "fds") != 0 && strcmp(name, "env") != 0 && strcmp(name, "cwd") != 0)
      luaL_argerror(
          L, 3, lua_pushfstring(L, "unknown option '%s' (valid: fds, env, cwd)", name));
  }
}

static int check_options(lua_State *L, int options, struct exec *e) {
  luaL_checktype(L, options, LUA_TTABLE);
  check_option_names(L, options);
  if (lua_getfield(L, options, "cwd") != LUA_TNIL)
    e->cwd = check_text(L, -1, 3, "option 'cwd': directories");
  if (lua_getfield(L, options, "env") != LUA_TNIL) {
    luaL_argcheck(L, lua_istable(L, -1), 3, "option 'env': a table expected");
    e->envp = check_env(L, lua_gettop(L));
  }
  if (lua_getfield(L, options, "fds") == LUA_TNIL)
    return 0;
  luaL_argcheck(L, lua_istable(L, -1), 3, "option 'fds': a table expected");
  return check_fds(L, lua_gettop(L), e);
}

/* ---- the way there and back; no Lua from here on ---- */

static int copy_above(int fd, int top, int cloexec) {
  int copy = fcntl(fd, cloexec ? F_DUPFD_CLOEXEC : F_DUPFD, top < 2 ? 3 : top + 1);
  return copy < 0 ? -errno : copy;
}

/* All sources first: a target may be the source of another entry. */
static int copy_sources(struct exec *e) {
  e->step = "fds";
  for (int i = 0; i < e->nmoves; i++) {
    struct move *m = &e->moves[i];
    e->step_fd = m->to;
    m->copy = copy_above(m->source, e->top, 1);
    if (m->copy < 0)
      return m->copy;
    m->cloexec = fcntl(m->to, F_GETFD) & FD_CLOEXEC;
    m->saved = copy_above(m->to, e->top, 1);
    if (m->saved < 0 && m->saved != -EBADF)
      return m->saved;
  }
  return 0;
}

static int put_in_place(struct exec *e) {
  e->step = "fds";
  for (; e->done < e->nmoves; e->done++) {
    e->step_fd = e->moves[e->done].to;
    if (dup2(e->moves[e->done].copy, e->moves[e->done].to) < 0)
      return -errno;
  }
  return 0;
}

/* The signal of a leash hangs on its open file description, so a duplicate holds it. */
static int keep_leash(struct exec *e) {
  e->step = "leash";
  int leash = clone_exec_prepare != NULL ? clone_exec_prepare() : -1;
  if (leash < 0)
    return 0;
  e->leash = copy_above(leash, e->top, 0);
  return e->leash < 0 ? e->leash : 0;
}

static int go_to_cwd(struct exec *e) {
  if (e->cwd == NULL)
    return 0;
  e->step = "cwd";
  int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (here < 0)
    return -errno;
  e->old_cwd = copy_above(here, e->top, 1);
  fd_close(&here);
  if (e->old_cwd < 0)
    return e->old_cwd;
  return chdir(e->cwd) == 0 ? 0 : -errno;
}

static int try_exec(struct exec *e) {
  int r = go_to_cwd(e);
  if (r == 0)
    r = copy_sources(e);
  if (r == 0)
    r = keep_leash(e);
  if (r == 0)
    r = put_in_place(e);
  if (r < 0)
    return r;
  e->step = NULL;
  char **before = environ;
  if (e->envp != NULL)
    environ = e->envp;
  execvp(e->file, e->argv);
  r = -errno;
  environ = before;
  return r;
}

/* 0, or -errno: the old directory lets nobody in any more. */
static int put_back(struct exec *e) {
  while (e->done > 0) {
    struct move *m = &e->moves[--e->done];
    if (m->saved < 0)
      close(m->to);
    else
      dup2(m->saved, m->to);
    if (m->saved >= 0 && m->cloexec)
      fd_set_cloexec(m->to, 1);
  }
  for (int i = 0; i < e->nmoves; i++) {
    fd_close(&e->moves[i].copy);
    fd_close(&e->moves[i].saved);
  }
  fd_close(&e->leash);
  if (e->old_cwd < 0)
    return 0;
  int r = fchdir(e->old_cwd) == 0 ? 0 : -errno;
  fd_close(&e->old_cwd);
  return r;
}

static size_t count_bytes(char *const *list) {
  size_t n = 0;
  for (; list != NULL && *list != NULL; list++)
    n += strlen(*list) + 1;
  return n;
}

/* What failed, on what: the program is only to blame where everything else was done. */
static void push_reason(lua_State *L, const struct exec *e, int error) {
  const char *why = strerror(error);
  if (e->step == NULL && error == E2BIG)
    lua_pushfstring(L, "%s: %s (arguments: %I bytes, environment: %I bytes)", e->file,
                    why, (LUAI_UACINT)count_bytes(e->argv),
                    (LUAI_UACINT)count_bytes(e->envp ? e->envp : environ));
  else if (e->step == NULL)
    lua_pushfstring(L, "%s: %s", e->file, why);
  else if (strcmp(e->step, "cwd") == 0)
    lua_pushfstring(L, "option 'cwd': %s: %s", e->cwd, why);
  else if (strcmp(e->step, "fds") == 0)
    lua_pushfstring(L, "option 'fds': [%d]: %s", e->step_fd, why);
  else
    lua_pushfstring(L, "the leash can't be kept: %s", why);
}

int clone_exec(lua_State *L, const char *refused) {
  struct exec e = {.top = 2, .leash = -1, .old_cwd = -1};
  lua_settop(L, 3);
  luaL_checkstack(L, 40, NULL);
  size_t length;
  e.file = luaL_checklstring(L, 1, &length);
  luaL_argcheck(L, strlen(e.file) == length, 1, "string contains a zero byte");
  if (refused) {
    luaL_pushfail(L);
    lua_pushstring(L, refused);
    lua_pushinteger(L, ENOTSUP);
    return 3;
  }
  e.argv = check_argv(L, 2);
  if (!lua_isnil(L, 3) && check_options(L, 3, &e) < 0) {
    luaL_pushfail(L);
    lua_insert(L, -2);
    lua_pushinteger(L, EBADF);
    return 3;
  }
  fflush(NULL);
  int r = try_exec(&e);
  int back = put_back(&e);
  if (back < 0)
    return luaL_error(L, "exec failed (%s), and the old directory can't be entered again",
                      strerror(-r));
  luaL_pushfail(L);
  push_reason(L, &e, -r);
  lua_pushinteger(L, -r);
  return 3;
}
