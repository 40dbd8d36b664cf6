/* Pools: how Lua makes, asks and ends them. Runs in the parent. */
#include "bind/pool_counts.h"
#include "bind/service.h"

#include "bind/field.h"
#include "bind/option_fields.h"
#include "bind/reply.h"
#include "bind/rpc_service.h"
#include <errno.h>

static void set_count(lua_State *L, const char *key, uint64_t n) {
  lua_pushinteger(L, (lua_Integer)n);
  lua_setfield(L, -2, key);
}

static void read_pool_options(lua_State *L, int idx, mf_pool_options *o) {
  mf_pool_options_init(o);
#define NUMBER(field, name) o->field = field_integer(L, idx, #name, o->field);
  POOL_NUMBERS(NUMBER)
#undef NUMBER
}

/* pool_new(raw process, function, cell, options) -> raw; or nil, error */
static int l_pool_new(lua_State *L) {
  struct proc *p = bound_check(L, 1);
  const char *function = luaL_checkstring(L, 2);
  mf_rpc_options o;
  mf_pool_options po;
  luaL_checktype(L, 3, LUA_TTABLE);
  luaL_checktype(L, 4, LUA_TTABLE);
  rpc_options_read(L, 4, &o);
  read_pool_options(L, 4, &po);
  struct service *s = service_push(L, p->reactor, 3, 4, &o);
  if (!s)
    return 2;
  po.rpc = &o;
  po.on_worker = field_flag(L, 4, "workers") ? reply_on_worker : NULL;
  po.worker_data = s;
  int rc = mf_pool_new(p->process, function, &po, &s->pool);
  if (rc == 0)
    bound_give(p);
  return service_fill(L, s, rc);
}

static int push_drained(lua_State *L, struct completion *c) {
  int n = completion_push(L, c, "call");
  lua_createtable(L, 0, 4);
  set_count(L, "answered", c->drained.answered);
  set_count(L, "dropped", c->drained.dropped);
  set_count(L, "interrupted", c->drained.interrupted);
  set_count(L, "killed", c->drained.killed);
  completion_end(c);
  return n + 1;
}

static const struct completion_ops drained_ops = {push_drained, completion_end};

static void on_pool_drained(mf_pool *pool, const mf_error *error, void *data) {
  struct completion *c = data;
  c->drained.size = sizeof c->drained;
  mf_pool_drain_report(pool, &c->drained);
  completion_set_error(c, error);
  completion_done(c);
}

static void on_pool_done(mf_pool *pool, const mf_error *error, void *data) {
  struct completion *c = data;
  (void)pool;
  completion_set_error(c, error);
  completion_done(c);
}

static struct service *check_pool(lua_State *L) {
  struct service *s = service_check(L, 1);
  luaL_argcheck(L, s->pool, 1, "a pool expected");
  return s;
}

/* true; or nil and an error that speaks of the pool */
static int pool_result_push(lua_State *L, int rc) {
  const char *text =
      rc == MF_ECLOSED  ? "the pool is closed"
      : rc == MF_ESTATE ? "the process was given to the pool already"
      : rc == MF_EUNSUPPORTED
          ? "workers that are asynchronous, or threads, can't be promoted: "
            "a loop or a thread can't be forked"
          : NULL;
  if (!text)
    return bind_result_push(L, rc);
  lua_pushnil(L);
  bind_error_push(L, bind_error_name(rc), text, NULL, MF_STARTED_NO, NULL);
  return 2;
}

/* -> true; or nil, error: c is not told */
static int started(lua_State *L, struct service *s, struct completion *c, int rc) {
  if (rc < 0 && c)
    completion_drop(L, c);
  reactor_touch(s->reactor);
  return pool_result_push(L, rc);
}

static int l_pool_drain(lua_State *L) { /* pool_drain(raw, milliseconds | nil, f) */
  struct service *s = check_pool(L);
  unsigned ms = (unsigned)luaL_optinteger(L, 2, MF_NO_TIMEOUT);
  struct completion *c = completion_new(L, s->reactor, &drained_ops, 3);
  return started(L, s, c, c ? mf_pool_drain(s->pool, ms, on_pool_drained, c) : -ENOMEM);
}

typedef int give_template(mf_pool *, mf_process *, mf_pool_cb, void *);

/* (raw, raw process, f) -> what pool_cancel_reload takes; or nil, error */
static int take_template(lua_State *L, give_template *give) {
  struct service *s = check_pool(L);
  struct proc *p = bound_check(L, 2);
  struct completion *c = completion_new(L, s->reactor, &completion_call, 3);
  int rc = c ? give(s->pool, p->process, on_pool_done, c) : -ENOMEM;
  if (rc < 0)
    return started(L, s, c, rc);
  mf_on_error(p->process, NULL, NULL); /* the request's own callback is told */
  bound_give(p);
  reactor_touch(s->reactor);
  lua_pushlightuserdata(L, c);
  return 1;
}

static int l_pool_reload(lua_State *L) { /* pool_reload: as take_template */
  return take_template(L, mf_pool_reload);
}

static int l_pool_add(lua_State *L) { /* pool_add: the same */
  return take_template(L, mf_pool_add);
}

static int l_pool_promote(lua_State *L) { /* pool_promote(raw, f): as take_template */
  struct service *s = check_pool(L);
  struct completion *c = completion_new(L, s->reactor, &completion_call, 2);
  int rc = c ? mf_pool_promote(s->pool, on_pool_done, c) : -ENOMEM;
  if (rc < 0)
    return started(L, s, c, rc);
  reactor_touch(s->reactor);
  lua_pushlightuserdata(L, c);
  return 1;
}

static int l_pool_cancel_reload(lua_State *L) { /* pool_cancel_reload(raw, request) */
  struct service *s = service_check_any(L, 1);
  if (s && s->pool)
    mf_pool_cancel_reload(s->pool, lua_touserdata(L, 2));
  return 0;
}

static int l_pool_resize(lua_State *L) { /* pool_resize(raw, max) */
  struct service *s = check_pool(L);
  return started(L, s, NULL, mf_pool_resize(s->pool, (unsigned)luaL_checkinteger(L, 2)));
}

static void set_seconds(lua_State *L, const char *key, uint64_t us) {
  lua_pushnumber(L, (lua_Number)us / 1e6);
  lua_setfield(L, -2, key);
}

static void push_deaths(lua_State *L, const mf_pool_info *st) {
  lua_createtable(L, (int)st->nlast, 0);
  for (unsigned i = 0; i < st->nlast; i++) {
    const mf_pool_death *d = &st->last[i];
    struct ending ending = {d->exit, NULL};
    lua_createtable(L, 0, 4);
    if (d->pid >= 0)
      set_count(L, "pid", (uint64_t)d->pid);
    set_seconds(L, "age", d->age_ms * 1000);
    lua_pushstring(L, d->reason);
    lua_setfield(L, -2, "reason");
    bind_ending_push(L, &ending);
    lua_setfield(L, -2, "exit");
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

static void push_times(lua_State *L, const mf_pool_times *t) {
  lua_createtable(L, 0, 5);
  set_seconds(L, "p50", t->p50_us);
  set_seconds(L, "p90", t->p90_us);
  set_seconds(L, "p99", t->p99_us);
  set_seconds(L, "max", t->max_us);
}

/* The memory is the collector's, whatever raises. */
static void push_workers(lua_State *L, const mf_pool *pool) {
  size_t n = mf_pool_workers(pool, NULL, sizeof(mf_pool_worker), 0);
  mf_pool_worker *w = lua_newuserdatauv(L, (n + 1) * sizeof *w, 0);
  n = mf_pool_workers(pool, w, sizeof *w, n);
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    lua_createtable(L, 0, 6);
    set_count(L, "pid", (uint64_t)w[i].pid);
    set_count(L, "calls", w[i].calls);
    set_count(L, "running", w[i].running);
    set_count(L, "memory", w[i].memory);
    set_count(L, "shared", w[i].shared);
    push_times(L, &w[i].run_time);
    set_seconds(L, "total", w[i].run_us);
    lua_setfield(L, -2, "run_time");
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_remove(L, -2);
}

static int l_pool_stats(lua_State *L) { /* pool_stats(raw) -> table; or nil, error */
  static const char *const states[] = {"running", "failed", "draining", "closed"};
  struct service *s = service_check_any(L, 1);
  mf_pool_info st = {.size = sizeof st};
  int rc = s && s->pool ? mf_pool_stats(s->pool, &st) : MF_ECLOSED;
  if (rc < 0)
    return bind_result_push(L, rc);
  lua_createtable(L, 0, 34);
  lua_pushstring(L, states[st.state & 3]);
  lua_setfield(L, -2, "state");
#define COUNT(name) set_count(L, #name, st.name);
  POOL_COUNTS(COUNT)
#undef COUNT
  set_seconds(L, "p50", st.p50_us);
  set_seconds(L, "p99", st.p99_us);
  push_times(L, &st.queue_time);
  lua_setfield(L, -2, "queue_time");
  push_times(L, &st.run_time);
  lua_setfield(L, -2, "run_time");
  push_workers(L, s->pool);
  lua_setfield(L, -2, "per_worker");
  push_deaths(L, &st);
  lua_setfield(L, -2, "last");
  return 1;
}

static int l_pool_pids(lua_State *L) { /* pool_pids(raw) -> list */
  enum { PIDS = 256 };
  int pids[PIDS];
  struct service *s = service_check_any(L, 1);
  size_t n = s && s->pool ? mf_pool_pids(s->pool, pids, PIDS) : 0;
  n = n < PIDS ? n : PIDS;
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    lua_pushinteger(L, pids[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

const luaL_Reg bind_pool_functions[] = {
    {"pool_new", l_pool_new},       {"pool_drain", l_pool_drain},
    {"pool_reload", l_pool_reload}, {"pool_cancel_reload", l_pool_cancel_reload},
    {"pool_add", l_pool_add},       {"pool_promote", l_pool_promote},

    {"pool_resize", l_pool_resize}, {"pool_stats", l_pool_stats},
    {"pool_pids", l_pool_pids},     {NULL, NULL},
};
