/* Completions: from the library's callback, which may not run Lua, to Lua's pop. A
 * completion has all its memory from the start; only texts are copied when it is decided,
 * and where that fails the code's own text stands in. Runs in the parent. */
#include "bind/completion.h"

#include "codec/codec.h"
#include "os/drop.h"
#include <stdlib.h>
#include <string.h>

void completion_init(struct completion *c, struct reactor *r,
                     const struct completion_ops *ops) {
  memset(c, 0, sizeof(*c));
  list_init(&c->link);
  list_init(&c->trash.link);
  c->trash.ref = LUA_NOREF;
  c->keep = LUA_NOREF;
  c->ops = ops;
  c->reactor = r;
  c->fd = -1;
}

struct completion *completion_new(lua_State *L, struct reactor *r,
                                  const struct completion_ops *ops, int idx) {
  lua_pushvalue(L, idx);
  int ref = reactor_ref(L, r);
  struct completion *c = malloc(sizeof(*c));
  if (!c) {
    reactor_unref(L, r, ref);
    return NULL;
  }
  completion_init(c, r, ops);
  c->trash.ref = ref;
  c->trash.block = c;
  return c;
}

void completion_clear(struct completion *c) {
  if (c->fd >= 0)
    fd_part(c->fd);
  c->fd = -1;
  free(c->message);
  free(c->traceback);
  free(c->value);
  free(c->ending.error);
  c->message = c->traceback = c->ending.error = NULL;
  c->value = NULL;
}

void completion_drop(lua_State *L, struct completion *c) {
  completion_clear(c);
  reactor_unref(L, c->reactor, c->trash.ref);
  reactor_unref(L, c->reactor, c->keep);
  free(c->trash.block);
}

void completion_set_error(struct completion *c, const mf_error *error) {
  if (!error)
    return;
  c->code = error->code;
  c->started = error->started;
  c->os_error = error->os_error;
  c->message = error->message ? strdup(error->message) : NULL;
  c->traceback = error->traceback ? strdup(error->traceback) : NULL;
  c->value = error->value ? malloc(error->value_length + 1) : NULL;
  if (c->value)
    memcpy(c->value, error->value, c->value_size = error->value_length);
  if (!error->exit)
    return;
  c->has_ending = 1;
  ending_set(&c->ending, error->exit);
}

void completion_done(struct completion *c) {
  list_push(&c->reactor->done, &c->link);
}

/* ---- popping ---- */

/* The field value of the error object on top. What can't be read is left out. */
static void set_value(lua_State *L, const void *packed, size_t size) {
  struct codec_error e;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  int n = codec_unpack(L, packed, size, NULL, 0, NULL, &e);
  if (n == 1)
    lua_setfield(L, -2, "value");
  else if (n > 0)
    lua_pop(L, n);
}

void completion_push_failure(lua_State *L, const struct completion *c) {
  bind_error_push(L, bind_error_name(c->code),
                  c->message ? c->message : mf_strerror(c->code), c->traceback,
                  c->started, c->has_ending ? &c->ending : NULL);
  if (c->value)
    set_value(L, c->value, c->value_size);
  if (c->os_error) {
    lua_pushinteger(L, c->os_error);
    lua_setfield(L, -2, "errno");
  }
}

int completion_push_answer(lua_State *L, const struct completion *c) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->trash.ref);
  if (c->code)
    completion_push_failure(L, c);
  else
    lua_pushnil(L);
  return 2;
}

int completion_push(lua_State *L, const struct completion *c, const char *kind) {
  lua_pushstring(L, kind);
  return 1 + completion_push_answer(L, c);
}

/* The memory goes when Lua is there. */
void completion_end(struct completion *c) {
  list_remove(&c->link);
  completion_clear(c);
  reactor_discard(c->reactor, &c->trash);
}

static int push_call(lua_State *L, struct completion *c) {
  int n = completion_push(L, c, "call");
  lua_pushnil(L);
  completion_end(c);
  return n + 1;
}

const struct completion_ops completion_call = {push_call, completion_end};

int completion_pop(lua_State *L, struct reactor *r, int *ret_is_call) {
  luaL_checkstack(L, 8, NULL);
  while (!list_empty(&r->done)) {
    struct completion *c = list_entry(r->done.next, struct completion, link);
    if (c->behind && *c->behind) {
      list_remove(&c->link);
      list_push(*c->behind, &c->link);
      continue;
    }
    int n = c->ops->push(L, c);
    *ret_is_call = n < 0;
    if (n != 0)
      return n < 0 ? -n : n;
  }
  return 0;
}

void completion_forget_all(struct reactor *r) {
  while (!list_empty(&r->done)) {
    struct completion *c = list_entry(r->done.next, struct completion, link);
    list_remove(&c->link);
    c->ops->forget(c);
  }
}
