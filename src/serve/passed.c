/* Sockets that a service manager passes, and the files of those that the server makes. */
#include "serve/module.h"

#include <lauxlib.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* is_listener(fd): whether connections can be accepted from it. */
static int l_is_listener(lua_State *L) {
  int listens = 0;
  socklen_t size = sizeof(listens);
  int rc = getsockopt((int)luaL_checkinteger(L, 1), SOL_SOCKET, SO_ACCEPTCONN, &listens,
                      &size);
  lua_pushboolean(L, rc == 0 && listens);
  return 1;
}

/* socket_id(path) -> a text that no other file has while this one is there; nil where
 * there is no socket */
static int l_socket_id(lua_State *L) {
  struct stat st;
  char text[64];
  if (lstat(luaL_checkstring(L, 1), &st) != 0 || !S_ISSOCK(st.st_mode)) {
    luaL_pushfail(L);
    return 1;
  }
  snprintf(text, sizeof text, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
  lua_pushstring(L, text);
  return 1;
}

void passed_open(lua_State *L) {
  lua_pushcfunction(L, l_socket_id);
  lua_setfield(L, -2, "socket_id");
  lua_pushcfunction(L, l_is_listener);
  lua_setfield(L, -2, "is_listener");
}
