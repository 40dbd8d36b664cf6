/* The reactor: a private uv_loop_t of one Lua state, and the queue of what it completed.
 * Turning the loop never runs Lua and dispatching never turns the loop, so that callbacks
 * may wait. Other loops watch its one descriptor (uv_backend_fd). Runs in the parent. */
#include "bind/bind.h"
#include "os/fd.h"
#include "os/fdwait.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

struct box *box_get(lua_State *L) {
  return lua_touserdata(L, lua_upvalueindex(1));
}

/* getpid(2) is a system call, and every call here asks. */
static _Atomic pid_t this_pid;

static void on_forked(void) {
  this_pid = getpid();
}

static void remember_pid(void) {
  on_forked();
  pthread_atfork(NULL, NULL, on_forked);
}

int reactor_foreign(const struct reactor *r) {
  return r->pid != this_pid;
}

/* ---- making ---- */

static void on_wake(uv_async_t *wake) {
  (void)wake; /* its turn is all that it is for */
}

/* libuv takes the lowest numbers there are. Where the program runs without standard streams
 * these have to stay free: what it prints must not end up in an epoll descriptor. */
static int loop_init(uv_loop_t *loop) {
  int held[3], n = 0;
  for (int fd = 0; fd < 3; fd++) {
    if (fcntl(fd, F_GETFD) >= 0)
      continue;
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd >= 0)
      held[n++] = null_fd;
  }
  int rc = mf_check_loop_room();
  if (rc == 0)
    rc = uv_loop_init(loop);
  while (n > 0)
    fd_close(&held[--n]);
  return rc;
}

static int reactor_new(struct reactor **ret) {
  struct reactor *r = calloc(1, sizeof(*r));
  if (!r)
    return -ENOMEM;
  list_init(&r->done);
  list_init(&r->procs);
  list_init(&r->trash);
  list_init(&r->watches);
  list_init(&r->services);
  list_init(&r->reading);
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, remember_pid);
  r->pid = this_pid;
  int rc = loop_init(&r->loop);
  if (rc < 0) {
    free(r);
    return rc;
  }
  rc = uv_async_init(&r->loop, &r->wake, on_wake);
  if (rc < 0) {
    uv_loop_close(&r->loop);
    free(r);
    return rc;
  }
  *ret = r;
  return 0;
}

void reactor_forked(void) {
  static _Atomic pid_t done_in;
  pid_t pid = getpid();
  if (atomic_exchange(&done_in, pid) != pid)
    mf_forked_child();
}

/* libuv's own way, uv_loop_fork, would watch again what the copy must let go of. The
 * epoll descriptor is only closed: no EPOLL_CTL_DEL reaches the parent's. */
void reactor_abandon(struct reactor *r) {
  uv_loop_t *loop = &r->loop;
  watch_abandon(r);
  if (loop->async_wfd != loop->async_io_watcher.fd)
    fd_close(&loop->async_wfd);
  fd_close(&loop->async_io_watcher.fd);
  fd_close(&loop->signal_pipefd[0]);
  fd_close(&loop->signal_pipefd[1]);
  fd_close(&loop->emfile_fd);
  fd_close(&loop->backend_fd);
}

struct reactor *reactor_peek(lua_State *L) {
  struct box *box = box_get(L);
  return box->reactor && !reactor_foreign(box->reactor) ? box->reactor : NULL;
}

/* A forked copy starts afresh. The old memory is left: objects point into it. */
static void box_renew(struct box *box) {
  reactor_forked();
  reactor_abandon(box->reactor);
  box->reactor = NULL;
  box->host = NULL;
}

static void reactor_close(lua_State *L, struct reactor *r);

/* -> nil, error */
static struct reactor *refuse(lua_State *L, int rc) {
  lua_pushnil(L);
  lua_pushfstring(L, "the event loop can't be made: %s%s", mf_strerror(rc),
                  rc == -EMFILE ? " (it needs six descriptors)" : "");
  bind_error_push(L, bind_error_name(rc), lua_tostring(L, -1), NULL, MF_STARTED_NO, NULL);
  lua_remove(L, -2);
  return NULL;
}

struct reactor *reactor_get(lua_State *L) {
  struct box *box = box_get(L);
  struct reactor *r;
  if (box->closed)
    luaL_error(L, "the Lua state is being closed");
  if (box->reactor && reactor_foreign(box->reactor))
    box_renew(box);
  if (box->reactor) {
    reactor_tidy(L, box->reactor);
    return box->reactor;
  }
  int rc = reactor_new(&r);
  if (rc < 0)
    return refuse(L, rc);
  rc = mf_home_keep(&r->loop);
  if (rc == 0 && box->host)
    rc = guest_open(L, r, box->host);
  if (rc < 0) {
    reactor_close(L, r);
    return refuse(L, rc);
  }
  box->reactor = r;
  return r;
}

/* ---- turning ---- */

void reactor_discard(struct reactor *r, struct trash *t) {
  list_remove(&t->link);
  list_push(&r->trash, &t->link);
}

void reactor_tidy(lua_State *L, struct reactor *r) {
  while (!list_empty(&r->trash)) {
    struct trash *t = list_entry(r->trash.next, struct trash, link);
    list_remove(&t->link);
    luaL_unref(L, LUA_REGISTRYINDEX, t->ref);
    free(t->block);
  }
}

static int has_undelivered(const struct reactor *r) {
  return !list_empty(&r->done) || !list_empty(&r->reading);
}

void reactor_arm(struct reactor *r) {
  if (r->exposed && (r->attention || has_undelivered(r)))
    uv_async_send(&r->wake);
}

void reactor_turn(struct reactor *r) {
  uv_run(&r->loop, UV_RUN_NOWAIT);
  r->turned = 1;
  mf_reap(&r->loop);
  reactor_arm(r); /* the turn has emptied the eventfd */
}

void reactor_touch(struct reactor *r) {
  if (r->guest)
    guest_touch(r->guest);
}

int reactor_outstanding(struct reactor *r) {
  return !list_empty(&r->watches) || has_undelivered(r) || mf_busy(&r->loop) > 0;
}

int reactor_timeout(struct reactor *r) {
  if (has_undelivered(r))
    return 0;
  uv_update_time(&r->loop);
  int ms = uv_backend_timeout(&r->loop);
  return ms > 0 && !mf_has_deadline(&r->loop) ? -1 : ms;
}

int reactor_due(struct reactor *r) {
  return r->attention ? 0 : reactor_timeout(r);
}

/* ---- the end of the state ---- */

static void on_wake_closed(uv_handle_t *wake) {
  struct reactor *r = wake->data;
  r->nclosing--;
}

/* Turns until the loop has no handle. The library promises that this takes no outside
 * event, so the limit is never met; it stands against a hang at exit. */
static int drain(struct reactor *r) {
  for (int i = 0; i < 10000; i++) {
    uv_run(&r->loop, UV_RUN_NOWAIT);
    if (r->nclosing == 0 && uv_loop_close(&r->loop) == 0)
      return 1;
    if (i > 100)
      poll(NULL, 0, 1);
  }
  return 0;
}

static void reactor_close(lua_State *L, struct reactor *r) {
  service_release_all(r);
  while (!list_empty(&r->procs))
    bound_release(list_entry(r->procs.next, struct proc, link));
  if (r->guest)
    guest_close(r->guest);
  mf_home_close(&r->loop);
  r->wake.data = r;
  r->nclosing++;
  uv_close((uv_handle_t *)&r->wake, on_wake_closed);
  if (!drain(r)) {
    assert(!"the loop has handles left");
    return;
  }
  service_stop_reading(r);
  while (!list_empty(&r->done)) {
    struct completion *c = list_entry(r->done.next, struct completion, link);
    list_remove(&c->link);
    if (c->kind >= DONE_REPLY) {
      service_forget(c);
      continue;
    }
    completion_clear(c);
    if (c->starts)
      proc_unhold(c->starts);
    reactor_discard(r, c->proc ? &c->proc->exit.trash : &c->trash);
  }
  reactor_tidy(L, r);
  free(r);
}

static int box_gc(lua_State *L) {
  struct box *box = lua_touserdata(L, 1);
  struct reactor *r = box->reactor;
  box->closed = 1;
  box->reactor = NULL;
  if (r && !reactor_foreign(r))
    reactor_close(L, r);
  return 0;
}

struct box *box_open(lua_State *L) {
  struct box *box = lua_newuserdatauv(L, sizeof(*box), 0);
  *box = (struct box){0};
  luaL_newmetatable(L, BIND_BOX);
  lua_pushcfunction(L, box_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  lua_setfield(L, LUA_REGISTRYINDEX, BIND_BOX);
  return box;
}

/* ---- for Lua ---- */

/* One turn without waiting. How many completions wait then: what comes later belongs to the
 * next batch. */
static int l_turn(lua_State *L) { /* turn() -> number */
  struct reactor *r = reactor_peek(L);
  lua_Integer n = 0;
  if (r) {
    reactor_tidy(L, r);
    if (!service_is_full(r))
      reactor_turn(r);
    service_read_on(L, r);
    list_each(it, &r->done) n++;
  }
  lua_pushinteger(L, n);
  return 1;
}

static int l_pop(lua_State *L) { /* pop() -> kind, target, error, value; or nothing */
  struct reactor *r = reactor_peek(L);
  return r ? completion_pop(L, r) : 0;
}

static int l_outstanding(lua_State *L) { /* outstanding() -> boolean */
  struct reactor *r = reactor_peek(L);
  lua_pushboolean(L, r && reactor_outstanding(r));
  return 1;
}

static int l_timeout(lua_State *L) { /* timeout() -> seconds, for others; or nil: none */
  struct reactor *r = reactor_peek(L);
  int ms = r ? reactor_due(r) : -1;
  if (ms < 0)
    lua_pushnil(L);
  else
    lua_pushnumber(L, (lua_Number)ms / 1000);
  return 1;
}

/* fd() -> the descriptor for other loops, up to date; or nil, error */
static int l_fd(lua_State *L) {
  struct reactor *r = reactor_get(L);
  if (!r)
    return 2;
  r->exposed = 1;
  reactor_turn(r);
  lua_pushinteger(L, uv_backend_fd(&r->loop));
  return 1;
}

static int l_attention(lua_State *L) { /* attention(on) */
  struct reactor *r = reactor_peek(L);
  if (r) {
    r->attention = lua_toboolean(L, 1);
    reactor_arm(r);
  }
  return 0;
}

/* post(f) -> true: f() is a completion from now on; or nil, error */
static int l_post(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  struct reactor *r = reactor_get(L);
  if (!r)
    return 2;
  struct completion *c = completion_new(L, r, DONE_CALL, 1);
  if (!c)
    return bind_result_push(L, -ENOMEM);
  completion_done(c);
  reactor_arm(r);
  reactor_touch(r);
  return bind_result_push(L, 0);
}

int bind_to_ms(lua_Number seconds) {
  lua_Number ms = ceil(seconds * 1000);
  return ms >= INT_MAX ? INT_MAX : ms > 0 ? (int)ms : 0;
}

static short to_poll(const char *events) {
  short mask = 0;
  for (; *events; events++)
    mask |= *events == 'w' ? POLLOUT : POLLIN;
  return mask;
}

/* Waits until the loop wants a turn, fd is ready, a signal came, or the time is up. */
static int l_block(lua_State *L) { /* block([seconds [, fd, events]]) -> is fd ready? */
  struct reactor *r = reactor_peek(L);
  int limit = lua_isnoneornil(L, 1) ? -1 : bind_to_ms(luaL_checknumber(L, 1));
  int fd = lua_isnoneornil(L, 2) ? -1 : (int)luaL_checkinteger(L, 2);
  int ms = r ? reactor_timeout(r) : -1;
  if (ms < 0 || (limit >= 0 && limit < ms))
    ms = limit;
  struct pollfd fds[2] = {
      {.fd = fd, .events = fd < 0 ? 0 : to_poll(luaL_checkstring(L, 3))},
      {.fd = r ? uv_backend_fd(&r->loop) : -1, .events = POLLIN},
  };
  int n = fdwait(fds, 2, ms);
  lua_pushboolean(L, n > 0 && fds[0].revents != 0);
  return 1;
}

static int l_copied(lua_State *L) { /* copied() -> made by a process this is a copy of? */
  struct box *box = box_get(L);
  lua_pushboolean(L, box->reactor && reactor_foreign(box->reactor));
  return 1;
}

/* loop_room() -> true: libuv can make a loop; or nil, error */
static int l_loop_room(lua_State *L) {
  int rc = mf_check_loop_room();
  if (rc == 0)
    return bind_result_push(L, 0);
  refuse(L, rc);
  return 2;
}

static int l_now(lua_State *L) { /* now() -> seconds of a clock that only goes forward */
  lua_pushnumber(L, (lua_Number)uv_hrtime() / 1e9);
  return 1;
}

static int l_reset(lua_State *L) { /* reset() -> true; or nil, error */
  struct reactor *r = reactor_peek(L);
  if (r)
    r->turned = 0;
  return bind_result_push(L, r ? mf_reset(&r->loop) : 0);
}

/* use_loop(pointer, turn) -> true: turn() from its turns; or nil, error */
static int l_use_loop(lua_State *L) {
  struct box *box = box_get(L);
  luaL_checktype(L, 1, LUA_TLIGHTUSERDATA);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  if (box->host || reactor_peek(L))
    return luaL_error(L, "use_loop must be called before any other function of moonfork");
  lua_pushvalue(L, 2);
  lua_setfield(L, LUA_REGISTRYINDEX, BIND_ID "turn");
  box->host = lua_touserdata(L, 1);
  if (reactor_get(L))
    return bind_result_push(L, 0);
  box->host = NULL;
  return 2;
}

const luaL_Reg bind_reactor_functions[] = {
    {"turn", l_turn},
    {"pop", l_pop},
    {"outstanding", l_outstanding},
    {"timeout", l_timeout},
    {"fd", l_fd},
    {"attention", l_attention},
    {"post", l_post},
    {"block", l_block},
    {"copied", l_copied},
    {"loop_room", l_loop_room},
    {"now", l_now},
    {"reset", l_reset},
    {"use_loop", l_use_loop},
    {NULL, NULL},
};
