/* Waiting (wait.h). Both sides: with a wait function the reactor turns or the coroutine
 * is suspended, without one the process sleeps in poll(2), or in the call itself where
 * nothing limits the time. Knows no operation: each hands in its kind. */
#include "socket/wait.h"

#include <errno.h>
#include <lauxlib.h>
#include <pthread.h>
#include <string.h>

#define END_NEXT_POLL "moonfork.end_next_poll" /* for every copy of this code, too */

static const char wait_key = 0, names_key = 0;

void wait_keep_names(lua_State *L) {
  static const char *const names[] = {WAIT_SHARED, WAIT_ATTEND, END_NEXT_POLL};
  enum { NNAMES = sizeof names / sizeof *names };
  lua_createtable(L, NNAMES, 0);
  for (int i = 0; i < NNAMES; i++) {
    lua_pushstring(L, names[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_rawsetp(L, LUA_REGISTRYINDEX, &names_key);
}

void wait_set_function(lua_State *L) {
  lua_rawsetp(L, LUA_REGISTRYINDEX, &wait_key);
}

/* Pushes it, or nil. Its type. */
static int push_function(lua_State *L) {
  int type = lua_rawgetp(L, LUA_REGISTRYINDEX, &wait_key);
  if (type != LUA_TNIL)
    return type;
  lua_pop(L, 1);
  return lua_getfield(L, LUA_REGISTRYINDEX, WAIT_SHARED);
}

int wait_has_function(lua_State *L) {
  int has = push_function(L) != LUA_TNIL;
  lua_pop(L, 1);
  return has;
}

int wait_event(struct wait *w, const char *events) {
  w->want = (struct want){w->socket->fd, events, -1};
  return WAIT_MORE;
}

void wait_closing(lua_State *L, const struct socket *s) {
  if (s->waiting == 0 || s->fd < 0)
    return;
  luaL_checkstack(L, 5, NULL);
  push_function(L);
  lua_pushinteger(L, s->fd);
  lua_pushliteral(L, "");
  lua_pushnil(L);
  if (lua_isnil(L, -4))
    lua_pop(L, 4);
  else if (lua_pcall(L, 3, 0, 0) != LUA_OK)
    lua_pop(L, 1); /* those who wait do so in vain; the closing goes on */
}

/* ---- failing ---- */

static int undo(lua_State *L, const struct wait_kind *kind, int nargs) {
  return kind->undo ? kind->undo(L, nargs) : 3;
}

int wait_fail_top(struct wait *w) {
  return undo(w->L, w->kind, w->nargs);
}

int wait_fail(struct wait *w, int error) {
  socket_fail(w->L, error);
  return wait_fail_top(w);
}

/* ---- waiting ---- */

double wait_left(lua_State *L) {
  if (lua_isnil(L, SLOT_DEADLINE))
    return -1;
  double left = lua_tonumber(L, SLOT_DEADLINE) - sys_now();
  return left > 0 ? left : 0;
}

static double wait_limit(lua_State *L, const struct want *want) {
  double left = wait_left(L);
  return want->at_most >= 0 && (left < 0 || want->at_most < left) ? want->at_most : left;
}

/* The three answers of a wait function are on top. 0: take the next step, else how many
 * results the operation has failed with. "Timed out" counts when the clock agrees: pauses
 * end that way too. */
static int judge_answer(lua_State *L, const struct wait_kind *kind, int nargs) {
  struct socket *s = lua_touserdata(L, SLOT_SELF);
  int is_ready = lua_toboolean(L, -3);
  s->waiting--;
  if (lua_isnil(L, -3)) {
    if (lua_isnil(L, -2)) {
      lua_pushliteral(L, "the wait function returned nothing");
      lua_replace(L, -3);
    }
    return undo(L, kind, nargs);
  }
  lua_pop(L, 3);
  if (is_ready || wait_left(L) != 0)
    return 0;
  socket_fail(L, ETIMEDOUT);
  return undo(L, kind, nargs);
}

/* ---- without a wait function ---- */

void wait_end_next_poll(lua_State *L) {
  lua_pushboolean(L, 1);
  lua_setfield(L, LUA_REGISTRYINDEX, END_NEXT_POLL);
}

int wait_poll_ends(lua_State *L) {
  int ends = lua_getfield(L, LUA_REGISTRYINDEX, END_NEXT_POLL) != LUA_TNIL;
  lua_pop(L, 1);
  if (ends) {
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, END_NEXT_POLL);
  }
  return ends;
}

/* The function is on top: looks after what the process has to look after, then sleeps. */
static int attend_and_sleep(lua_State *L, struct pollfd *p, int n, double timeout,
                            int *ret_attended) {
  sigset_t term, before;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &term, &before);
  int status = lua_pcall(L, 0, 1, 0), r = 0;
  if (status == LUA_OK) {
    *ret_attended = lua_toboolean(L, -1);
    lua_pop(L, 1);
    r = *ret_attended ? 0 : sys_sleep(p, n, timeout, &before);
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (status != LUA_OK)
    lua_error(L);
  return r;
}

static int sleep_once(lua_State *L, struct pollfd *p, int n, double timeout,
                      int *ret_attended) {
  *ret_attended = 0;
  if (lua_getfield(L, LUA_REGISTRYINDEX, WAIT_ATTEND) == LUA_TFUNCTION)
    return attend_and_sleep(L, p, n, timeout, ret_attended);
  lua_pop(L, 1);
  return sys_sleep(p, n, timeout, NULL);
}

static double until(double deadline) {
  double left = deadline - sys_now();
  return deadline < 0 ? -1 : left > 0 ? left : 0;
}

int wait_sleep(lua_State *L, struct pollfd *p, int n, double timeout) {
  double deadline = timeout < 0 ? -1 : sys_now() + timeout;
  int attended;
  for (;;) {
    int r = sleep_once(L, p, n, until(deadline), &attended);
    if (attended)
      return -EINTR;
    if (r != 0 && r != -EINTR)
      return r;
    if (deadline >= 0 && sys_now() >= deadline)
      return 0;
  }
}

static int has_attendant(lua_State *L) {
  int has = lua_getfield(L, LUA_REGISTRYINDEX, WAIT_ATTEND) != LUA_TNIL;
  lua_pop(L, 1);
  return has;
}

static int poll_answer(struct wait *w) {
  struct pollfd p = {.fd = w->want.fd};
  p.events = (short)((strchr(w->want.events, 'r') ? POLLIN : 0) |
                     (strchr(w->want.events, 'w') ? POLLOUT : 0));
  int n = wait_sleep(w->L, &p, 1, wait_limit(w->L, &w->want));
  if (n > 0 && (p.revents & POLLNVAL))
    return wait_fail(w, EBADF);
  if (n < 0 && n != -EINTR)
    return wait_fail(w, -n);
  return n != 0 || wait_left(w->L) != 0 ? 0 : wait_fail(w, ETIMEDOUT);
}

/* ---- with one ---- */

static int resume(lua_State *L, int status, lua_KContext nargs);

static int ask_function(struct wait *w) {
  lua_State *L = w->L;
  double limit = wait_limit(L, &w->want);
  lua_pushinteger(L, w->want.fd);
  lua_pushstring(L, w->want.events);
  if (limit < 0)
    lua_pushnil(L);
  else
    lua_pushnumber(L, limit);
  w->socket->waiting++;
  lua_callk(L, 3, 3, w->nargs, resume);
  return judge_answer(L, w->kind, w->nargs);
}

static int wait_for(struct wait *w) {
  if (push_function(w->L) != LUA_TNIL)
    return ask_function(w);
  lua_pop(w->L, 1);
  return poll_answer(w);
}

/* ---- steps ---- */

static int drive(lua_State *L, const struct wait_kind *kind, int nargs) {
  for (;;) {
    struct wait w = {.L = L, .kind = kind, .nargs = nargs, .want = {-1, "", -1}};
    w.socket = lua_touserdata(L, SLOT_SELF);
    w.block = lua_isnil(L, SLOT_DEADLINE) && !wait_has_function(L) && !has_attendant(L);
    int n = kind->step(&w);
    if (n >= 0)
      return n;
    n = wait_for(&w);
    if (n > 0)
      return n;
  }
}

static int resume(lua_State *L, int status, lua_KContext nargs) {
  const struct wait_kind *kind = lua_touserdata(L, SLOT_KIND);
  int n = judge_answer(L, kind, (int)nargs);
  return n > 0 ? n : drive(L, kind, (int)nargs);
}

int wait_start(lua_State *L, const struct wait_kind *kind, double timeout) {
  int nargs = lua_gettop(L) - SLOT_SELF;
  luaL_checkstack(L, LUA_MINSTACK + nargs, "too many arguments");
  if (timeout < 0)
    lua_pushnil(L);
  else
    lua_pushnumber(L, sys_now() + timeout);
  lua_pushlightuserdata(L, (void *)kind);
  lua_rotate(L, SLOT_DEADLINE, 2);
  return drive(L, kind, nargs);
}
