/* Completions: from the library's callback, which may not run Lua, to Lua's pop. A
 * completion has all its memory from the start; only texts are copied when it is decided,
 * and where that fails the code's own text stands in. Runs in the parent. */
#include "bind/bind.h"
#include "socket/socket.h"
#include "os/drop.h"
#include <stdlib.h>
#include <string.h>

void completion_init(struct completion *c, struct reactor *r, enum completion_kind kind) {
  memset(c, 0, sizeof(*c));
  list_init(&c->link);
  list_init(&c->trash.link);
  c->trash.ref = LUA_NOREF;
  c->keep = LUA_NOREF;
  c->kind = kind;
  c->reactor = r;
  c->fd = -1;
}

struct completion *completion_new(lua_State *L, struct reactor *r,
                                  enum completion_kind kind, int idx) {
  lua_pushvalue(L, idx);
  int ref = luaL_ref(L, LUA_REGISTRYINDEX);
  struct completion *c = malloc(sizeof(*c));
  if (!c) {
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
    return NULL;
  }
  completion_init(c, r, kind);
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
  luaL_unref(L, LUA_REGISTRYINDEX, c->trash.ref);
  luaL_unref(L, LUA_REGISTRYINDEX, c->keep);
  free(c);
}

void completion_set_ending(struct ending *e, const mf_exit *exit) {
  e->exit = *exit;
  e->exit.error = NULL;
  e->error = exit->error ? strdup(exit->error) : NULL;
}

void completion_set_error(struct completion *c, const mf_error *error) {
  if (!error)
    return;
  c->code = error->code;
  c->started = error->started;
  c->message = error->message ? strdup(error->message) : NULL;
  c->traceback = error->traceback ? strdup(error->traceback) : NULL;
  c->value = error->value ? malloc(error->value_length + 1) : NULL;
  if (c->value)
    memcpy(c->value, error->value, c->value_size = error->value_length);
  if (!error->exit)
    return;
  c->has_ending = 1;
  completion_set_ending(&c->ending, error->exit);
}

void completion_done(struct completion *c) {
  if (c->proc)
    c->proc->holds++;
  list_push(&c->reactor->done, &c->link);
}

static void push_error(lua_State *L, const struct completion *c) {
  if (c->code)
    bind_failure_push(L, c);
  else
    lua_pushnil(L);
}

static void push_value(lua_State *L, struct completion *c) {
  if (c->kind == DONE_EXIT) {
    bind_ending_push(L, &c->ending);
  } else if (c->kind == DONE_MEMORY && !c->code) {
    bind_memory_push(L, &c->memory);
  } else if (c->kind == DONE_SOCKET && c->fd >= 0) {
    int fd = c->fd;
    c->fd = -1; /* socket_push takes it, also when it raises */
    c->code = MF_ENOMEM;
    socket_push_unix(L, fd);
    c->code = 0;
  } else {
    lua_pushnil(L);
  }
}

/* on_exit's callback of an object on the common path: what it knows stays for wait(). */
static int pop_common_exit(lua_State *L, struct proc *p) {
  lua_pushliteral(L, "call");
  lua_rawgeti(L, LUA_REGISTRYINDEX, p->exit.trash.ref);
  bind_ending_push(L, &p->exit.ending);
  list_remove(&p->exit.link);
  luaL_unref(L, LUA_REGISTRYINDEX, p->exit.trash.ref);
  p->exit.trash.ref = LUA_NOREF;
  p->popped = 1;
  if (p->orphan)
    bound_release(p);
  proc_unhold(p);
  return 3;
}

/* Of a run of the common path: what its callback is called with, and whether process.lua has to
 * hear of it first. */
static int pop_started(lua_State *L, struct reactor *r, struct completion *c) {
  struct proc *p = c->starts;
  int is_common = p->common && !c->code;
  lua_pushstring(L, is_common ? "call" : "ran");
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->trash.ref);
  push_error(L, c);
  push_value(L, c);
  if (!is_common)
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->keep);
  list_remove(&c->link);
  luaL_unref(L, LUA_REGISTRYINDEX, c->keep);
  completion_clear(c);
  reactor_discard(r, &c->trash);
  proc_unhold(p);
  return is_common ? 4 : 5;
}

/* Whatever raises here (memory) leaves the completion where it was, to be popped again.
 */
int completion_pop(lua_State *L, struct reactor *r) {
  static const char *const names[] = {"call", "call", "call", "exit", "error"};
  struct completion *c;
  luaL_checkstack(L, 8, NULL);
  for (;;) {
    if (list_empty(&r->done))
      return 0;
    c = list_entry(r->done.next, struct completion, link);
    struct list *before = service_before(c);
    if (before) {
      list_remove(&c->link);
      list_push(before, &c->link);
      continue;
    }
    if (c->kind < DONE_REPLY)
      break;
    int n = service_pop(L, c);
    if (n > 0)
      return n;
  }
  if (c->kind == DONE_EXIT && c->proc->common)
    return pop_common_exit(L, c->proc);
  if (c->keep != LUA_NOREF)
    return pop_started(L, r, c);
  lua_pushstring(L, names[c->kind]);
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->trash.ref);
  push_error(L, c);
  push_value(L, c);
  list_remove(&c->link);
  completion_clear(c);
  if (c->starts)
    proc_unhold(c->starts);
  if (c->proc)
    proc_unhold(c->proc);
  else
    reactor_discard(r, &c->trash);
  return 4;
}
