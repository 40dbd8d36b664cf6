/* A set of descriptors that a worker waits for: those of coroutines, once each, and those
 * that it always looks at (its listeners, the server, luv's loop). Runs in a worker of
 * `serve --async`; which coroutine waits for what is Lua's (moonfork.serve_coroutines).
 */
#include "serve/module.h"

#include "socket/wait.h"

#include <errno.h>
#include <lauxlib.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOOP_TYPE "moonfork.serve_loop"

enum { EVENTS = 64, READ = 1, WRITE = 2 };

static int check_loop(lua_State *L) {
  const int *fd = luaL_checkudata(L, 1, LOOP_TYPE);
  luaL_argcheck(L, *fd >= 0, 1, "closed");
  return *fd;
}

/* loop() -> a loop; or nil, message, errno */
static int l_loop(lua_State *L) {
  int *fd = lua_newuserdatauv(L, sizeof *fd, 0);
  *fd = -1;
  luaL_setmetatable(L, LOOP_TYPE);
  *fd = epoll_create1(EPOLL_CLOEXEC);
  return *fd < 0 ? serve_fail(L, errno, "epoll") : 1;
}

static int set(int epoll, int fd, uint32_t events) {
  struct epoll_event event = {.events = events, .data.fd = fd};
  if (epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event) == 0)
    return 0;
  if (errno != ENOENT)
    return -errno;
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

/* loop:want(fd, flags) -> true; false where such a descriptor never makes anybody wait;
 * or nil, message, errno. Told once, by the next wait. */
static int l_want(lua_State *L) {
  int epoll = check_loop(L), fd = (int)luaL_checkinteger(L, 2);
  lua_Integer flags = luaL_checkinteger(L, 3);
  int rc = set(epoll, fd,
               EPOLLONESHOT | (flags & READ ? (uint32_t)EPOLLIN | EPOLLRDHUP : 0u) |
                   (flags & WRITE ? (uint32_t)EPOLLOUT : 0u));
  if (rc < 0 && rc != -EPERM)
    return serve_fail(L, -rc, NULL);
  lua_pushboolean(L, rc == 0);
  return 1;
}

/* loop:keep(fd, on [, exclusive]): told by every wait while it can be read; exclusive:
 * one of several processes is enough */
static int l_keep(lua_State *L) {
  int epoll = check_loop(L), fd = (int)luaL_checkinteger(L, 2);
  int on = lua_toboolean(L, 3);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  if (lua_toboolean(L, 4))
    event.events |= EPOLLEXCLUSIVE;
  if (epoll_ctl(epoll, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &event) < 0)
    return serve_fail(L, errno, NULL);
  lua_pushboolean(L, 1);
  return 1;
}

/* Sleeps as moonfork.socket does in such a process: what came for clone.on_term is looked
 * for with SIGTERM blocked, and one that comes later ends the sleep. */
static int sleep_attended(lua_State *L, int epoll, struct epoll_event *events,
                          int timeout) {
  sigset_t term, before;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &term, &before);
  int status = LUA_OK;
  if (lua_getfield(L, LUA_REGISTRYINDEX, WAIT_ATTEND) == LUA_TFUNCTION) {
    status = lua_pcall(L, 0, 1, 0);
    if (status == LUA_OK && lua_toboolean(L, -1))
      timeout = 0;
  }
  int n = status == LUA_OK ? epoll_pwait(epoll, events, EVENTS, timeout, &before) : 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (status != LUA_OK)
    lua_error(L);
  lua_pop(L, 1);
  return n;
}

/* loop:wait(milliseconds, list) -> n; list[2i-1] is a descriptor, list[2i] its flags.
 * Negative: until something comes. */
static int l_wait(lua_State *L) {
  int epoll = check_loop(L);
  lua_Integer timeout = luaL_checkinteger(L, 2);
  luaL_checktype(L, 3, LUA_TTABLE);
  struct epoll_event events[EVENTS];
  int n = sleep_attended(L, epoll, events,
                         timeout > 3600000 ? 3600000
                         : timeout < 0     ? -1
                                           : (int)timeout);
  for (int i = 0; i < n; i++) {
    uint32_t e = events[i].events;
    int flags = e & (EPOLLERR | EPOLLHUP) ? READ | WRITE
                                          : (e & (EPOLLIN | EPOLLRDHUP) ? READ : 0) |
                                                (e & EPOLLOUT ? WRITE : 0);
    lua_pushinteger(L, events[i].data.fd);
    lua_seti(L, 3, 2 * i + 1);
    lua_pushinteger(L, flags);
    lua_seti(L, 3, 2 * i + 2);
  }
  lua_pushinteger(L, n < 0 ? 0 : n);
  return 1;
}

static int l_fileno(lua_State *L) {
  lua_pushinteger(L, check_loop(L));
  return 1;
}

static int l_close(lua_State *L) {
  int *fd = luaL_checkudata(L, 1, LOOP_TYPE);
  if (*fd >= 0)
    close(*fd);
  *fd = -1;
  return 0;
}

/* poll(fd, flags, seconds | nil) -> whether it is ready, or something came between: the
 * wait of code that is in no coroutine, which blocks the worker */
static int l_poll(lua_State *L) {
  lua_Integer flags = luaL_checkinteger(L, 2);
  lua_Number seconds = luaL_optnumber(L, 3, -1);
  struct pollfd p = {.fd = (int)luaL_checkinteger(L, 1)};
  p.events = (short)((flags & READ ? POLLIN : 0) | (flags & WRITE ? POLLOUT : 0));
  int n =
      poll(&p, 1, seconds < 0 || seconds > 86400 ? -1 : (int)(seconds * 1000 + 0.999));
  lua_pushboolean(L, n != 0);
  return 1;
}

/* set_wait(f): how all sockets of this process wait from now on; see socket/wait.h */
static int l_set_wait(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_setfield(L, LUA_REGISTRYINDEX, WAIT_SHARED);
  return 0;
}

/* unread(fd) -> how many bytes have come that nobody has read: who closes with some makes
 * the kernel take back what it has not delivered yet */
static int l_unread(lua_State *L) {
  int n = 0;
  if (ioctl((int)luaL_checkinteger(L, 1), FIONREAD, &n) < 0)
    n = 0;
  lua_pushinteger(L, n);
  return 1;
}

/* discard(fd) -> how many bytes were read and dropped, 0: none is there; nil at the end
 */
static int l_discard(lua_State *L) {
  char room[16384];
  ssize_t n = recv((int)luaL_checkinteger(L, 1), room, sizeof room, MSG_DONTWAIT);
  if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
    lua_pushinteger(L, n > 0 ? (lua_Integer)n : 0);
  else
    luaL_pushfail(L);
  return 1;
}

/* is_shortage(errno): accept failed because there is no descriptor or no memory, and will
 * again until something is given back */
static int l_is_shortage(lua_State *L) {
  lua_Integer error = luaL_optinteger(L, 1, 0);
  lua_pushboolean(L, error == EMFILE || error == ENFILE || error == ENOBUFS ||
                         error == ENOMEM);
  return 1;
}

void loop_open(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"want", l_want},     {"keep", l_keep},   {"wait", l_wait},
      {"fileno", l_fileno}, {"close", l_close}, {NULL, NULL},
  };
  static const luaL_Reg functions[] = {
      {"loop", l_loop},     {"poll", l_poll},       {"set_wait", l_set_wait},
      {"unread", l_unread}, {"discard", l_discard}, {"is_shortage", l_is_shortage},
      {NULL, NULL},
  };
  if (luaL_newmetatable(L, LOOP_TYPE)) {
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, l_close);
    lua_setfield(L, -2, "__gc");
  }
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
