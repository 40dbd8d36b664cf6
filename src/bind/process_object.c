/* The process object: what `fork` gives, and its methods on the common path. Runs in the
 * parent.
 *
 *   userdata ---- user value 1: the state table of lua/moonfork/process.lua, or, on the
 *     |           common path, what its source has told of failures (`fate`)
 *     '- struct proc, on the common path
 *
 * An object from fork() without options begins on the common path: it has no state table
 * and its cell is nobody; all that is known of it is in struct proc. fork, run, on_exit,
 * wait and close serve it from here, as long as nothing unusual is asked for and nothing
 * goes wrong. Whatever does not fit (options, a timeout, a waiter, a wait inside of a
 * callback, completions of others, an error) calls the method of the same name in
 * process.lua, which takes the object over first (object_open) and for good. So
 * everything here is an abbreviation: process.lua says what each method means. */
#include "bind/callback.h"
#include "bind/hook.h"
#include "bind/lua_process.h"
#include "codec/classes.h"
#include "os/fdwait.h"
#include "socket/socket.h"
#include "socket/wait.h"
#include <errno.h>
#include <sched.h>
#include <string.h>

enum { UV_STATE = 1, NUV = 1 };
enum { UP_BOX = 1, UP_SLOW, UP_GO_ON }; /* upvalues of the methods */

enum stage { SERVING, STARTING, RUNNING };
static const char *const state_names[] = {"serving", "finishing", "finished"};

struct handle {
  struct proc *p; /* NULL: the state table has it all, or it is closed */
  enum stage state;
};

/* ---- which path ---- */

/* The method in Lua, with the same arguments and results. */
static int slow_done(lua_State *L, int status, lua_KContext ctx) {
  (void)status, (void)ctx;
  return lua_gettop(L);
}
static int slow(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(UP_SLOW));
  lua_insert(L, 1);
  lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, slow_done);
  return lua_gettop(L);
}

/* Somebody else drives the loop, or it belongs to another process. */
static int is_ours(const struct box *box, const struct proc *p) {
  const struct reactor *r = p->reactor;
  return !box->closed && box->reactor == r && !reactor_foreign(r) && !r->embedded &&
         !r->exposed;
}

/* As luaL_testudata, which would look for the class by its name. */
static void *test_class(lua_State *L, int idx, const void *class) {
  void *object = lua_touserdata(L, idx);
  if (!object || !lua_getmetatable(L, idx))
    return NULL;
  const void *its = lua_topointer(L, -1);
  lua_pop(L, 1);
  return its == class ? object : NULL;
}

static struct handle *test_object(lua_State *L, const struct box *box) {
  return test_class(L, 1, box->object_class);
}

/* The object at 1 where it is on the common path, else NULL. */
static struct handle *common(lua_State *L) {
  const struct box *box = box_get(L);
  struct handle *h = test_object(L, box);
  if (!h || !h->p || h->p->failed || !h->p->process || !is_ours(box, h->p))
    return NULL;
  reactor_tidy(L, h->p->reactor);
  return h;
}

/* In a callback a wait counts as one more inside of others. */
static int may_wait(lua_State *L) {
  return !box_get(L)->has_waiter && !classes_at_work() && !callback_is_running(L);
}

/* ---- waiting ---- */

enum { ATTEND_MS = 10 };

static int shorter(int ms, int than) { /* -1: no end */
  return ms < 0 || ms > than ? than : ms;
}

/* Sleeps until fd (-1: none) is ready or the loop wants a turn, and turns it then.
 * Returns whether fd is ready; negative: a signal has come, whose handler may want to run
 * Lua. */
static int sleep_once(struct reactor *r, int fd, short events, int limit_ms) {
  struct pollfd fds[2] = {{.fd = fd, .events = events},
                          {.fd = uv_backend_fd(&r->loop), .events = POLLIN}};
  int ms = reactor_timeout(r);
  if (ms == 0) { /* before fd, which is asked for below in any case */
    if (fd < 0)
      reactor_turn(r);
    else
      reactor_turn_attending(r);
    if (fd < 0 || reactor_has_undelivered(r))
      return 0;
    ms = reactor_timeout(r);
  }
  int own = ms < 0 || (limit_ms >= 0 && limit_ms < ms), attends = r->attended != NULL;
  int all_ms = own ? limit_ms : ms;
  if (attends)
    all_ms = shorter(all_ms, ATTEND_MS);
  int n = fdwait(fds, 2, all_ms);
  if (n < 0)
    return -1;
  if (n == 0 && attends && all_ms > 0) { /* a long sleep: nothing goes unnoticed */
    reactor_unattend(r, NULL);
    return 0;
  }
  if (fds[1].revents || (n == 0 && !own))
    reactor_turn(r);
  return fd >= 0 && fds[0].revents != 0;
}

/* What libuv watches since its last turn is not in the backend's set yet. */
static void prepare_to_sleep(struct reactor *r) {
  if (!r->turned || r->nwatches > 0)
    reactor_turn(r);
}

/* ---- fork ---- */

/* Upvalues of fork: names of fields of a state table, and what its state has to be. */
enum { UP_RAW = UP_GO_ON + 1, UP_ERR, UP_CLOSED, UP_STATE, UP_FATE, UP_SERVING };
static const char *const fork_names[] = {"raw",   "err",  "closed",
                                         "state", "fate", "serving"};
enum { NFORK_NAMES = sizeof fork_names / sizeof *fork_names };

static void get(lua_State *L, int table, int name) {
  lua_pushvalue(L, lua_upvalueindex(name));
  lua_rawget(L, table);
}

/* The raw process of a source that is in Lua's hands, where it can be forked from as it
 * is; its fate is pushed then. */
static struct proc *source_in_lua(lua_State *L, const struct box *box) {
  struct proc **raw = NULL;
  int state = lua_gettop(L) + 1;
  if (lua_getiuservalue(L, 1, UV_STATE) != LUA_TTABLE)
    return NULL;
  get(L, state, UP_RAW);
  get(L, state, UP_ERR);
  get(L, state, UP_CLOSED);
  get(L, state, UP_STATE);
  if (!lua_toboolean(L, -3) && !lua_toboolean(L, -2) &&
      lua_rawequal(L, -1, lua_upvalueindex(UP_SERVING)))
    raw = test_class(L, state + 1, box->raw_class);
  get(L, state, UP_FATE);
  lua_replace(L, state);
  lua_settop(L, state);
  return raw ? *raw : NULL;
}

static int l_fork(lua_State *L) { /* fork(object [, options]) -> object */
  const struct box *box = box_get(L);
  const struct handle *source = test_object(L, box);
  int top = lua_gettop(L);
  struct proc *from =
      !source || source->p || !lua_isnoneornil(L, 2) ? NULL : source_in_lua(L, box);
  if (!from || !from->process || !is_ours(box, from)) {
    lua_settop(L, top);
    return slow(L);
  }
  reactor_tidy(L, from->reactor);
  struct handle *h = lua_newuserdatauv(L, sizeof(*h), NUV);
  *h = (struct handle){NULL, SERVING};
  lua_getmetatable(L, 1);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -2);
  lua_setiuservalue(L, -2, UV_STATE);
  struct proc *p = proc_new(from->reactor, LUA_NOREF);
  mf_options options;
  mf_process *process;
  mf_options_init(&options);
  options.loop = &from->reactor->loop;
  if (p && mf_fork_options(from->process, &options, &process) == 0) {
    proc_begin(p, process);
    p->common = 1;
    h->p = p;
    return 1;
  }
  blockpool_give(&from->reactor->procs, p);
  lua_settop(L, top);
  return slow(L); /* says why */
}

/* ---- run ---- */

static void on_started(mf_process *process, const mf_error *error, int fd, void *data) {
  struct completion *c = data;
  (void)process;
  completion_set_error(c, error);
  c->fd = fd;
  if (!error && c->starts->common && c->starts->handle)
    c->starts->handle->state = RUNNING;
  completion_done(c);
}

static void end_run(lua_State *L, struct completion *c) {
  struct reactor *r = c->reactor;
  reactor_unref(L, r, c->keep);
  reactor_unref(L, r, c->trash.ref);
  c->keep = c->trash.ref = LUA_NOREF;
  completion_clear(c);
  proc_unhold(c->starts);
}

/* What the callback is called with, and whether process.lua has to hear of it first:
 * "ran", and the object behind the values. Without the object the callback is
 * process.lua's own. */
static int push_run(lua_State *L, struct completion *c) {
  struct proc *p = c->starts;
  int tells = c->keep != LUA_NOREF && !(p->common && !c->code);
  const char *kind = tells ? "ran" : c->trash.ref == LUA_REFNIL ? "call" : NULL;
  int n = proc_push_socket(L, c, kind);
  if (tells) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->keep);
    n++;
  }
  list_remove(&c->link);
  end_run(L, c);
  return kind ? n : -n;
}

static void forget_run(struct completion *c) {
  completion_end(c);
  proc_unhold(c->starts);
}

static const struct completion_ops run_ops = {push_run, forget_run};

/* It is decided and the next one to be told. */
static int is_next(const struct reactor *r, const struct completion *c) {
  return r->done.next == &c->link;
}

static int take_socket(lua_State *L, struct completion *c) {
  int fd = c->fd;
  c->fd = -1;
  list_remove(&c->link);
  end_run(L, c);
  socket_push_unix(L, fd);
  return 1;
}

/* run(object, name [, f]) */
static int l_run(lua_State *L) {
  struct handle *h = common(L);
  int calls_back = lua_type(L, 3) == LUA_TFUNCTION;
  size_t length = 0;
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tolstring(L, 2, &length) : "";
  if (!h || h->state != SERVING || length == 0 || strlen(name) != length ||
      (!calls_back && (!lua_isnoneornil(L, 3) || !may_wait(L))))
    return slow(L);
  struct proc *p = h->p;
  struct reactor *r = p->reactor;
  lua_settop(L, 3);
  struct completion *c = &p->run;
  lua_pushvalue(L, 1);
  int keep = reactor_ref(L, r); /* until it is told */
  completion_init(c, r, &run_ops);
  c->keep = keep;
  c->starts = p;
  lua_pushvalue(L, 3);
  c->trash.ref = reactor_ref(L, r);
  p->holds++;
  if (!calls_back)
    reactor_attend(r, p->process);
  p->handle = h;
  if (mf_run(p->process, name, on_started, c) < 0) {
    end_run(L, c);
    return slow(L); /* says why */
  }
  h->state = STARTING;
  reactor_touch(r);
  if (calls_back) {
    lua_settop(L, 1);
    return 1;
  }
  lua_Hook hook = lua_gethook(L);
  prepare_to_sleep(r);
  while (!reactor_has_undelivered(r) && !hook_is_new(L, hook)) {
    int ready = sleep_once(r, mf_attended_fd(p->process), POLLIN, -1);
    if (ready < 0)
      break;
    if (ready > 0)
      mf_look(p->process);
  }
  if (is_next(r, c) && !c->code)
    return take_socket(L, c);
  /* Others have to be told first, or it has failed: from here on as if it had been asked
   * for by process.lua. */
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(UP_GO_ON));
  lua_insert(L, 1);
  lua_pushlightuserdata(L, c);
  lua_callk(L, 2, LUA_MULTRET, 0, slow_done);
  return lua_gettop(L);
}

/* run_told(completion, f): f takes the answer of the run that the common path has asked
 * for. */
static int l_run_told(lua_State *L) {
  struct completion *c = lua_touserdata(L, 1);
  lua_settop(L, 2);
  lua_pushvalue(L, 2);
  reactor_unref(L, c->reactor, c->trash.ref);
  c->trash.ref = LUA_NOREF;
  c->trash.ref = reactor_ref(L, c->reactor);
  reactor_unref(L, c->reactor, c->keep);
  c->keep = LUA_NOREF;
  return 0;
}

/* ---- the end ---- */

static int l_on_exit(lua_State *L) { /* on_exit(object, f) */
  struct handle *h = common(L);
  if (!h || h->p->watched || lua_type(L, 2) != LUA_TFUNCTION)
    return slow(L);
  struct proc *p = h->p;
  lua_settop(L, 2);
  reactor_unattend(p->reactor, p->process);
  p->exit.trash.ref = reactor_ref(L, p->reactor);
  p->watched = 1;
  proc_ask_exit(p);
  reactor_touch(p->reactor);
  return 1;
}

/* Who has read the end of its socket comes a few microseconds too early. */
static void look_for_end(struct reactor *r, struct proc *p) {
  enum { LOOKS = 3 };
  for (int i = 0; i < LOOKS && !p->known && r->attended == p->process; i++) {
    if (i > 0)
      sched_yield();
    mf_look(p->process);
  }
  reactor_unattend(r, p->process);
}

static int l_wait(lua_State *L) { /* wait(object [, timeout]) */
  struct handle *h = common(L);
  if (!h || h->state != RUNNING || !lua_isnoneornil(L, 2) || !may_wait(L))
    return slow(L);
  struct proc *p = h->p;
  struct reactor *r = p->reactor;
  proc_ask_exit(p);
  look_for_end(r, p);
  lua_Hook hook = lua_gethook(L);
  prepare_to_sleep(r);
  while (!p->known && !p->failed)
    if (reactor_has_undelivered(r) || hook_is_new(L, hook) ||
        sleep_once(r, -1, 0, -1) < 0)
      return slow(L);
  if (p->failed || !list_empty(&r->done)) /* what is told of it comes first */
    return slow(L);
  bind_ending_push(L, &p->exit.ending);
  return 1;
}

/* Nobody can be told of a failure any more: it runs. Its end may still be waited for. */
static void let_go(struct handle *h) {
  struct proc *p = h->p;
  h->p = NULL;
  p->handle = NULL;
  if (p->watched && !p->popped)
    p->is_dropped = 1;
  else
    bound_release(p);
}

static int l_close(lua_State *L) { /* close(object) */
  struct handle *h = common(L);
  if (!h || h->state != RUNNING)
    return slow(L);
  reactor_touch(h->p->reactor);
  let_go(h);
  return 0;
}

/* The state table is pushed, or nil: on the common path, or closed there. */
static int push_state(lua_State *L, const struct handle *h) {
  if (!h->p && lua_getiuservalue(L, 1, UV_STATE) == LUA_TTABLE) {
    int is_state = lua_getfield(L, -1, "cell") != LUA_TNIL; /* a fate has none */
    lua_pop(L, 1);
    if (is_state)
      return 1;
  }
  lua_pushnil(L);
  return 0;
}

static int l_gc(lua_State *L) {
  const struct box *box = box_get(L);
  struct handle *h = test_object(L, box);
  if (!h)
    return luaL_typeerror(L, 1, "moonfork.process");
  if (h->p ? box->closed || reactor_foreign(h->p->reactor) : !push_state(L, h))
    return 0;
  lua_settop(L, 1);
  if (h->p && h->p->process && h->state == RUNNING && !h->p->failed) {
    reactor_touch(h->p->reactor);
    let_go(h);
    return 0;
  }
  return slow(L);
}

/* ---- copies of the interpreter ---- */

static int l_copied(lua_State *L) {
  struct handle *h = lua_touserdata(L, 1);
  if (h->p)
    h->p = &bound_of_others;
  return 0;
}

/* Neither closed nor ended, nor an rpc's or a pool's, which speaks for it: in the state
 * table, on top. */
static int is_open_in_lua(lua_State *L) {
  static const char *const without[] = {"closed", "status", "used_by"};
  int state = lua_gettop(L), is_open;
  lua_getfield(L, state, "raw");
  struct proc *const *raw = luaL_testudata(L, -1, BIND_PROCESS);
  is_open = raw && *raw && !reactor_foreign((*raw)->reactor);
  for (size_t i = 0; i < sizeof without / sizeof *without; i++) {
    lua_getfield(L, state, without[i]);
    is_open &= !lua_toboolean(L, -1);
  }
  return is_open;
}

static int l_save(lua_State *L) {
  const struct handle *h = lua_touserdata(L, 1);
  int is_open = h->p ? !h->p->known && !reactor_foreign(h->p->reactor) : push_state(L, h);
  if (!h->p && is_open)
    is_open = is_open_in_lua(L);
  if (is_open)
    lua_pushliteral(L,
                    "it is open, and an image holds no processes; close it, and make it "
                    "after loading");
  return is_open;
}

/* ---- for process.lua ---- */

/* object_class(methods, slow): fills methods with those of here, and makes the
 * class. slow: the methods in Lua, also __gc, __close and __tostring; go_on(object,
 * completion) waits for a run that was begun here. */
static int l_object_class(lua_State *L) {
  static const luaL_Reg common_path[] = {{"fork", l_fork},       {"run", l_run},
                                         {"on_exit", l_on_exit}, {"wait", l_wait},
                                         {"close", l_close},     {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", l_gc}, {"__close", l_close}, {NULL, NULL}};
  const luaL_Reg *lists[] = {common_path, meta};
  lua_settop(L, 2);
  luaL_newmetatable(L, BIND_OBJECT);
  box_get(L)->object_class = lua_topointer(L, -1); /* in the registry for good */
  for (int i = 0; i < 2; i++)
    for (const luaL_Reg *m = lists[i]; m->name; m++) {
      lua_pushvalue(L, lua_upvalueindex(UP_BOX));
      lua_getfield(L, 2, m->name);
      lua_getfield(L, 2, "go_on");
      for (int n = 0; n < NFORK_NAMES; n++)
        lua_pushstring(L, fork_names[n]);
      lua_pushcclosure(L, m->func, 3 + NFORK_NAMES);
      lua_setfield(L, i == 0 ? 1 : 3, m->name);
    }
  lua_getfield(L, 2, "__tostring");
  lua_setfield(L, 3, "__tostring");
  lua_pushvalue(L, 1);
  lua_setfield(L, 3, "__index");
  lua_pushliteral(L, "moonfork.process");
  lua_setfield(L, 3, "__name");
  reactor_copies(L, l_copied, l_save); /* the class is on top */
  return 0;
}

static int l_object_new(lua_State *L) { /* object_new(state) -> object */
  struct handle *h = lua_newuserdatauv(L, sizeof(*h), NUV);
  *h = (struct handle){NULL, SERVING};
  luaL_setmetatable(L, BIND_OBJECT);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, UV_STATE);
  return 1;
}

/* object_state(value) -> its state table; false: it has none yet; nil: no process */
static int l_object_state(lua_State *L) {
  struct handle *h = luaL_testudata(L, 1, BIND_OBJECT);
  if (!h)
    lua_pushnil(L);
  else if (!push_state(L, h))
    lua_pushboolean(L, 0);
  return 1;
}

/* object_open(object, cell, state): takes it off the common path. Its events are the
 * cell's from now on, its state is the table.
 * -> raw, name of the state, fate, status, error, watcher; raw is nil: it is closed */
static int l_object_open(lua_State *L) {
  struct handle *h = luaL_checkudata(L, 1, BIND_OBJECT);
  struct proc *p = h->p;
  if (p && p->process)
    reactor_unattend(p->reactor, p->process);
  lua_settop(L, 3);
  struct proc **raw = lua_newuserdatauv(L, sizeof(*raw), 0); /* 4 */
  *raw = NULL;
  luaL_setmetatable(L, BIND_PROCESS);
  lua_getiuservalue(L, 1, UV_STATE); /* 5 */
  lua_pushvalue(L, 2);
  int ref = p && p != &bound_of_others ? luaL_ref(L, LUA_REGISTRYINDEX) : LUA_NOREF;
  lua_settop(L, 5);
  lua_pushvalue(L, 3);
  lua_setiuservalue(L, 1, UV_STATE);
  if (!p) {
    lua_pushnil(L);
    lua_pushstring(L, state_names[RUNNING]);
    lua_pushvalue(L, 5);
    return 3;
  }
  *raw = p;
  lua_pushvalue(L, 4);
  lua_pushstring(L, state_names[h->state]);
  lua_pushvalue(L, 5);
  if (p == &bound_of_others) {
    h->p = NULL;
    return 3;
  }
  if (p->known && (p->popped || !p->watched))
    bind_ending_push(L, &p->exit.ending);
  else
    lua_pushnil(L);
  if (p->failed)
    completion_push_failure(L, &p->error);
  else
    lua_pushnil(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, p->exit.trash.ref);
  luaL_unref(L, LUA_REGISTRYINDEX, p->exit.trash.ref);
  p->exit.trash.ref = p->error.trash.ref = ref;
  p->common = 0;
  p->told |= p->known && !p->watched;
  p->handle = NULL;
  h->p = NULL;
  return 6;
}

/* ---- sockets ---- */

enum { UP_WAIT_LUA = 2 };

/* How a moonfork.socket waits: wait(fd, events, timeout | nil) -> true: try again; false:
 * time out. The function in Lua where a callback has to be called meanwhile. */
static int l_wait_on_socket(lua_State *L) {
  struct box *box = box_get(L);
  struct reactor *r = reactor_peek(L);
  int deadline_set = !lua_isnoneornil(L, 3);
  double deadline = deadline_set ? (double)uv_hrtime() / 1e9 + lua_tonumber(L, 3) : 0;
  int is_closing = *luaL_checkstring(L, 2) == '\0';
  if (r && !is_closing && !box->has_waiter && !classes_at_work() && !r->embedded &&
      !r->exposed && !reactor_has_undelivered(r) && !callback_is_running(L)) {
    int fd = (int)luaL_checkinteger(L, 1);
    short events = bind_to_poll(luaL_checkstring(L, 2));
    lua_Hook hook = lua_gethook(L);
    prepare_to_sleep(r);
    while (!reactor_has_undelivered(r) && !hook_is_new(L, hook)) {
      double left = deadline_set ? deadline - (double)uv_hrtime() / 1e9 : 0;
      int ready = deadline_set && left <= 0
                      ? 0
                      : sleep_once(r, fd, events, deadline_set ? bind_to_ms(left) : -1);
      if (ready > 0 || (ready == 0 && deadline_set && left <= 0)) {
        lua_pushboolean(L, ready > 0);
        return 1;
      }
      if (ready < 0)
        break;
    }
  }
  if (deadline_set) {
    double left = deadline - (double)uv_hrtime() / 1e9;
    lua_pushnumber(L, left > 0 ? left : 0);
    lua_replace(L, 3);
  }
  lua_settop(L, 3);
  lua_pushvalue(L, lua_upvalueindex(UP_WAIT_LUA));
  lua_insert(L, 1);
  lua_callk(L, 3, LUA_MULTRET, 0, slow_done);
  return lua_gettop(L);
}

static int l_socket_wait(lua_State *L) { /* socket_wait(f | nil): wait_set_function */
  lua_settop(L, 1);
  if (!lua_isnil(L, 1)) {
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_pushcclosure(L, l_wait_on_socket, 2);
  }
  wait_set_function(L);
  return 0;
}

static int l_has_waiter(lua_State *L) { /* has_waiter(on) */
  box_get(L)->has_waiter = lua_toboolean(L, 1);
  return 0;
}

const luaL_Reg bind_object_functions[] = {
    {"object_class", l_object_class}, {"object_new", l_object_new},
    {"object_state", l_object_state}, {"object_open", l_object_open},
    {"run_told", l_run_told},         {"socket_wait", l_socket_wait},
    {"has_waiter", l_has_waiter},     {NULL, NULL},
};
