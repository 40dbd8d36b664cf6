/* fork.socket.poll (ready.h). Both sides.
 *
 *   without a reactor   one poll(2) over all, with an attending function beside it
 * (wait.h) with one            a poll(2) that doesn't wait; where nothing is ready all of
 * them go behind one descriptor (pollset.h), which the wait function waits for
 *
 *   slots: 1 a socket object that owns that descriptor | arguments: a copy of the list,
 *   memory for the entries
 *
 * Any handle will do: the sockets that a function is given and those of a module that it
 * loads may come from different copies of this code. What an object has read ahead
 * counts; those that are not ours are asked for it by dirty(). */
#include "socket/ready.h"

#include "socket/handle.h"
#include "socket/pollset.h"
#include "socket/wait.h"
#include <errno.h>
#include <limits.h>
#include <math.h>

enum { SLOT_LIST = SLOT_ARG, SLOT_ENTRIES = SLOT_ARG + 1 };

struct entries {
  int marked; /* the members count this wait among theirs */
  struct pollfd p[];
};

/* The handle is on top. */
static int has_read_ahead(lua_State *L) {
  const struct socket *s = socket_test(L, -1);
  if (s)
    return socket_has_waiting(s);
  if (!luaL_getmetafield(L, -1, "__index"))
    return 0;
  lua_pop(L, 1);
  if (lua_getfield(L, -1, "dirty") != LUA_TFUNCTION) {
    lua_pop(L, 1);
    return 0;
  }
  lua_pushvalue(L, -2);
  lua_call(L, 1, 1);
  int is_dirty = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return is_dirty;
}

/* Fills in the entry for the handle on top. 0, or -EBADF: it is closed. */
static int set_entry(lua_State *L, struct pollfd *p) {
  *p = (struct pollfd){.events = POLLIN};
  p->fd = handle_check(L, -1);
  if (p->fd >= 0)
    return 0;
  lua_pop(L, 1);
  return -EBADF;
}

/* Which can be served now: 0 and how many, or a negated errno. */
static int look(lua_State *L, struct pollfd *p, int n, int *ret_count) {
  *ret_count = 0;
  for (int i = 0; i < n; i++) {
    lua_rawgeti(L, SLOT_LIST, i + 1);
    int r = set_entry(L, &p[i]);
    if (r < 0)
      return r;
    lua_pop(L, 1);
  }
  int r;
  do
    r = sys_sleep(p, n, 0, NULL);
  while (r == -EINTR);
  if (r < 0)
    return r;
  for (int i = 0; i < n; i++) {
    lua_rawgeti(L, SLOT_LIST, i + 1);
    if (p[i].revents == 0 && has_read_ahead(L))
      p[i].revents = POLLIN;
    lua_pop(L, 1);
    *ret_count += p[i].revents != 0;
  }
  return 0;
}

static int give_ready(lua_State *L, const struct pollfd *p, int n) {
  lua_newtable(L);
  for (int i = 0, found = 0; i < n; i++) {
    if (p[i].revents == 0)
      continue;
    lua_rawgeti(L, SLOT_LIST, i + 1);
    lua_rawseti(L, -2, ++found);
  }
  return 1;
}

/* Wants something of one descriptor that stands for all. Where it is one, or the time is
 * up, that is the first: the wait function turns the reactor in any case. Behind that
 * for an empty list nothing ever comes. */
static int want_all(struct wait *w, const struct pollfd *p, int n) {
  int is_simple = n == 1 || (n > 1 && wait_left(w->L) == 0);
  if (!is_simple && w->socket->fd < 0) {
    int fd = pollset_open(p, n);
    if (fd < 0)
      return wait_fail(w, -fd);
    socket_adopt(w->socket, fd, SOCKET_OWN);
  }
  w->want = (struct want){is_simple ? p[0].fd : w->socket->fd, "r", -1};
  return WAIT_MORE;
}

/* So that the close of a member ends the wait, which is one of the descriptor for all. */
static void mark_members(lua_State *L, int n, int by) {
  for (int i = 1; i <= n; i++) {
    lua_rawgeti(L, SLOT_LIST, i);
    struct socket *s = socket_test(L, -1);
    if (s)
      s->waiting += (unsigned)by;
    lua_pop(L, 1);
  }
}

static void leave(lua_State *L, int n) {
  struct entries *entries = lua_touserdata(L, SLOT_ENTRIES);
  if (entries->marked)
    mark_members(L, n, -1);
  entries->marked = 0;
  socket_close(socket_check(L, SLOT_SELF));
}

static int step_poll(struct wait *w) {
  lua_State *L = w->L;
  struct entries *entries = lua_touserdata(L, SLOT_ENTRIES);
  struct pollfd *p = entries->p;
  int n = (int)lua_rawlen(L, SLOT_LIST), count;
  int r = look(L, p, n, &count);
  if (r == 0 && count == 0) {
    if (wait_has_function(L)) {
      r = want_all(w, p, n);
      if (r == WAIT_MORE && !entries->marked++)
        mark_members(L, n, 1);
      return r;
    }
    if (wait_poll_ends(L))
      return give_ready(L, p, n);
    r = wait_sleep(L, p, n, wait_left(L));
    if (r >= 0)
      return give_ready(L, p, n);
    if (r == -EINTR) {
      wait_poll_ends(L);         /* this is the one */
      r = look(L, p, n, &count); /* what came meanwhile, or nothing */
    }
  }
  if (r < 0)
    return wait_fail(w, -r);
  leave(L, n);
  return give_ready(L, p, n);
}

/* nil, message, errno are on top. That none was ready in time is no failure. */
static int undo_poll(lua_State *L, int nargs) {
  (void)nargs;
  leave(L, (int)lua_rawlen(L, SLOT_LIST));
  if (lua_tointeger(L, -1) != ETIMEDOUT)
    return 3;
  lua_newtable(L);
  return 1;
}

static const struct wait_kind polling = {step_poll, undo_poll};

/* Negative: none. */
static double check_timeout(lua_State *L) {
  double seconds = luaL_optnumber(L, 2, -1);
  luaL_argcheck(L, seconds == seconds, 2, "not a number of seconds");
  return isinf(seconds) ? -1 : seconds;
}

/* Closed ones, and what is no handle, are misuse: nobody could tell which of them it was
 * from an answer. Leaves a good one on the stack. */
static void check_member(lua_State *L, int i) {
  lua_rawgeti(L, 1, i);
  if (!handle_is_kind(L, -1))
    lua_pushfstring(L, "a socket or another handle expected, got %s",
                    luaL_typename(L, -1));
  else if (handle_check(L, -1) >= 0)
    return;
  lua_pushfstring(L, "entry %d: %s", i, lua_tostring(L, -1));
  luaL_argerror(L, 1, lua_tostring(L, -1));
}

static int l_poll(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  double timeout = check_timeout(L);
  lua_settop(L, 1);
  lua_Unsigned n = lua_rawlen(L, 1);
  luaL_argcheck(L, n < INT_MAX / sizeof(struct pollfd), 1, "too many sockets");
  luaL_argcheck(L, n > 0 || timeout >= 0, 1, "no socket to wait for, and no timeout");
  luaL_checkstack(L, 8, NULL);
  socket_new(L);
  lua_createtable(L, (int)n, 0);
  for (int i = 1; i <= (int)n; i++) {
    check_member(L, i);
    lua_rawseti(L, -2, i);
  }
  struct entries *entries =
      lua_newuserdatauv(L, sizeof *entries + (size_t)n * sizeof(struct pollfd), 0);
  entries->marked = 0;
  lua_remove(L, 1);
  return wait_start(L, &polling, timeout);
}

const luaL_Reg poll_functions[] = {{"poll", l_poll}, {NULL, NULL}};
