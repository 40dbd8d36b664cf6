#include "template/audit/copyable.h"

#include "image/objects.h"
#include "socket/socket.h"
#include "template/audit/heap_walk.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>

static enum userdata_socket socket_at(lua_State *L, int index) {
  const struct socket *s = socket_test_any(L, index);
  if (!s)
    return USERDATA_NO_SOCKET;
  return s->fd >= 0 ? USERDATA_SOCKET_OPEN : USERDATA_SOCKET_CLOSED;
}

void copyable_name(lua_State *L, int index, char text[COPYABLE_NAME_MAX]) {
  char path[150];
  const char *name = "";
  index = lua_absindex(L, index);
  heap_walk_path(L, lua_touserdata(L, index), path, sizeof path);
  int type = luaL_getmetafield(L, index, "__name");
  if (type == LUA_TSTRING)
    name = lua_tostring(L, -1);
  snprintf(text, COPYABLE_NAME_MAX, "userdata%s%.60s%s (%s)", *name ? " of type '" : "",
           name, *name ? "'" : "", path);
  if (type != LUA_TNIL)
    lua_pop(L, 1);
}

static int look(lua_State *L, const struct userdata_question *q,
                struct userdata_list *ret, char why[COPYABLE_WHY_MAX]) {
  struct userdata_refusal refusal;
  char name[COPYABLE_NAME_MAX];
  int r = userdata_look(L, q, ret, &refusal);
  if (r != -EPERM)
    return r;
  luaL_checkstack(L, 4, NULL);
  objects_push(L, refusal.object);
  copyable_name(L, -1, name);
  lua_pop(L, 1);
  snprintf(why, COPYABLE_WHY_MAX, "%s: %s", name, refusal.why);
  return r;
}

int copyable_look(lua_State *L, enum userdata_use use, const void *base, size_t nbytes,
                  struct userdata_list *ret, char why[COPYABLE_WHY_MAX]) {
  struct userdata_question q = {use, base, nbytes, socket_at, 0};
  return look(L, &q, ret, why);
}

int copyable_look_running(lua_State *L, const void *base, size_t nbytes,
                          struct userdata_list *ret, char why[COPYABLE_WHY_MAX]) {
  struct userdata_question q = {USERDATA_IMAGE, base, nbytes, socket_at, 1};
  return look(L, &q, ret, why);
}

int copyable_settle(const struct userdata_list *u, char *base) {
  for (size_t i = 0; i < u->nsockets; i++)
    if (socket_copied(objects_contents(base + u->sockets[i])) < 0)
      return -ENOMEM;
  return 0;
}
