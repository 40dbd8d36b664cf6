/* What counts as a handle (handle.h). Both sides. */
#include "socket/handle.h"

#include "socket/socket.h"
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

static int not_open(lua_State *L, const char *what) {
  lua_pushfstring(L, "%s is not an open descriptor", what);
  return -1;
}

static int check_number(lua_State *L, lua_Integer n) {
  if (n >= 0 && n <= INT_MAX && fcntl((int)n, F_GETFD) != -1)
    return (int)n;
  lua_pushfstring(L, "%I is not an open descriptor", (LUAI_UACINT)n);
  return -1;
}

/* Asks the object at idx by one name: a method is called, an integer field taken. 1 with
 * the answer on the stack, 0 without anything. */
static int ask_by(lua_State *L, int idx, const char *name) {
  int type = lua_getfield(L, idx, name);
  if (type == LUA_TNUMBER && lua_isinteger(L, -1))
    return 1;
  int is_method = type == LUA_TFUNCTION;
  if (!is_method && luaL_getmetafield(L, -1, "__call") != LUA_TNIL) {
    is_method = 1;
    lua_pop(L, 1);
  }
  if (!is_method) {
    lua_pop(L, 1);
    return 0;
  }
  lua_pushvalue(L, idx);
  lua_call(L, 1, 1);
  return 1;
}

static int is_askable(lua_State *L, int idx) {
  if (lua_istable(L, idx))
    return 1;
  if (lua_type(L, idx) != LUA_TUSERDATA ||
      luaL_getmetafield(L, idx, "__index") == LUA_TNIL)
    return 0;
  lua_pop(L, 1);
  return 1;
}

static int check_nothing(lua_State *L, int idx) {
  not_open(L, luaL_tolstring(L, idx, NULL));
  lua_remove(L, -2);
  return -1;
}

enum { NNAMES = 4 };
static const char *const names[NNAMES] = {"fileno", "getfd", "pollfd", "fd"};

int handle_is_kind(lua_State *L, int idx) {
  idx = lua_absindex(L, idx);
  luaL_checkstack(L, 6, NULL);
  if (lua_type(L, idx) == LUA_TNUMBER || socket_test(L, idx) ||
      luaL_testudata(L, idx, LUA_FILEHANDLE))
    return 1;
  for (int i = 0; is_askable(L, idx) && i < NNAMES; i++) {
    int type = lua_getfield(L, idx, names[i]);
    lua_pop(L, 1);
    if (type != LUA_TNIL)
      return 1;
  }
  return 0;
}

static int check_object(lua_State *L, int idx) {
  for (int i = 0; is_askable(L, idx) && i < NNAMES; i++) {
    if (!ask_by(L, idx, names[i]))
      continue;
    int is_integer;
    lua_Integer n = lua_tointegerx(L, -1, &is_integer);
    lua_pop(L, 1);
    return is_integer ? check_number(L, n) : check_nothing(L, idx);
  }
  return luaL_typeerror(L, idx,
                        "handle (a descriptor, file, socket or object with fileno)");
}

int handle_check(lua_State *L, int idx) {
  idx = lua_absindex(L, idx);
  luaL_checkstack(L, 6, NULL);
  if (lua_type(L, idx) == LUA_TNUMBER)
    return check_number(L, luaL_checkinteger(L, idx));
  const struct socket *socket = socket_test(L, idx);
  if (socket)
    return socket->fd < 0 ? not_open(L, "a closed " SOCKET_NAME)
                          : check_number(L, socket->fd);
  const luaL_Stream *stream = luaL_testudata(L, idx, LUA_FILEHANDLE);
  if (stream)
    return !stream->closef ? not_open(L, "a closed file")
                           : check_number(L, fileno(stream->f));
  return check_object(L, idx);
}
