/* __clone: what userdata is told in a copy of its interpreter, in a thread or loaded from
 * a file. Runs in clones that are threads, and in processes that begin as an image. */
#include "template/lua/script.h"

#include "template/audit/copyable.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

struct hooks {
  char *base;
  const uint64_t *offsets;
  size_t n, i; /* i: the one that is called */
  int ref;     /* of their table, where they stay alive */
  char name[COPYABLE_NAME_MAX];
};

static int l_call(lua_State *L) { /* hooks | objects */
  struct hooks *h = lua_touserdata(L, 1);
  userdata_push_hooks(L, h->base, h->offsets, h->n);
  lua_pushvalue(L, -1);
  h->ref = luaL_ref(L, LUA_REGISTRYINDEX);
  for (; h->i < h->n; h->i++)
    userdata_call_hook(L, 2, h->i);
  return 0;
}

static int l_name(lua_State *L) { /* hooks | objects, object */
  struct hooks *h = lua_touserdata(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, h->ref);
  lua_rawgeti(L, -1, (lua_Integer)h->i + 1);
  lua_pushnil(L); /* so that the path does not lead through our table */
  lua_rawseti(L, LUA_REGISTRYINDEX, h->ref);
  copyable_name(L, 3, h->name);
  return 0;
}

/* Before the message: "__clone of userdata of type 'x' (path): ". */
static void name_culprit(struct server *s, struct hooks *h) {
  char prefix[COPYABLE_NAME_MAX + 16];
  lua_pushcfunction(s->L, l_name);
  lua_pushlightuserdata(s->L, h);
  if (lua_pcall(s->L, 1, 0, 0) != LUA_OK)
    lua_pop(s->L, 1);
  snprintf(prefix, sizeof prefix, "__clone of %s: ", *h->name ? h->name : "userdata");
  failure_record_prefix(&s->failure, prefix);
}

int script_call_clone(struct server *s, char *base, const uint64_t *offsets, size_t n,
                      int phase) {
  struct hooks h = {base, offsets, n, 0, LUA_NOREF, ""};
  if (n == 0)
    return 0;
  server_enter_user(s);
  int r = script_protect(s, l_call, &h, 0, FAILURE_REMOTE, phase);
  if (r < 0 && h.i < n && h.ref != LUA_NOREF)
    name_culprit(s, &h);
  server_leave_user(s);
  luaL_unref(s->L, LUA_REGISTRYINDEX, h.ref);
  return r;
}
