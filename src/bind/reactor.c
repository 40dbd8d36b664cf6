/* The reactor: a private uv_loop_t of one Lua state, and the queue of what it completed.
 * Turning the loop never runs Lua and dispatching never turns the loop, so that callbacks
 * may wait. Other loops watch its one descriptor (uv_backend_fd). Runs in the parent. */
#include "bind/reactor.h"

#include "base/copied.h"
#include "bind/values.h"
#include "codec/classes.h"
#include "os/fd.h"
#include "os/fdwait.h"
#include "os/proc.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define UNDELIVERED_MAX ((size_t)64 << 20)

struct box *box_get(lua_State *L) {
  return lua_touserdata(L, lua_upvalueindex(1));
}

/* getpid(2) is a system call, and every call here asks. */
static _Atomic pid_t this_pid;

static int first_had_own_fds;

static void on_forked(void) {
  this_pid = getpid();
  first_had_own_fds = 0; /* libuv makes its pipe anew */
}

enum { LOW_FDS = 1000, LOOP_FDS = 16 };

/* Gives how many it has opened, to be closed again. */
static int occupy_low_fds(int held[LOW_FDS]) {
  struct rlimit limit;
  int n = 0, most = LOW_FDS, null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < LOW_FDS + LOOP_FDS)
    most = limit.rlim_cur > LOOP_FDS ? (int)limit.rlim_cur - LOOP_FDS : 0;
  while (null_fd >= 0 && null_fd < most) {
    held[n++] = null_fd;
    null_fd = fcntl(null_fd, F_DUPFD_CLOEXEC, null_fd + 1);
  }
  fd_close(&null_fd);
  return n;
}

/* With the first loop libuv opens a pipe for the whole process, whose numbers every forked
 * copy closes. On a thread with descriptors of its own they are not the process's, where
 * others may have the numbers: so they are high ones. */
static void let_libuv_begin(void) {
  int held[LOW_FDS], n = occupy_low_fds(held);
  uv_loop_t loop;
  if (uv_loop_init(&loop) == 0)
    uv_loop_close(&loop);
  while (n > 0)
    fd_close(&held[--n]);
}

static void at_first_loop(void) {
  on_forked();
  pthread_atfork(NULL, NULL, on_forked);
  first_had_own_fds = proc_has_own_fds();
  if (first_had_own_fds)
    let_libuv_begin();
}

int reactor_first_had_own_fds(void) {
  return first_had_own_fds;
}

int reactor_foreign(const struct reactor *r) {
  return r->pid != this_pid;
}

struct reactor reactor_of_others = {.pid = -1};

void reactor_copies(lua_State *L, lua_CFunction copied, lua_CFunction save) {
  lua_pushcfunction(L, copied);
  lua_setfield(L, -2, COPIED_FIELD);
  if (!save)
    return;
  lua_pushcfunction(L, save);
  lua_setfield(L, -2, COPIED_SAVE_FIELD);
}

/* ---- making ---- */

static void on_wake(uv_async_t *wake) {
  (void)wake; /* its turn is all that it is for */
}

/* libuv takes the lowest numbers there are. Where the program runs without standard
 * streams these have to stay free: what it prints must not end up in an epoll descriptor.
 */
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
  if (rc == 0 && uv_backend_fd(loop) >= 0)
    fd_label_loop(uv_backend_fd(loop));
  while (n > 0)
    fd_close(&held[--n]);
  return rc;
}

static int reactor_new(struct reactor **ret) {
  struct reactor *r = calloc(1, sizeof(*r));
  if (!r)
    return -ENOMEM;
  list_init(&r->done);
  list_init(&r->residents);
  list_init(&r->trash);
  list_init(&r->reading);
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, at_first_loop);
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
  list_each(it, &r->residents) {
    struct resident *resident = list_entry(it, struct resident, link);
    if (resident->abandon)
      resident->abandon(resident);
  }
  if (loop->async_wfd != loop->async_io_watcher.fd)
    fd_close(&loop->async_wfd);
  fd_close(&loop->async_io_watcher.fd);
  fd_close(&loop->signal_pipefd[0]);
  fd_close(&loop->signal_pipefd[1]);
  fd_close(&loop->emfile_fd);
  fd_close(&loop->backend_fd);
}

struct reactor *reactor_of(const struct box *box) {
  return box->reactor && !reactor_foreign(box->reactor) ? box->reactor : NULL;
}

struct reactor *reactor_peek(lua_State *L) {
  return reactor_of(box_get(L));
}

/* A forked copy starts afresh. The old memory is left: objects point into it. */
static void box_renew(struct box *box) {
  reactor_forked();
  reactor_abandon(box->reactor);
  box->reactor = NULL;
  box->host = NULL;
}

int reactor_let_go(lua_State *L) {
  struct box *box = box_get(L);
  if (!box->reactor || !reactor_foreign(box->reactor))
    return 0;
  box_renew(box);
  return 1;
}

/* ---- turning ---- */

int reactor_ref(lua_State *L, struct reactor *r) {
  if (r->nrefs == 0 || lua_isnil(L, -1))
    return luaL_ref(L, LUA_REGISTRYINDEX);
  int ref = r->refs[--r->nrefs];
  lua_rawseti(L, LUA_REGISTRYINDEX, ref);
  return ref;
}

/* What is kept is no hole in the registry, whose length luaL_ref relies on, and holds a
 * number, as what luaL_unref leaves. */
void reactor_unref(lua_State *L, struct reactor *r, int ref) {
  if (ref < 0 || r->nrefs == REFS_KEPT) {
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
    return;
  }
  lua_pushinteger(L, 0);
  lua_rawseti(L, LUA_REGISTRYINDEX, ref);
  r->refs[r->nrefs++] = ref;
}

void reactor_discard(struct reactor *r, struct trash *t) {
  list_remove(&t->link);
  list_push(&r->trash, &t->link);
}

void reactor_tidy(lua_State *L, struct reactor *r) {
  while (!list_empty(&r->trash)) {
    struct trash *t = list_entry(r->trash.next, struct trash, link);
    list_remove(&t->link);
    reactor_unref(L, r, t->ref);
    if (t->pool)
      blockpool_give(t->pool, t->block);
    else
      free(t->block);
  }
}

int reactor_has_undelivered(const struct reactor *r) {
  return !list_empty(&r->done) || !list_empty(&r->reading);
}

void reactor_arm(struct reactor *r) {
  if (r->exposed && (r->attention || reactor_has_undelivered(r)))
    uv_async_send(&r->wake);
}

void reactor_attend(struct reactor *r, mf_process *process) {
  reactor_unattend(r, NULL);
  r->attended = process;
  mf_attend(process, 1);
}

void reactor_unattend(struct reactor *r, const mf_process *process) {
  mf_process *attended = r->attended;
  if (!attended || (process && process != attended))
    return;
  r->attended = NULL;
  mf_attend(attended, 0);
}

void reactor_turn(struct reactor *r) {
  if (classes_at_work()) /* a message is half made, or half read */
    return;
  if (r->undelivered > UNDELIVERED_MAX) {
    reactor_arm(r);
    return;
  }
  reactor_unattend(r, NULL);
  reactor_turn_attending(r);
}

void reactor_turn_attending(struct reactor *r) {
  uv_run(&r->loop, UV_RUN_NOWAIT);
  r->turned = 1;
  mf_reap(&r->loop);
  while (r->on_turned && r->on_turned(r))
    uv_run(&r->loop, UV_RUN_NOWAIT);
  reactor_arm(r); /* the turn has emptied the eventfd */
}

void reactor_touch(struct reactor *r) {
  if (r->embedded)
    r->touch_embedded(r->embedded);
}

int reactor_outstanding(struct reactor *r) {
  return r->nwork_watches > 0 || r->nwork_timers > 0 || r->nforeign_work > 0 ||
         reactor_has_undelivered(r) || mf_busy(&r->loop) > 0;
}

int reactor_timeout(struct reactor *r) {
  if (reactor_has_undelivered(r))
    return 0;
  uv_update_time(&r->loop);
  int ms = uv_backend_timeout(&r->loop);
  return ms > 0 && r->ntimers == 0 && r->nforeign == 0 && !mf_has_deadline(&r->loop) ? -1
                                                                                     : ms;
}

int reactor_due(struct reactor *r) {
  return r->attention ? 0 : reactor_timeout(r);
}

/* ---- the end of the state ---- */

static void release_residents(struct reactor *r) {
  while (!list_empty(&r->residents)) {
    struct resident *newest = list_entry(r->residents.prev, struct resident, link);
    list_remove(&newest->link);
    if (newest->release)
      newest->release(newest);
  }
}

static void on_wake_closed(uv_handle_t *wake) {
  ((struct reactor *)wake->data)->wake_closed = 1;
}

/* Turns until the loop has no handle. A pool that was garbage waits for its template and
 * keeps no loop alive for that: `wake` does, so it is closed after everything else. What
 * is waited for has time limits, so the limit here is never met; it stands against a hang
 * at exit. */
static int drain(struct reactor *r) {
  r->wake.data = r;
  for (int i = 0; i < 10000; i++) {
    uv_run(&r->loop, UV_RUN_NOWAIT);
    if (r->nclosing == 0 && !uv_is_closing((uv_handle_t *)&r->wake))
      uv_close((uv_handle_t *)&r->wake, on_wake_closed);
    if (r->wake_closed && uv_loop_close(&r->loop) == 0)
      return 1;
    if (i > 100)
      poll(NULL, 0, 1);
  }
  return 0;
}

int reactor_end(struct reactor *r) {
  release_residents(r);
  mf_context_close(&r->loop);
  if (drain(r))
    return 1;
  assert(!"the loop has handles left");
  return 0;
}

void reactor_free(lua_State *L, struct reactor *r) {
  reactor_tidy(L, r);
  while (r->nrefs > 0)
    luaL_unref(L, LUA_REGISTRYINDEX, r->refs[--r->nrefs]);
  blockpool_empty(&r->procs);
  free(r);
}

/* ---- the reactor of a state ---- */

int reactor_refuse(lua_State *L, int rc) {
  lua_pushnil(L);
  lua_pushfstring(L, "the event loop can't be made: %s%s", mf_strerror(rc),
                  rc == -EMFILE ? " (it needs seven descriptors)" : "");
  bind_error_push(L, bind_error_name(rc), lua_tostring(L, -1), NULL, MF_STARTED_NO, NULL);
  lua_remove(L, -2);
  return 2;
}

/* The function that the Lua side left for this. 0 or -ENOMEM, the one thing that it fails
 * of. */
static int tell_making(lua_State *L) {
  int rc = 0;
  if (lua_getfield(L, LUA_REGISTRYINDEX, BIND_ID "making") != LUA_TFUNCTION)
    lua_pop(L, 1);
  else if (lua_pcall(L, 0, 0, 0) != LUA_OK) {
    lua_pop(L, 1);
    rc = -ENOMEM;
  }
  return rc;
}

struct reactor *reactor_get(lua_State *L) {
  struct box *box = box_get(L);
  struct reactor *r = NULL;
  if (box->closed)
    luaL_error(L, "the Lua state is being closed");
  if (box->reactor && reactor_foreign(box->reactor))
    box_renew(box);
  if (box->reactor) {
    reactor_tidy(L, box->reactor);
    return box->reactor;
  }
  if (box->keep)
    box->keep(L);
  int rc = tell_making(L);
  if (rc == 0)
    rc = reactor_new(&r);
  if (rc < 0) {
    reactor_refuse(L, rc);
    return NULL;
  }
  rc = mf_context_keep(&r->loop);
  if (rc == 0 && box->host)
    rc = box->open_embedded(L, r, box->host);
  if (rc < 0) {
    if (reactor_end(r))
      reactor_free(L, r);
    reactor_refuse(L, rc);
    return NULL;
  }
  box->reactor = r;
  return r;
}

int bind_to_ms(lua_Number seconds) {
  lua_Number ms = ceil(seconds * 1000);
  return ms >= INT_MAX ? INT_MAX : ms > 0 ? (int)ms : 0;
}

short bind_to_poll(const char *events) {
  int mask = 0;
  for (; *events; events++)
    mask |= *events == 'w' ? POLLOUT : POLLIN;
  return (short)mask;
}
