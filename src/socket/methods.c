/* The methods of a moonfork.socket that never wait, and the table of all (methods.h).
 * Both sides. */
#include "socket/methods.h"

#include "base/copied.h"
#include "os/fd.h"
#include "socket/address.h"
#include "socket/communicate.h"
#include "socket/file.h"
#include "socket/net.h"
#include "socket/option.h"
#include "socket/pass.h"
#include "socket/read.h"
#include "socket/wait.h"
#include "socket/write.h"
#include <errno.h>
#include <sys/socket.h>

static int result(lua_State *L, int r) {
  if (r < 0)
    return socket_fail(L, -r);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_close(lua_State *L) {
  struct socket *s = socket_check(L, 1);
  wait_closing(L, s);
  return result(L, socket_close(s));
}

static int l_gc(lua_State *L) {
  socket_close(socket_check(L, 1));
  return 0;
}

static int l_tostring(lua_State *L) {
  const struct socket *s = socket_check(L, 1);
  if (s->fd < 0)
    lua_pushliteral(L, SOCKET_NAME " (closed)");
  else
    lua_pushfstring(L, SOCKET_NAME " (fd %d)", s->fd);
  return 1;
}

/* Who knows the number counts on its end with close: it leaves their epoll then. */
static int tell_number(lua_State *L, struct socket *s) {
  s->is_told = 1;
  lua_pushinteger(L, s->fd);
  return 1;
}

static int l_fileno(lua_State *L) {
  return tell_number(L, socket_check_open(L, 1));
}

/* For loops that ask objects which may have been closed meanwhile: -1 then. */
static int l_pollfd(lua_State *L) {
  return tell_number(L, socket_check(L, 1));
}

static int l_events(lua_State *L) {
  socket_check(L, 1);
  lua_pushliteral(L, "r");
  return 1;
}

static int l_timeout(lua_State *L) {
  if (socket_has_waiting(socket_check(L, 1)))
    lua_pushinteger(L, 0);
  else
    lua_pushnil(L);
  return 1;
}

static int l_dirty(lua_State *L) {
  lua_pushboolean(L, socket_has_waiting(socket_check(L, 1)));
  return 1;
}

static int l_settimeout(lua_State *L) {
  struct socket *s = socket_check_open(L, 1);
  double seconds = luaL_optnumber(L, 2, -1);
  luaL_argcheck(L, seconds == seconds, 2, "not a number of seconds");
  s->timeout = seconds;
  lua_settop(L, 1);
  return 1;
}

/* The longest line, and the most that "a" gives; nil: as much as comes. */
static int l_limit(lua_State *L) {
  struct socket *s = socket_check_open(L, 1);
  lua_Integer bytes = luaL_optinteger(L, 2, SOCKET_NO_LIMIT);
  luaL_argcheck(L, lua_isnoneornil(L, 2) || bytes >= 0, 2, "not a number of bytes");
  s->limit = bytes;
  lua_settop(L, 1);
  return 1;
}

/* The words of poll, of the manual page, and of LuaSocket. */
static int l_shutdown(lua_State *L) {
  static const char *const names[] = {"r",    "w",       "rw",   "read", "write",
                                      "both", "receive", "send", NULL};
  static const int hows[] = {SHUT_RD, SHUT_WR,   SHUT_RDWR, SHUT_RD,
                             SHUT_WR, SHUT_RDWR, SHUT_RD,   SHUT_WR};
  const struct socket *s = socket_check_open(L, 1);
  int how = hows[luaL_checkoption(L, 2, "both", names)];
  return result(L, shutdown(s->fd, how) == 0 ? 0 : -errno);
}

/* fd, and where bytes were read ahead those as a string: whoever goes on with the
 * descriptor would miss them. */
static int l_detach(lua_State *L) {
  struct socket *s = socket_check_open(L, 1);
  wait_closing(L, s);
  size_t n = buf_size(&s->in);
  if (n > 0)
    lua_pushlstring(L, (const char *)buf_peek(&s->in), n);
  lua_pushinteger(L, s->fd);
  socket_release(s);
  if (n == 0)
    return 1;
  lua_insert(L, -2);
  return 2;
}

static int l_dup(lua_State *L) {
  const struct socket *s = socket_check_open(L, 1);
  struct socket *copy = socket_new(L);
  int fd = fd_dup(s->fd);
  if (fd < 0)
    return socket_fail(L, -fd);
  socket_adopt(copy, fd, s->kind);
  copy->timeout = s->timeout;
  copy->limit = s->limit;
  return 1;
}

static int push_address(lua_State *L, enum address_end end) {
  char text[ADDRESS_TEXT_MAX];
  const struct socket *s = socket_check_open(L, 1);
  int r = address_format(s->fd, end, text, sizeof text);
  if (r < 0)
    return socket_fail(L, -r);
  lua_pushstring(L, text);
  return 1;
}

static int l_address(lua_State *L) {
  return push_address(L, ADDRESS_OWN);
}

static int l_peer(lua_State *L) {
  return push_address(L, ADDRESS_PEER);
}

/* Its descriptor is closed with all others of the thread. */
static int l_end(lua_State *L) {
  socket_release(lua_touserdata(L, 1));
  return 0;
}

static const luaL_Reg metamethods[] = {
    {"__tostring", l_tostring}, {COPIED_END_FIELD, l_end}, {NULL, NULL}};

static const luaL_Reg methods[] = {
    {"fileno", l_fileno},   {"getfd", l_pollfd},
    {"pollfd", l_pollfd},   {"events", l_events},
    {"timeout", l_timeout}, {"dirty", l_dirty},
    {"detach", l_detach},   {"settimeout", l_settimeout},
    {"dup", l_dup},         {"address", l_address},
    {"peer", l_peer},       {"shutdown", l_shutdown},
    {"limit", l_limit},     {NULL, NULL},
};

/* What each socket goes through: they know the class (socket_test). */
static const luaL_Reg usual_metamethods[] = {
    {"__gc", l_gc}, {"__close", l_close}, {NULL, NULL}};
static const luaL_Reg usual_methods[] = {{"close", l_close}, {NULL, NULL}};

void methods_open(lua_State *L) {
  static const luaL_Reg *const all[] = {methods,       write_methods, communicate_methods,
                                        pass_methods,  net_methods,   file_methods,
                                        option_methods};
  luaL_checkstack(L, 5, NULL);
  if (socket_is_registered(L))
    return;
  lua_createtable(L, 0, 8);
  luaL_setfuncs(L, metamethods, 0);
  lua_pushvalue(L, -1);
  luaL_setfuncs(L, usual_metamethods, 1);
  lua_createtable(L, 0, 32);
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    luaL_setfuncs(L, all[i], 0);
  lua_pushvalue(L, -2);
  luaL_setfuncs(L, usual_methods, 1);
  lua_pushvalue(L, -2);
  luaL_setfuncs(L, read_methods, 1);
  lua_setfield(L, -2, "__index");
  socket_register(L);
}
