/* What is asked of a process's memory: its figures, and an image of it. Runs in the
 * parent. */
#include "bind/lua_process.h"
#include <errno.h>

static void on_memory(mf_process *process, const mf_error *error,
                      const mf_memory_info *info, void *data) {
  struct completion *c = data;
  (void)process;
  completion_set_error(c, error);
  if (!error)
    c->memory = *info;
  completion_done(c);
}

static int push_memory(lua_State *L, struct completion *c) {
  int n = completion_push(L, c, "call");
  if (c->code)
    lua_pushnil(L);
  else
    bind_memory_push(L, &c->memory);
  completion_end(c);
  return n + 1;
}

static const struct completion_ops memory_ops = {push_memory, completion_end};

/* memory(raw, f) -> what memory_quiet takes; or nil, error */
static int l_memory(lua_State *L) {
  struct proc *p = bound_check_any(L, 1);
  if (!p->process)
    return bound_done(L, p, MF_ECLOSED);
  struct completion *c = completion_new(L, p->reactor, &memory_ops, 2);
  int rc = c ? mf_memory(p->process, on_memory, c) : -ENOMEM;
  if (rc < 0)
    return bound_refused(L, p, c, rc);
  reactor_touch(p->reactor);
  lua_pushlightuserdata(L, c);
  return 1;
}

/* memory_quiet(raw, what memory gave): it is no outstanding work from now on */
static int l_memory_quiet(lua_State *L) {
  struct proc *p = bound_check_any(L, 1);
  if (p->process)
    mf_memory_quiet(p->process, lua_touserdata(L, 2));
  return 0;
}

/* memory_cancel(raw): those under way get CANCELLED */
static int l_memory_cancel(lua_State *L) {
  struct proc *p = bound_check_any(L, 1);
  if (p->process)
    mf_memory_cancel(p->process);
  return 0;
}

static void on_saved(mf_process *process, const mf_error *error, void *data) {
  struct completion *c = data;
  (void)process;
  completion_set_error(c, error);
  completion_done(c);
}

static int push_saved(lua_State *L, struct completion *c) {
  int n = completion_push(L, c, "call");
  lua_pushboolean(L, !c->code);
  completion_end(c);
  return n + 1;
}

static const struct completion_ops saved_ops = {push_saved, completion_end};

static int l_save(lua_State *L) { /* save(raw, file, f) */
  struct proc *p = bound_check_any(L, 1);
  if (!p->process)
    return bound_done(L, p, MF_ECLOSED);
  const char *file = luaL_checkstring(L, 2);
  struct completion *c = completion_new(L, p->reactor, &saved_ops, 3);
  return bound_refused(L, p, c, c ? mf_save(p->process, file, on_saved, c) : -ENOMEM);
}

const luaL_Reg bind_memory_functions[] = {
    {"memory", l_memory},
    {"memory_quiet", l_memory_quiet},
    {"memory_cancel", l_memory_cancel},
    {"save", l_save},
    {NULL, NULL},
};
