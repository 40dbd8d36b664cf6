#include "image/objects.h"

#include "image/layout54.h"

static int each_in(struct l54_object *o, int (*f)(void *data, void *object), void *data) {
  int r = 0;
  for (; o && r == 0; o = o->next)
    if (o->type == L54_USERDATA && ((struct l54_userdata *)o)->metatable)
      r = f(data, o);
  return r;
}

int objects_each_userdata(lua_State *L, int (*f)(void *data, void *object), void *data) {
  struct l54_global *g = l54_thread(L)->global;
  int r = each_in(g->all, f, data);
  if (r == 0)
    r = each_in(g->with_finaliser, f, data);
  return r ? r : each_in(g->to_finalise, f, data);
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
