#include "socket/option.h"

#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

struct option {
  int level, name, is_flag;
};

static const char *const names[] = {"nodelay", "keepalive", "sndbuf", "rcvbuf", NULL};
static const struct option options[] = {
    {IPPROTO_TCP, TCP_NODELAY, 1},
    {SOL_SOCKET, SO_KEEPALIVE, 1},
    {SOL_SOCKET, SO_SNDBUF, 0},
    {SOL_SOCKET, SO_RCVBUF, 0},
};

static int set(const struct socket *s, const struct option *option, int value) {
  int r = setsockopt(s->fd, option->level, option->name, &value, sizeof value);
  return r == 0 ? 0 : -errno;
}

static int get_value(lua_State *L, const struct socket *s, const struct option *option) {
  int value = 0;
  socklen_t size = sizeof value;
  if (getsockopt(s->fd, option->level, option->name, &value, &size) != 0)
    return socket_fail(L, errno);
  if (option->is_flag)
    lua_pushboolean(L, value);
  else
    lua_pushinteger(L, value);
  return 1;
}

static int check_value(lua_State *L, const struct option *option) {
  if (option->is_flag) {
    luaL_checktype(L, 3, LUA_TBOOLEAN);
    return lua_toboolean(L, 3);
  }
  lua_Integer n = luaL_checkinteger(L, 3);
  luaL_argcheck(L, n > 0 && n <= INT_MAX, 3, "not a number of bytes");
  return (int)n;
}

static const struct option *check_option(lua_State *L) {
  const char *name = luaL_checkstring(L, 2);
  for (int i = 0; names[i]; i++)
    if (strcmp(names[i], name) == 0)
      return &options[i];
  lua_pushfstring(L, "unknown option '%s' (valid: keepalive, nodelay, rcvbuf, sndbuf)",
                  name);
  luaL_argerror(L, 2, lua_tostring(L, -1));
  return NULL;
}

static int l_option(lua_State *L) {
  const struct socket *s = socket_check_open(L, 1);
  const struct option *option = check_option(L);
  if (lua_isnoneornil(L, 3))
    return get_value(L, s, option);
  int r = set(s, option, check_value(L, option));
  if (r < 0)
    return socket_fail(L, -r);
  lua_settop(L, 1);
  return 1;
}

const luaL_Reg option_methods[] = {{"option", l_option}, {NULL, NULL}};
