/* fork.signal: signals of this process, told as completions. Runs in the parent.
 *
 * They are libuv's to catch (uv_signal_t on the private loop), because there is one
 * disposition a process and other users of libuv in it, luv for one, may watch the same
 * signal: libuv tells each of them, whoever comes or goes first. What libuv lacks is
 * here: the disposition that was there is put back, where it leaves the default.
 *
 *   first of this process for a signal: `before` = the disposition found
 *   last:                               `before` is put back, unless another user of
 *                                       libuv still watches, or somebody has put a
 *                                       handler of his own over libuv's
 *
 * A process forked from here must not tell this one of its own signals, through libuv's
 * pipe that both would have: all of ours are blocked around fork(2), and the child has
 * the dispositions of before. */
#include "bind/completion.h"
#include "os/proc.h"
#include "os/signame.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

struct watched {
  struct resident resident;
  uv_signal_t uv;
  struct completion told; /* in the reactor's done while count > 0 */
  int signum;
  unsigned count; /* came, not told yet */
};

/* ---- dispositions: of the process, whichever thread or Lua state watches ---- */

typedef void (*handler_fn)(int);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static handler_fn uv_handler; /* libuv's; NULL: not seen yet */
static struct {
  unsigned users;
  struct sigaction before;
} table[NSIG];

static handler_fn handler_of(const struct sigaction *a) {
  handler_fn with_info;
  memcpy(&with_info, &a->sa_sigaction, sizeof with_info); /* only to be compared */
  return a->sa_flags & SA_SIGINFO ? with_info : a->sa_handler;
}

/* Puts back what was there, unless it was libuv's: that had watched for somebody who is
 * gone. */
static void put_back(int signum) {
  if (handler_of(&table[signum].before) != uv_handler)
    sigaction(signum, &table[signum].before, NULL);
}

static _Thread_local sigset_t mask_before_fork;
static _Thread_local int is_blocked;

static void before_fork(void) {
  sigset_t ours;
  sigemptyset(&ours);
  is_blocked = 0;
  for (int i = 1; i < NSIG; i++)
    if (table[i].users > 0) {
      sigaddset(&ours, i);
      is_blocked = 1;
    }
  if (is_blocked)
    pthread_sigmask(SIG_BLOCK, &ours, &mask_before_fork);
}

static void after_fork(void) {
  if (is_blocked)
    pthread_sigmask(SIG_SETMASK, &mask_before_fork, NULL);
  is_blocked = 0;
}

static void in_child(void) {
  for (int i = 1; is_blocked && i < NSIG; i++) {
    struct sigaction now;
    if (table[i].users > 0 && sigaction(i, NULL, &now) == 0 &&
        handler_of(&now) == uv_handler)
      put_back(i);
    table[i].users = 0;
  }
  after_fork();
}

static void guard_forks(void) {
  pthread_atfork(before_fork, after_fork, in_child);
}

/* ---- one signal ---- */

static void on_signal(uv_signal_t *uv, int signum) {
  struct watched *w = uv->data;
  (void)signum;
  if (w->count++ == 0)
    completion_done(&w->told);
}

static int start(struct watched *w) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, guard_forks);
  struct sigaction before, now;
  pthread_mutex_lock(&lock);
  int rc = sigaction(w->signum, NULL, &before) < 0 ? -errno : 0;
  if (rc == 0)
    rc = uv_signal_start(&w->uv, on_signal, w->signum);
  if (rc == 0 && table[w->signum].users++ == 0) {
    table[w->signum].before = before;
    if (!uv_handler && sigaction(w->signum, NULL, &now) == 0)
      uv_handler = handler_of(&now);
  }
  pthread_mutex_unlock(&lock);
  return rc;
}

/* The signal is blocked meanwhile: between libuv's default and what is put back it would
 * end the process. */
static void stop(struct watched *w) {
  struct sigaction found, left;
  sigset_t one, mask;
  int signum = w->signum;
  sigemptyset(&one);
  sigaddset(&one, signum);
  pthread_mutex_lock(&lock);
  pthread_sigmask(SIG_BLOCK, &one, &mask);
  sigaction(signum, NULL, &found);
  uv_signal_stop(&w->uv);
  sigaction(signum, NULL, &left);
  int is_last = --table[signum].users == 0;
  if (handler_of(&found) != uv_handler)
    sigaction(signum, &found, NULL);
  else if (is_last && handler_of(&left) == SIG_DFL)
    put_back(signum);
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  pthread_mutex_unlock(&lock);
}

static void on_closed(uv_handle_t *uv) {
  struct watched *w = uv->data;
  w->told.reactor->nclosing--;
  reactor_discard(w->told.reactor, &w->told.trash);
}

static void end(struct watched *w) {
  list_remove(&w->told.link);
  list_remove(&w->resident.link);
  w->told.reactor->nclosing++;
  uv_close((uv_handle_t *)&w->uv, on_closed);
}

static void release(struct resident *resident) {
  struct watched *w = list_entry(resident, struct watched, resident);
  stop(w);
  end(w);
}

/* libuv forgets that it was watched here: it would take a later watch in the copy for the
 * second one. The fork has put the disposition back. */
static void abandon(struct resident *resident) {
  struct watched *w = list_entry(resident, struct watched, resident);
  struct sigaction found;
  sigaction(w->signum, NULL, &found);
  uv_signal_stop(&w->uv);
  if (handler_of(&found) != uv_handler)
    sigaction(w->signum, &found, NULL);
}

/* ---- for Lua ---- */

static void push_name(lua_State *L, int signum) {
  const struct signame *s;
  for (size_t i = 0; (s = signame_at(i)); i++)
    if (s->number == signum) {
      lua_pushstring(L, s->name);
      return;
    }
  lua_pushfstring(L, "%d", signum);
}

static int push(lua_State *L, struct completion *c) {
  struct watched *w = list_entry(c, struct watched, told);
  lua_pushliteral(L, "call");
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->trash.ref);
  push_name(L, w->signum);
  list_remove(&c->link);
  if (--w->count > 0)
    completion_done(c);
  return 3;
}

static void forget(struct completion *c) {
  (void)c; /* it was released with the watch */
}

static const struct completion_ops ops = {push, forget};

static struct watched *find(struct reactor *r, int signum) {
  list_each(it, &r->residents) {
    struct resident *resident = list_entry(it, struct resident, link);
    struct watched *w = list_entry(resident, struct watched, resident);
    if (resident->release == release && w->signum == signum)
      return w;
  }
  return NULL;
}

static int watch(lua_State *L, struct reactor *r, int signum, int ref) {
  struct watched *w = calloc(1, sizeof(*w));
  if (!w) {
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
    return bind_result_push(L, -ENOMEM);
  }
  completion_init(&w->told, r, &ops);
  w->told.trash.ref = ref;
  w->told.trash.block = w;
  w->signum = signum;
  w->uv.data = w;
  int rc = uv_signal_init(&r->loop, &w->uv);
  if (rc < 0) {
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
    free(w);
    return bind_result_push(L, rc);
  }
  w->resident = (struct resident){.release = release, .abandon = abandon};
  list_push(&r->residents, &w->resident.link);
  uv_unref((uv_handle_t *)&w->uv);
  rc = start(w);
  if (rc < 0)
    end(w);
  r->turned = 0;
  return bind_result_push(L, rc);
}

/* libuv has one pipe for the process, with the descriptors of the thread that made the
 * first loop, and would abort where they are not there. */
static int refuse_thread(lua_State *L) {
  lua_pushnil(L);
  bind_error_push(
      L, "UNSUPPORTED",
      "signals can't be watched here: they are the whole process's, which has "
      "threads with descriptors of their own (clones in threads, or "
      "pseudo-processes)",
      NULL, MF_STARTED_NO, NULL);
  return 2;
}

/* signal(number, f) -> true: f(name) is a completion for each of them, in place of an
 * earlier function. signal(number, nil) -> true: taken back. Or nil, error */
static int l_signal(lua_State *L) {
  int signum = (int)luaL_checkinteger(L, 1);
  luaL_argcheck(L, signum > 0 && signum < NSIG, 1, "not the number of a signal");
  lua_settop(L, 2);
  int takes_back = lua_isnil(L, 2);
  struct reactor *r = takes_back ? reactor_peek(L) : reactor_get(L);
  if (!r)
    return takes_back ? bind_result_push(L, 0) : 2;
  struct watched *w = find(r, signum);
  if (takes_back) {
    if (w) {
      stop(w);
      end(w);
    }
    return bind_result_push(L, 0);
  }
  luaL_checktype(L, 2, LUA_TFUNCTION);
  if (proc_has_own_fds() || reactor_first_had_own_fds())
    return refuse_thread(L);
  lua_pushvalue(L, 2);
  int ref = luaL_ref(L, LUA_REGISTRYINDEX);
  if (!w)
    return watch(L, r, signum, ref);
  luaL_unref(L, LUA_REGISTRYINDEX, w->told.trash.ref);
  w->told.trash.ref = ref;
  return bind_result_push(L, 0);
}

const luaL_Reg bind_signal_functions[] = {{"signal", l_signal}, {NULL, NULL}};
