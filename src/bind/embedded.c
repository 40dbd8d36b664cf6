/* The reactor embedded in the loop of a C host: three handles there watch the private
 * loop's descriptor. Callbacks run from the host's turn and outside of ours. What they
 * raise never passes through libuv: the Lua side keeps it for the next call.
 *
 *   prepare (before the host sleeps)   private turn; what is due, and whether the host's
 *                                      loop has to stay for it
 *   poll, timer                        private turn, and dispatch (moonfork's `turn` in
 *                                      the registry)
 *
 * Runs in the parent. */
#include "bind/reactor.h"
#include "bind/values.h"
#include <errno.h>
#include <stdlib.h>

struct embedded {
  struct resident resident;
  struct reactor *reactor; /* NULL: closed */
  lua_State *L;            /* a thread of its own: the main one may be busy */
  uv_poll_t poll;
  uv_timer_t timer;
  uv_prepare_t prepare;
  int nhandles;
};

/* Handles are referenced only while work is outstanding, so that uv_run returns then. */
static void set_alive(struct embedded *g, int alive) {
  uv_handle_t *handles[] = {(uv_handle_t *)&g->poll, (uv_handle_t *)&g->timer};
  for (int i = 0; i < 2; i++) {
    if (alive)
      uv_ref(handles[i]);
    else
      uv_unref(handles[i]);
  }
}

static void dispatch(struct embedded *g) {
  lua_State *L = g->L;
  lua_settop(L, 0);
  if (lua_getfield(L, LUA_REGISTRYINDEX, BIND_ID "turn") != LUA_TFUNCTION)
    return;
  lua_pcall(L, 0, 0, 0); /* the function keeps errors itself */
  if (g->reactor)
    lua_settop(L, 0);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
  struct embedded *g = poll->data;
  (void)status, (void)events;
  if (g->reactor)
    dispatch(g);
}

static void on_timer(uv_timer_t *timer) {
  struct embedded *g = timer->data;
  if (g->reactor)
    dispatch(g);
}

static void on_prepare(uv_prepare_t *prepare) {
  struct embedded *g = prepare->data;
  struct reactor *r = g->reactor;
  if (!r || reactor_foreign(r))
    return;
  reactor_turn(r);
  int ms = reactor_due(r);
  if (ms < 0)
    uv_timer_stop(&g->timer);
  else
    uv_timer_start(&g->timer, on_timer, (uint64_t)ms, 0);
  set_alive(g, r->attention || reactor_outstanding(r));
}

static void touch(struct embedded *g) {
  set_alive(g, 1); /* the next prepare looks closer */
}

static void on_closed(uv_handle_t *handle) {
  struct embedded *g = handle->data;
  if (--g->nhandles == 0)
    free(g);
}

/* Its memory goes when the host's loop turns. */
static void release(struct resident *resident) {
  struct embedded *g = list_entry(resident, struct embedded, resident);
  g->reactor = NULL;
  uv_close((uv_handle_t *)&g->prepare, on_closed);
  uv_close((uv_handle_t *)&g->timer, on_closed);
  uv_close((uv_handle_t *)&g->poll, on_closed);
}

static int embedded_open(lua_State *L, struct reactor *r, uv_loop_t *host) {
  lua_State *thread = lua_newthread(L);
  lua_setfield(L, LUA_REGISTRYINDEX, BIND_ID "thread");
  struct embedded *g = calloc(1, sizeof(*g));
  if (!g)
    return -ENOMEM;
  int rc = uv_poll_init(host, &g->poll, uv_backend_fd(&r->loop));
  if (rc < 0) {
    free(g);
    return rc;
  }
  uv_timer_init(host, &g->timer);
  uv_prepare_init(host, &g->prepare);
  g->poll.data = g->timer.data = g->prepare.data = g;
  g->nhandles = 3;
  g->reactor = r;
  g->L = thread;
  r->embedded = g;
  r->touch_embedded = touch;
  g->resident.release = release;
  list_push(&r->residents, &g->resident.link);
  r->exposed = 1;
  reactor_unattend(r, NULL);
  uv_prepare_start(&g->prepare, on_prepare);
  uv_poll_start(&g->poll, UV_READABLE, on_poll);
  uv_unref((uv_handle_t *)&g->prepare);
  set_alive(g, 0);
  return 0;
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
  box->open_embedded = embedded_open;
  if (reactor_get(L))
    return bind_result_push(L, 0);
  box->host = NULL;
  return 2;
}

const luaL_Reg bind_embedded_functions[] = {{"use_loop", l_use_loop}, {NULL, NULL}};
