/* Plain POSIX for programs that fork by themselves (clone_posix.h). Runs in templates and
 * clones. */
#include "template/lua/clone_posix.h"

#include "base/at_birth.h"
#include "os/fd.h"
#include "os/proc.h"
#include "os/signame.h"
#include "os/stdin.h"
#include "os/term.h"
#include "socket/numeral.h"
#include "socket/socket.h"
#include "socket/wait.h"
#include "template/lua/clone_exec.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

AT_BIRTH const char *(*clone_fork_refused)(void) = NULL;
static _Thread_local int thread; /* its number, where a clone is this thread; else 0 */

static int fail(lua_State *L, int error) {
  luaL_pushfail(L);
  lua_pushstring(L, strerror(error));
  lua_pushinteger(L, error);
  return 3;
}

/* ---- id ---- */

static _Thread_local struct {
  pid_t pid; /* whose it is; 0: not drawn yet */
  char text[33];
} identity;

void clone_posix_thread(int number) {
  thread = number;
  identity.pid = 0;
}

/* The pid alone would do but for numbers that are used again. */
static void child_forget_identity(void) {
  if (identity.pid != 0)
    identity.pid = 0;
}

static void watch_forks(void) {
  pthread_atfork(NULL, NULL, child_forget_identity);
}

/* 128 random bits in hex: different in every process, the same as long as this one lives.
 */
static void clone_id(char ret_text[33]) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  unsigned char bytes[16];
  pthread_once(&once, watch_forks);
  if (identity.pid != getpid()) {
    proc_random(bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++)
      snprintf(identity.text + 2 * i, 3, "%02x", bytes[i]);
    identity.pid = getpid();
  }
  memcpy(ret_text, identity.text, sizeof identity.text);
}

static int l_id(lua_State *L) {
  char text[33];
  clone_id(text);
  lua_pushstring(L, text);
  return 1;
}

static int l_exec(lua_State *L) {
  return clone_exec(L,
                    thread ? "a clone that is a thread can't be another program" : NULL);
}

/* ---- fork and its company ---- */

static void check_may_fork(lua_State *L) {
  const char *why = clone_fork_refused != NULL ? clone_fork_refused() : NULL;
  if (thread)
    why = "a clone that is a thread can't fork";
  if (why != NULL)
    luaL_error(L, "%s", why);
}

static int l_fork(lua_State *L) {
  check_may_fork(L);
  fflush(NULL); /* else both would write it */
  pid_t pid = fork();
  if (pid < 0)
    return fail(L, errno);
  lua_pushinteger(L, pid);
  return 1;
}

static void push_status(lua_State *L, int status) {
  lua_createtable(L, 0, 3);
  if (WIFEXITED(status)) {
    lua_pushinteger(L, WEXITSTATUS(status));
    lua_setfield(L, -2, "code");
    return;
  }
  lua_pushinteger(L, WTERMSIG(status));
  lua_setfield(L, -2, "signal");
  lua_pushboolean(L, WCOREDUMP(status));
  lua_setfield(L, -2, "core");
}

/* What the process has to look after between two waits. */
static void attend(lua_State *L) {
  if (lua_getfield(L, LUA_REGISTRYINDEX, WAIT_ATTEND) == LUA_TFUNCTION)
    lua_call(L, 0, 0);
  else
    lua_pop(L, 1);
}

static int l_waitpid(lua_State *L) {
  static const char *const names[] = {"hang", "nohang", NULL};
  static const int flags[] = {0, WNOHANG};
  pid_t wanted = (pid_t)luaL_optinteger(L, 1, -1), pid;
  int how = flags[luaL_checkoption(L, 2, "hang", names)], status;
  do {
    int looks = how == 0 && term_watched();
    if (looks && term_wait_child(wanted) < 0 && errno == EINTR)
      attend(L);
    pid = waitpid(wanted, &status, looks && term_watched() ? WNOHANG : how);
  } while (pid < 0 ? errno == EINTR : pid == 0 && how == 0);
  if (pid < 0)
    return fail(L, errno);
  lua_pushinteger(L, pid);
  if (pid == 0)
    return 1;
  push_status(L, status);
  return 2;
}

static int check_signal(lua_State *L, int arg) {
  if (lua_type(L, arg) == LUA_TNUMBER)
    return (int)luaL_checkinteger(L, arg);
  const char *name = luaL_optstring(L, arg, "TERM");
  int number = signame_number(name);
  if (number >= 0)
    return number;
  return luaL_argerror(L, arg, lua_pushfstring(L, "unknown signal '%s'", name));
}

static int l_kill(lua_State *L) {
  lua_Integer pid = luaL_checkinteger(L, 1);
  luaL_argcheck(L, pid == (pid_t)pid, 1, "not a process id");
  if (kill((pid_t)pid, check_signal(L, 2)) != 0)
    return fail(L, errno);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_pid(lua_State *L) {
  lua_pushinteger(L, thread ? thread : getpid());
  return 1;
}

static int l_ppid(lua_State *L) {
  lua_pushinteger(L, getppid());
  return 1;
}

static int l_title(lua_State *L) {
  numeral_put(L, 1);
  const char *title = luaL_checkstring(L, 1);
  if (!thread)
    proc_set_title(title);
  return 0;
}

/* ---- pipes ---- */

static int open_pipe(int ret_fd[2]) {
  int fd[2];
  if (pipe2(fd, O_CLOEXEC) != 0)
    return -errno;
  fd[0] = fd_raise(fd[0]);
  fd[1] = fd_raise(fd[1]);
  if (fd[0] >= 0 && fd[1] >= 0) {
    memcpy(ret_fd, fd, sizeof fd);
    return 0;
  }
  int r = fd[0] < 0 ? fd[0] : fd[1];
  fd_close(&fd[0]);
  fd_close(&fd[1]);
  return r;
}

/* Pushes a socket that owns *fd. When that raises, the other descriptor goes too. */
struct pushing {
  int fd, kind;
};

static int push_one(lua_State *L) {
  struct pushing *p = lua_touserdata(L, 1);
  int fd = p->fd;
  p->fd = -1; /* socket_push takes it in any case */
  socket_push(L, fd, (enum socket_kind)p->kind);
  return 1;
}

static void push_or_close(lua_State *L, int fd, int *other) {
  struct pushing p = {fd, SOCKET_OWN};
  lua_pushcfunction(L, push_one);
  lua_pushlightuserdata(L, &p);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK)
    return;
  fd_close(&p.fd);
  fd_close(other);
  lua_error(L);
}

static int l_pipe(lua_State *L) {
  int fd[2] = {-1, -1};
  luaL_checkstack(L, 8, NULL);
  int r = open_pipe(fd);
  if (r < 0)
    return fail(L, -r);
  push_or_close(L, fd[0], &fd[1]);
  socket_push(L, fd[1], SOCKET_OWN);
  return 2;
}

static int with_traceback(lua_State *L) {
  numeral_put(L, 1);
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

static int child_body(lua_State *L) { /* 1: f, 2: number of the far end */
  socket_push(L, (int)lua_tointeger(L, 2), SOCKET_FOREIGN);
  lua_pushvalue(L, -1);
  luaL_ref(L, LUA_REGISTRYINDEX); /* collected, it would close the stream that it is */
  lua_replace(L, 2);
  lua_call(L, 1, 0);
  return 0;
}

/* The far end becomes a standard stream; what was read ahead on the old one is not ours.
 */
_Noreturn static void child_run(lua_State *L, int far, int target) {
  if (dup2(far, target) < 0)
    _exit(1);
  fd_close(&far);
  if (target == STDIN_FILENO)
    stdin_reset();
  lua_pushcfunction(L, with_traceback);
  lua_pushcfunction(L, child_body);
  lua_pushvalue(L, 1);
  lua_pushinteger(L, target);
  int status = lua_pcall(L, 2, 0, -4);
  if (status != LUA_OK)
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
  fflush(NULL);
  _exit(status == LUA_OK ? 0 : 1);
}

/* near: which end of the pipe the caller keeps. */
static int fork_with_pipe(lua_State *L, int near, int target) {
  int fd[2];
  check_may_fork(L);
  luaL_checktype(L, 1, LUA_TFUNCTION);
  luaL_checkstack(L, 10, NULL);
  int r = open_pipe(fd);
  if (r < 0)
    return fail(L, -r);
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    fd_close(&fd[near]);
    child_run(L, fd[!near], target);
  }
  int error = errno;
  fd_close(&fd[!near]);
  if (pid < 0) {
    fd_close(&fd[near]);
    return fail(L, error);
  }
  lua_pushinteger(L, pid);
  socket_push(L, fd[near], SOCKET_OWN);
  return 2;
}

static int l_pipe_to_fork(lua_State *L) {
  return fork_with_pipe(L, 1, STDIN_FILENO);
}

static int l_pipe_from_fork(lua_State *L) {
  return fork_with_pipe(L, 0, STDOUT_FILENO);
}

static int l_time(lua_State *L) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec / 1e9);
  return 1;
}

void clone_posix_open(lua_State *L, int module_index) {
  static const luaL_Reg functions[] = {
      {"exec", l_exec},
      {"fork", l_fork},
      {"waitpid", l_waitpid},
      {"kill", l_kill},
      {"pipe", l_pipe},
      {"pid", l_pid},
      {"ppid", l_ppid},
      {"pipe_to_fork", l_pipe_to_fork},
      {"pipe_from_fork", l_pipe_from_fork},
      {"title", l_title},
      {"id", l_id},
      {"time", l_time},
      {NULL, NULL},
  };
  lua_pushvalue(L, module_index);
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}
