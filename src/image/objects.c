#include "image/objects.h"

#include "base/copied.h"
#include "image/layout54.h"

#include <lauxlib.h>

struct each {
  const struct l54_global *g;
  int (*f)(void *data, void *object, int is_finalised);
  void *data;
};

static int each_in(const struct each *e, struct l54_object *o, int is_finalised) {
  int r = 0;
  for (; o && r == 0; o = o->next)
    if (o->type == L54_USERDATA && !l54_is_dead(o, e->g))
      r = e->f(e->data, o, is_finalised);
  return r;
}

int objects_each_userdata(lua_State *L,
                          int (*f)(void *data, void *object, int is_finalised),
                          void *data) {
  const struct l54_global *g = l54_thread(L)->global;
  const struct each e = {g, f, data};
  int r = each_in(&e, g->all, 0);
  if (r == 0)
    r = each_in(&e, g->with_finaliser, 1);
  return r ? r : each_in(&e, g->to_finalise, 1);
}

void *objects_contents(void *object) {
  return (char *)object + l54_userdata_head(object);
}

void objects_push(lua_State *L, void *object) {
  struct l54_object *o = object;
  struct l54_cell *top = l54_thread(L)->top++;
  top->word.pointer = o;
  top->tag = (unsigned char)(o->type | L54_IS_OBJECT);
}

static int end_one(void *data, void *object, int is_finalised) {
  lua_State *L = data;
  (void)is_finalised;
  objects_push(L, object);
  if (luaL_getmetafield(L, -1, COPIED_END_FIELD) == LUA_TFUNCTION) {
    lua_insert(L, -2);
    (void)lua_pcall(L, 1, 0, 0);
  }
  lua_settop(L, 0);
  return 0;
}

/* Not by the list of all objects: that of a large state takes long to go through. */
static int end_each(lua_State *L) {
  const struct l54_global *g = l54_thread(L)->global;
  const struct each e = {g, end_one, L};
  (void)each_in(&e, g->with_finaliser, 1);
  (void)each_in(&e, g->to_finalise, 1);
  return 0;
}

void objects_end_all(lua_State *L) {
  lua_sethook(L, NULL, 0, 0);
  lua_gc(L, LUA_GCSTOP);
  if (!lua_checkstack(L, LUA_MINSTACK))
    return;
  lua_pushcfunction(L, end_each);
  if (lua_pcall(L, 0, 0, 0))
    lua_pop(L, 1);
}
