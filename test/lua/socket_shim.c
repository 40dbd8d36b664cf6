/* moonfork.socket for a stock interpreter, without the rest of the library: the table of
 * socket_module.h and what its tests want to see besides. Test only. */
#include "os/fd.h"
#include "os/proc.h"
#include "socket/handle.h"
#include "socket/socket.h"
#include "socket/socket_module.h"
#include "socket/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static int shim_set_wait(lua_State *L) {
  lua_settop(L, 1);
  wait_set_function(L);
  return 0;
}

static int shim_check(lua_State *L) {
  int fd = handle_check(L, 1);
  if (fd < 0) {
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
  }
  lua_pushinteger(L, fd);
  return 1;
}

static int shim_push(lua_State *L) {
  socket_push(L, (int)luaL_checkinteger(L, 1), (enum socket_kind)luaL_checkinteger(L, 2));
  return 1;
}

static int shim_pipe(lua_State *L) {
  int fd[2];
  if (pipe2(fd, O_CLOEXEC) != 0)
    return luaL_fileresult(L, 0, NULL);
  lua_pushinteger(L, fd[0]);
  lua_pushinteger(L, fd[1]);
  return 2;
}

static int shim_is_open(lua_State *L) {
  lua_pushboolean(L, fcntl((int)luaL_checkinteger(L, 1), F_GETFD) != -1);
  return 1;
}

static int shim_is_cloexec(lua_State *L) {
  lua_pushboolean(L, fcntl((int)luaL_checkinteger(L, 1), F_GETFD) & FD_CLOEXEC);
  return 1;
}

static int shim_nonblocking(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  if (!lua_isnoneornil(L, 2))
    fd_set_nonblocking(fd, lua_toboolean(L, 2));
  lua_pushboolean(L, fd_is_nonblocking(fd) == 1);
  return 1;
}

static int shim_close(lua_State *L) {
  lua_pushinteger(L, close((int)luaL_checkinteger(L, 1)));
  return 1;
}

static int shim_threads(lua_State *L) {
  lua_pushinteger(L, proc_threads());
  return 1;
}

static int shim_sleep(lua_State *L) {
  usleep((useconds_t)(luaL_checknumber(L, 1) * 1e6));
  return 0;
}

static int shim_now(lua_State *L) {
  lua_pushnumber(L, (double)proc_now_ns() / 1e9);
  return 1;
}

static int shim_sigpipe_pending(lua_State *L) {
  sigset_t pending;
  sigpending(&pending);
  lua_pushboolean(L, sigismember(&pending, SIGPIPE));
  return 1;
}

static void count(int fd, void *data) {
  (void)fd;
  ++*(int *)data;
}

static int shim_count_fds(lua_State *L) {
  int n = 0;
  fd_each(0, count, &n);
  lua_pushinteger(L, n);
  return 1;
}

static int shim_send_empty(lua_State *L) {
  lua_pushinteger(L, send((int)luaL_checkinteger(L, 1), "", 0, MSG_NOSIGNAL));
  return 1;
}

static int shim_cloexec(lua_State *L) {
  lua_pushinteger(L, fd_set_cloexec((int)luaL_checkinteger(L, 1), lua_toboolean(L, 2)));
  return 1;
}

static int shim_dup(lua_State *L) {
  lua_pushinteger(L, fcntl((int)luaL_checkinteger(L, 1), F_DUPFD_CLOEXEC, 3));
  return 1;
}

/* limit_fds() leaves no free descriptor and gives what it was; limit_fds(that) ends it.
 */
static int shim_limit_fds(lua_State *L) {
  struct rlimit r;
  getrlimit(RLIMIT_NOFILE, &r);
  rlim_t before = r.rlim_cur;
  int lowest = fcntl(0, F_DUPFD, 0);
  close(lowest);
  r.rlim_cur = lua_isnoneornil(L, 1) ? (rlim_t)lowest : (rlim_t)lua_tointeger(L, 1);
  setrlimit(RLIMIT_NOFILE, &r);
  lua_pushinteger(L, (lua_Integer)before);
  return 1;
}

static int shim_set_attend(lua_State *L) {
  lua_settop(L, 1);
  lua_setfield(L, LUA_REGISTRYINDEX, WAIT_ATTEND);
  return 0;
}

static int shim_end_next_poll(lua_State *L) {
  wait_end_next_poll(L);
  return 0;
}

static volatile sig_atomic_t signals;

static void on_signal(int signum) {
  (void)signum;
  signals++;
}

/* With a number: counts that signal from now on. How many have come. */
static int shim_count_signal(lua_State *L) {
  struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  if (!lua_isnoneornil(L, 1)) {
    signals = 0;
    sigaction((int)luaL_checkinteger(L, 1), &a, NULL);
  }
  lua_pushinteger(L, signals);
  return 1;
}

static int shim_raise(lua_State *L) {
  raise((int)luaL_checkinteger(L, 1));
  return 0;
}

static int shim_is_blocked(lua_State *L) {
  sigset_t now;
  sigprocmask(SIG_BLOCK, NULL, &now);
  lua_pushboolean(L, sigismember(&now, (int)luaL_checkinteger(L, 1)));
  return 1;
}

/* Sends `n` copies of a descriptor in one message, as a peer of another make may. */
static int shim_send_many(lua_State *L) {
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(FDSET_MAX * sizeof(int))];
  } control;
  int fd = (int)luaL_checkinteger(L, 1), handle = (int)luaL_checkinteger(L, 2);
  size_t n = (size_t)luaL_checkinteger(L, 3);
  struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
  luaL_argcheck(L, n <= FDSET_MAX, 3, "too many");
  memset(&control, 0, sizeof control);
  struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room};
  m.msg_controllen = CMSG_SPACE(n * sizeof(int));
  struct cmsghdr *c = CMSG_FIRSTHDR(&m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(n * sizeof(int));
  for (size_t i = 0; i < n; i++)
    memcpy(CMSG_DATA(c) + i * sizeof(int), &handle, sizeof handle);
  lua_pushinteger(L, sendmsg(fd, &m, MSG_NOSIGNAL));
  return 1;
}

__attribute__((visibility("default"))) int luaopen_socket_shim(lua_State *L);
int luaopen_socket_shim(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"set_wait", shim_set_wait},
      {"check", shim_check},
      {"push", shim_push},
      {"pipe", shim_pipe},
      {"is_open", shim_is_open},
      {"is_cloexec", shim_is_cloexec},
      {"nonblocking", shim_nonblocking},
      {"close", shim_close},
      {"threads", shim_threads},
      {"sleep", shim_sleep},
      {"now", shim_now},
      {"sigpipe_pending", shim_sigpipe_pending},
      {"count_fds", shim_count_fds},
      {"send_many", shim_send_many},
      {"send_empty", shim_send_empty},
      {"cloexec", shim_cloexec},
      {"dup", shim_dup},
      {"limit_fds", shim_limit_fds},
      {"set_attend", shim_set_attend},
      {"end_next_poll", shim_end_next_poll},
      {"count_signal", shim_count_signal},
      {"raise", shim_raise},
      {"is_blocked", shim_is_blocked},
      {NULL, NULL},
  };
  luaL_newlib(L, functions);
  socket_module_open(L);
  lua_setfield(L, -2, "socket");
  return 1;
}
