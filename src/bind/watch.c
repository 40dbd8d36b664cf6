/* A descriptor of the user's under watch on the private loop, once: how a moonfork.socket
 * waits while a waiter suspends the coroutine. The descriptor is wrapped, because
 * uv_poll_t would make its description non-blocking, which is not ours to do. Runs in the
 * parent. */
#include "bind/watch.h"

#include "bind/completion.h"
#include "os/fd.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct fd_watch {
  struct resident resident;
  uv_poll_t poll;
  struct reactor *reactor;
  struct completion *completion; /* NULL: it was told */
  int fd;                        /* the wrap; owned */
  unsigned is_work;              /* 1: it is outstanding; else 0 */
};

static void on_closed(uv_handle_t *poll) {
  struct fd_watch *w = poll->data;
  w->reactor->nclosing--;
  free(w);
}

static void on_ready(uv_poll_t *poll, int status, int events) {
  struct fd_watch *w = poll->data;
  (void)status, (void)events;
  uv_poll_stop(poll);
  completion_done(w->completion);
  w->completion = NULL;
}

/* Ends it; a completion that was not told is dropped. */
static int l_close(lua_State *L) {
  struct fd_watch **box = luaL_checkudata(L, 1, BIND_WATCH);
  struct fd_watch *w = *box;
  if (!w)
    return 0;
  *box = NULL;
  if (reactor_foreign(w->reactor))
    return 0;
  if (w->completion)
    completion_drop(L, w->completion);
  list_remove(&w->resident.link);
  w->reactor->nwatches--;
  w->reactor->nwork_watches -= w->is_work;
  w->reactor->nclosing++;
  uv_close((uv_handle_t *)&w->poll, on_closed);
  fd_close(&w->fd);
  return 0;
}

static int to_events(const char *events) {
  return (strchr(events, 'r') ? UV_READABLE : 0) |
         (strchr(events, 'w') ? UV_WRITABLE : 0);
}

static int is_shortage(int rc) {
  return rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM || rc == -ENOSPC;
}

static int failed(lua_State *L, int rc) {
  lua_pushnil(L);
  lua_pushstring(L, strerror(-rc));
  lua_pushinteger(L, -rc);
  return 3;
}

static int unwatched(lua_State *L, int rc) {
  lua_pushboolean(L, 0);
  if (rc != -ELOOP)
    return 1;
  lua_pushliteral(L, "own");
  return 2;
}

/* Stack: nil, error. */
static int no_loop(lua_State *L) {
  lua_getfield(L, -1, "code");
  int error = strcmp(lua_tostring(L, -1), "NOMEM") == 0 ? ENOMEM : EMFILE;
  lua_getfield(L, -2, "message");
  lua_replace(L, -3);
  lua_pop(L, 1);
  lua_pushinteger(L, error);
  return 3;
}

static void abandon(struct resident *resident) {
  fd_close(&list_entry(resident, struct fd_watch, resident)->fd);
}

static int start(struct fd_watch *w, int fd, int events) {
  int rc = w->fd = watch_wrap(fd, events);
  if (rc < 0)
    return rc;
  rc = uv_poll_init(&w->reactor->loop, &w->poll, w->fd);
  if (rc < 0) {
    fd_close(&w->fd);
    return rc;
  }
  w->poll.data = w;
  w->resident.abandon = abandon;
  list_push(&w->reactor->residents, &w->resident.link);
  w->reactor->nwatches++;
  w->reactor->nwork_watches += w->is_work;
  uv_poll_start(&w->poll, UV_READABLE, on_ready);
  return 0;
}

/* watch(fd, events, f [, idle]) -> watch: f() is a completion when fd is ready, at most
 * once; close it. An idle one is not outstanding. false: it is ready now, or so broken
 * that an attempt will tell. false, "own": it becomes ready by this reactor, which can't watch
 * itself. nil, message, errno: it can't be watched for lack of resources */
static int l_watch(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  int events = to_events(luaL_checkstring(L, 2));
  luaL_checktype(L, 3, LUA_TFUNCTION);
  lua_settop(L, 4);
  struct reactor *r = reactor_get(L);
  if (!r)
    return no_loop(L);
  struct fd_watch **box = lua_newuserdatauv(L, sizeof(*box), 0);
  *box = NULL;
  luaL_setmetatable(L, BIND_WATCH);
  struct completion *c = completion_new(L, r, &completion_call, 3);
  struct fd_watch *w = c ? calloc(1, sizeof(*w)) : NULL;
  if (!w) {
    if (c)
      completion_drop(L, c);
    return failed(L, -ENOMEM);
  }
  w->reactor = r;
  w->completion = c;
  w->is_work = !lua_toboolean(L, 4);
  int rc = start(w, fd, events);
  if (rc < 0) {
    completion_drop(L, c);
    free(w);
    return is_shortage(rc) ? failed(L, rc) : unwatched(L, rc);
  }
  *box = w;
  reactor_touch(r);
  return 1;
}

static int l_copied(lua_State *L) {
  struct fd_watch **box = lua_touserdata(L, 1);
  *box = NULL;
  return 0;
}

void watch_open(lua_State *L) {
  luaL_newmetatable(L, BIND_WATCH);
  reactor_copies(L, l_copied, NULL);
  lua_pushcfunction(L, l_close);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "__gc");
  lua_setfield(L, -2, "__close");
  lua_pop(L, 1);
}

const luaL_Reg bind_watch_functions[] = {{"watch", l_watch}, {NULL, NULL}};
