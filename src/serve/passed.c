/* Sockets that a service manager passes. */
#include "serve/module.h"

#include <lauxlib.h>
#include <sys/socket.h>

/* is_listener(fd): whether connections can be accepted from it. */
static int l_is_listener(lua_State *L) {
  int listens = 0;
  socklen_t size = sizeof(listens);
  int rc = getsockopt((int)luaL_checkinteger(L, 1), SOL_SOCKET, SO_ACCEPTCONN, &listens,
                      &size);
  lua_pushboolean(L, rc == 0 && listens);
  return 1;
}

void passed_open(lua_State *L) {
  lua_pushcfunction(L, l_is_listener);
  lua_setfield(L, -2, "is_listener");
}
