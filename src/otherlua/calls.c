/* Rpcs and pools, as functions for lua/moonfork/ffi.lua. Runs in the parent. */
#include "otherlua/otherlua.h"

#include "bind/option_fields.h"
#include "bind/pool_counts.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* An rpc or a pool, until it is closed. */
struct raw_service {
  struct core *core;
  mf_rpc *rpc; /* one of the two */
  mf_pool *pool;
  struct raw_process *procs; /* that it has taken */
  int is_ending;
  int is_over; /* the pointers above are invalid, and that is about to be told */
  double event, trouble, notice, worker; /* tokens */
  struct outcome end; /* the last thing that is told; then this is freed */
};

/* ---- what the library tells ---- */

/* News that nobody asked for: where there is no memory for them they are lost. */
static struct outcome *news(struct raw_service *s, double token) {
  return outcome_new(s->core, token, GOT_BYTES);
}

static void on_event(const mf_message *event, void *data) {
  struct raw_service *s = data;
  struct outcome *c = news(s, s->event);
  if (!c)
    return;
  outcome_set_bytes(c, event);
  outcome_done(c);
}

static void on_trouble(const mf_error *error, void *data) {
  struct raw_service *s = data;
  struct outcome *c = news(s, s->trouble);
  if (!c)
    return;
  outcome_set_error(c, error);
  outcome_done(c);
}

static void on_notice(void *data) {
  struct raw_service *s = data;
  struct outcome *c = news(s, s->notice);
  if (c)
    outcome_done(c);
}

static void on_worker(int event, int pid, const char *reason, void *data) {
  struct raw_service *s = data;
  struct outcome *c = outcome_new(s->core, s->worker, GOT_WORKER);
  if (!c)
    return;
  c->event = event;
  c->pid = pid;
  c->bytes = strdup(reason); /* NULL: no memory for the reason */
  outcome_done(c);
}

static void on_reply(const mf_error *error, const mf_message *reply, void *data) {
  struct outcome *c = data;
  outcome_set_error(c, error);
  if (reply)
    outcome_set_bytes(c, reply);
  outcome_done(c);
}

static void release_service(struct outcome *c) {
  struct raw_service *s = c->owner;
  while (s->procs) {
    struct raw_process *p = s->procs;
    s->procs = p->next;
    raw_process_free(p);
  }
  free(s);
}

static void ended(struct raw_service *s) {
  for (struct raw_process *p = s->procs; p; p = p->next) {
    p->mf = NULL;
    s->core->nhandles--;
  }
  s->core->nhandles--;
  s->is_over = 1;
  outcome_done(&s->end);
}

static void on_rpc_closed(mf_rpc *rpc, void *data) {
  (void)rpc;
  ended(data);
}

static void on_pool_closed(mf_pool *pool, void *data) {
  (void)pool;
  ended(data);
}

/* ---- making ---- */

static unsigned to_unsigned(double number) {
  return number >= UINT_MAX ? UINT_MAX : (unsigned)number;
}

static void read_rpc_options(lua_State *L, int idx, struct raw_service *s,
                             mf_rpc_options *ret) {
  mf_rpc_options_init(ret);
#define STRING(field, name) ret->field = field_string(L, idx, #name);
#define FLAG(field, name) ret->field = field_number(L, idx, #name, 0) != 0;
#define NUMBER(field, name) ret->field = field_number(L, idx, #name, ret->field);
  RPC_STRINGS(STRING)
  RPC_FLAGS(FLAG)
  RPC_NUMBERS(NUMBER)
#undef STRING
#undef FLAG
  s->event = field_number(L, idx, "event", 0);
  s->trouble = field_number(L, idx, "trouble", 0);
  s->notice = field_number(L, idx, "notice", 0);
  ret->on_event = s->event > 0 ? on_event : NULL;
  ret->on_error = on_trouble;
  ret->on_close = on_notice;
  ret->data = s;
}

static void read_pool_options(lua_State *L, int idx, struct raw_service *s,
                              mf_pool_options *ret) {
  mf_pool_options_init(ret);
  POOL_NUMBERS(NUMBER)
#undef NUMBER
  s->worker = field_number(L, idx, "worker", 0);
  ret->on_worker = s->worker > 0 ? on_worker : NULL;
}

static void take(struct raw_service *s, struct raw_process *p) {
  p->next = s->procs;
  s->procs = p;
}

/* serve("rpc" | "pool", process, name, options) -> service; or nil, code. Takes the
 * process when it succeeds. The options have the tokens `event` (0: nobody wants them),
 * `trouble`, `notice` (an orderly end), `worker` (0: nobody wants to know) and `over`
 * (the last that comes). */
static int l_serve(lua_State *L) {
  struct core *core = core_get(L);
  int is_pool = strcmp(luaL_checkstring(L, 1), "pool") == 0;
  struct raw_process *p = get_pointer(L, 2);
  const char *name = luaL_checkstring(L, 3);
  luaL_checktype(L, 4, LUA_TTABLE);
  luaL_checkstack(L, 20, "too many values");
  struct raw_service room = {0};
  mf_rpc_options rpc_options;
  mf_pool_options pool_options;
  read_rpc_options(L, 4, &room, &rpc_options);
  read_pool_options(L, 4, &room, &pool_options);
  double over = field_number(L, 4, "over", 0);
  struct raw_service *s = malloc(sizeof *s);
  if (!s)
    return push_code(L, MF_ENOMEM);
  *s = room;
  s->core = core;
  rpc_options.data = s;
  pool_options.rpc = &rpc_options;
  pool_options.worker_data = s;
  outcome_init(&s->end, core, over, GOT_END);
  s->end.release = release_service;
  s->end.owner = s;
  int rc = is_pool ? mf_pool_new(p->mf, name, &pool_options, &s->pool)
                   : mf_rpc_new(p->mf, name, &rpc_options, &s->rpc);
  if (rc < 0) {
    free(s);
    return push_code(L, rc);
  }
  core->nhandles++;
  take(s, p);
  lua_pushlightuserdata(L, s);
  return 1;
}

/* ---- calls ---- */

/* call(service, bytes, timeout in ms or 0, idempotent, token) -> call; or nil, code */
static int l_call(lua_State *L) {
  struct core *core = core_get(L);
  struct raw_service *s = get_pointer(L, 1);
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  mf_call_options options = MF_CALL_OPTIONS_INIT;
  options.timeout_ms = to_unsigned((double)luaL_checknumber(L, 3));
  options.idempotent = lua_toboolean(L, 4);
  struct outcome *c = outcome_new(core, get_token(L, 5), GOT_BYTES);
  if (!c)
    return push_code(L, MF_ENOMEM);
  mf_message request = {bytes, length, NULL, 0};
  int rc = s->pool ? mf_pool_call(s->pool, &request, &options, on_reply, c, &c->call)
                   : mf_rpc_call(s->rpc, &request, &options, on_reply, c, &c->call);
  if (rc < 0) {
    outcome_free(c);
    return push_code(L, rc);
  }
  lua_pushlightuserdata(L, c);
  return 1;
}

/* cancel(service, call) -> true; or nil, code. The call has not been popped. */
static int l_cancel(lua_State *L) {
  struct raw_service *s = get_pointer(L, 1);
  uint64_t id = ((struct outcome *)get_pointer(L, 2))->call;
  if (s->is_over)
    return push_code(L, MF_ECLOSED);
  return push_code(L, s->pool ? mf_pool_cancel(s->pool, id) : mf_rpc_cancel(s->rpc, id));
}

/* ---- pools ---- */

static void on_pool(mf_pool *pool, const mf_error *error, void *data) {
  struct outcome *c = data;
  (void)pool;
  outcome_set_error(c, error);
  outcome_done(c);
}

static void on_drained(mf_pool *pool, const mf_error *error, void *data) {
  struct outcome *c = data;
  c->report.size = sizeof c->report;
  mf_pool_drain_report(pool, &c->report);
  on_pool(pool, error, c);
}

static int
l_drain(lua_State *L) { /* drain(pool, ms or nil, token) -> true; or nil, code */
  struct core *core = core_get(L);
  struct raw_service *s = get_pointer(L, 1);
  unsigned ms =
      lua_isnil(L, 2) ? MF_NO_TIMEOUT : to_unsigned((double)luaL_checknumber(L, 2));
  struct outcome *c = outcome_new(core, get_token(L, 3), GOT_REPORT);
  if (!c)
    return push_code(L, MF_ENOMEM);
  int rc = mf_pool_drain(s->pool, ms, on_drained, c);
  if (rc < 0)
    outcome_free(c);
  return push_code(L, rc);
}

/* The functions are given pool, process and token -> true; or nil, code. The process is
 * taken when one succeeds. */
static int give_template(lua_State *L,
                         int (*give)(mf_pool *, mf_process *, mf_pool_cb, void *)) {
  struct core *core = core_get(L);
  struct raw_service *s = get_pointer(L, 1);
  struct raw_process *p = get_pointer(L, 2);
  struct outcome *c = outcome_new(core, get_token(L, 3), GOT_ERROR);
  if (!c)
    return push_code(L, MF_ENOMEM);
  int rc = give(s->pool, p->mf, on_pool, c);
  if (rc < 0)
    outcome_free(c);
  else
    take(s, p);
  return push_code(L, rc);
}

static int l_reload(lua_State *L) {
  return give_template(L, mf_pool_reload);
}

static int l_add(lua_State *L) {
  return give_template(L, mf_pool_add);
}

static int l_promote(lua_State *L) { /* promote(pool, token) -> true; or nil, code */
  struct core *core = core_get(L);
  struct raw_service *s = get_pointer(L, 1);
  struct outcome *c = outcome_new(core, get_token(L, 2), GOT_ERROR);
  if (!c)
    return push_code(L, MF_ENOMEM);
  int rc = mf_pool_promote(s->pool, on_pool, c);
  if (rc < 0)
    outcome_free(c);
  return push_code(L, rc);
}

static int l_resize(lua_State *L) { /* resize(pool, max) -> true; or nil, code */
  struct raw_service *s = get_pointer(L, 1);
  return push_code(L,
                   mf_pool_resize(s->pool, to_unsigned((double)luaL_checknumber(L, 2))));
}

static void set_count(lua_State *L, const char *name, double n) {
#if LUA_VERSION_NUM >= 503
  lua_pushinteger(L, (lua_Integer)n);
#else
  lua_pushnumber(L, (lua_Number)n);
#endif
  lua_setfield(L, -2, name);
}

static void set_seconds(lua_State *L, const char *name, uint64_t us) {
  lua_pushnumber(L, (lua_Number)us / 1e6);
  lua_setfield(L, -2, name);
}

static void push_times(lua_State *L, const mf_pool_times *t) {
  lua_createtable(L, 0, 5);
  set_seconds(L, "p50", t->p50_us);
  set_seconds(L, "p90", t->p90_us);
  set_seconds(L, "p99", t->p99_us);
  set_seconds(L, "max", t->max_us);
}

static void set_times(lua_State *L, const char *name, const mf_pool_times *t) {
  push_times(L, t);
  lua_setfield(L, -2, name);
}

static void push_deaths(lua_State *L, const mf_pool_info *info) {
  lua_createtable(L, (int)info->nlast, 0);
  for (unsigned i = 0; i < info->nlast; i++) {
    const mf_pool_death *d = &info->last[i];
    lua_createtable(L, 0, 4);
    if (d->pid >= 0)
      set_count(L, "pid", d->pid);
    set_seconds(L, "age", d->age_ms * 1000);
    lua_pushstring(L, d->reason);
    lua_setfield(L, -2, "reason");
    push_exit(L, &d->exit);
    lua_setfield(L, -2, "exit");
    lua_rawseti(L, -2, (int)i + 1);
  }
}

/* The memory is the collector's, whatever raises. */
static void push_workers(lua_State *L, const mf_pool *pool) {
  size_t n = mf_pool_workers(pool, NULL, sizeof(mf_pool_worker), 0);
  mf_pool_worker *w = lua_newuserdata(L, (n + 1) * sizeof *w);
  n = mf_pool_workers(pool, w, sizeof *w, n);
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    lua_createtable(L, 0, 6);
    set_count(L, "pid", w[i].pid);
    set_count(L, "calls", (double)w[i].calls);
    set_count(L, "running", w[i].running);
    set_count(L, "memory", (double)w[i].memory);
    set_count(L, "shared", (double)w[i].shared);
    push_times(L, &w[i].run_time);
    set_seconds(L, "total", w[i].run_us);
    lua_setfield(L, -2, "run_time");
    lua_rawseti(L, -2, (int)i + 1);
  }
  lua_remove(L, -2);
}

static int l_stats(lua_State *L) { /* stats(pool) -> table */
  static const char *const states[] = {"running", "failed", "draining", "closed"};
  struct raw_service *s = get_pointer(L, 1);
  mf_pool_info info = {.size = sizeof info};
  if (s->is_over)
    return push_code(L, MF_ECLOSED);
  int rc = mf_pool_stats(s->pool, &info);
  if (rc < 0)
    return push_code(L, rc);
  lua_createtable(L, 0, 33);
  lua_pushstring(L, states[info.state]);
  lua_setfield(L, -2, "state");
#define COUNT(name) set_count(L, #name, (double)info.name);
  POOL_COUNTS(COUNT)
#undef COUNT
  set_seconds(L, "p50", info.p50_us);
  set_seconds(L, "p99", info.p99_us);
  set_times(L, "queue_time", &info.queue_time);
  set_times(L, "run_time", &info.run_time);
  push_workers(L, s->pool);
  lua_setfield(L, -2, "per_worker");
  push_deaths(L, &info);
  lua_setfield(L, -2, "last");
  return 1;
}

static int l_pids(lua_State *L) { /* pids(pool) -> list */
  struct raw_service *s = get_pointer(L, 1);
  size_t n = s->is_over ? 0 : mf_pool_pids(s->pool, NULL, 0);
  int *pids = lua_newuserdata(L, sizeof *pids * (n + 1));
  size_t now = s->is_over ? 0 : mf_pool_pids(s->pool, pids, n);
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n && i < now; i++) {
    lua_pushinteger(L, pids[i]);
    lua_rawseti(L, -2, (int)i + 1);
  }
  return 1;
}

/* ---- ending ---- */

static int
l_abort(lua_State *L) { /* abort(service): gives up at once; end() is still due */
  struct raw_service *s = get_pointer(L, 1);
  if (s->is_over)
    return 0;
  if (s->pool)
    mf_pool_abort(s->pool);
  else
    mf_rpc_abort(s->rpc);
  return 0;
}

static int l_end(lua_State *L) { /* end(service): takes no more; `over` comes last */
  struct raw_service *s = get_pointer(L, 1);
  if (s->is_ending)
    return 0;
  s->is_ending = 1;
  if (s->pool)
    mf_pool_close(s->pool, on_pool_closed, s);
  else
    mf_rpc_close(s->rpc, on_rpc_closed, s);
  return 0;
}

const luaL_Reg service_functions[] = {
    {"serve", l_serve},   {"call", l_call},
    {"cancel", l_cancel}, {"drain", l_drain},
    {"reload", l_reload}, {"resize", l_resize},
    {"stats", l_stats},   {"pids", l_pids},
    {"abort", l_abort},   {"finish_service", l_end},
    {"add", l_add},       {"promote", l_promote},
    {NULL, NULL},
};
