/* Waiting, and the operations that write or pass descriptors (wait.h). Both sides: with a
 * wait function (socket_set_wait) the reactor turns or the coroutine is suspended, without
 * one the process sleeps in poll(2), or in the call itself where nothing limits the time.
 */
#include "socket/wait.h"

#include "socket/numeral.h"
#include "os/fd.h"
#include <errno.h>
#include <lauxlib.h>
#include <string.h>

enum { OP_BITS = 8, GATHER_MAX = 8 };

static const char wait_key = 0;

/* ---- waiting ---- */

void socket_set_wait(lua_State *L) {
  lua_rawsetp(L, LUA_REGISTRYINDEX, &wait_key);
}

int op_has_waiter(lua_State *L) {
  int has = lua_rawgetp(L, LUA_REGISTRYINDEX, &wait_key) != LUA_TNIL;
  lua_pop(L, 1);
  return has;
}

int op_wants(struct run *r, const char *events) {
  r->want = (struct want){r->o->fd, events, -1};
  return OP_WANTS;
}

int op_fail_top(lua_State *L, enum op op, int nargs) {
  switch (op) {
  case OP_LINES:
    lua_pop(L, 1);
    return lua_error(L);
  case OP_SEND_FD:
    socket_close(socket_check(L, SLOT_ARG));
    /* fall through */
  case OP_WRITE:
    lua_pushvalue(L, SLOT_ARG + nargs); /* how many bytes have gone */
    return 4;
  case OP_CONNECT:
  case OP_LISTEN:
    net_give_up(L);
    return 3;
  default:
    return 3;
  }
}

int op_fail(struct run *r, int error) {
  socket_fail(r->L, error);
  return op_fail_top(r->L, r->op, r->nargs);
}

/* Negative: no deadline. */
static double time_left(lua_State *L) {
  if (lua_isnil(L, SLOT_DEADLINE))
    return -1;
  double left = lua_tonumber(L, SLOT_DEADLINE) - sys_now();
  return left > 0 ? left : 0;
}

static double wait_limit(lua_State *L, const struct want *w) {
  double left = time_left(L);
  return w->at_most >= 0 && (left < 0 || w->at_most < left) ? w->at_most : left;
}

/* The three answers of a wait function are on top. 0: take the next step, else how many
 * results the operation has failed with. "Timed out" counts when the clock agrees: pauses
 * end that way too. */
static int judge_answer(lua_State *L, enum op op, int nargs) {
  int is_ready = lua_toboolean(L, -3);
  if (lua_isnil(L, -3)) {
    if (lua_isnil(L, -2)) {
      lua_pushliteral(L, "the wait function returned nothing");
      lua_replace(L, -3);
    }
    return op_fail_top(L, op, nargs);
  }
  lua_pop(L, 3);
  if (is_ready || time_left(L) != 0)
    return 0;
  socket_fail(L, ETIMEDOUT);
  return op_fail_top(L, op, nargs);
}

static int poll_answer(struct run *r) {
  int n = sys_wait(r->want.fd, r->want.events, wait_limit(r->L, &r->want));
  if (n < 0)
    return op_fail(r, -n);
  return n > 0 || time_left(r->L) != 0 ? 0 : op_fail(r, ETIMEDOUT);
}

static int resume(lua_State *L, int status, lua_KContext ctx);

static int ask_waiter(struct run *r) {
  lua_State *L = r->L;
  double limit = wait_limit(L, &r->want);
  lua_pushinteger(L, r->want.fd);
  lua_pushstring(L, r->want.events);
  if (limit < 0)
    lua_pushnil(L);
  else
    lua_pushnumber(L, limit);
  lua_callk(L, 3, 3, (lua_KContext)r->nargs << OP_BITS | r->op, resume);
  return judge_answer(L, r->op, r->nargs);
}

static int wait_for(struct run *r) {
  if (lua_rawgetp(r->L, LUA_REGISTRYINDEX, &wait_key) != LUA_TNIL)
    return ask_waiter(r);
  lua_pop(r->L, 1);
  return poll_answer(r);
}

/* ---- steps ---- */

static void skip_bytes(struct iovec *v, size_t *n) {
  size_t skipped = *n < v->iov_len ? *n : v->iov_len;
  v->iov_base = (char *)v->iov_base + skipped;
  v->iov_len -= skipped;
  *n -= skipped;
}

/* The strings from first on, without their first `done` bytes. */
static int gather(lua_State *L, int first, int count, size_t done, struct iovec *iov) {
  int n = 0;
  for (int i = first; i < first + count; i++) {
    size_t length;
    iov[n].iov_base = (char *)lua_tolstring(L, i, &length);
    iov[n].iov_len = length;
    skip_bytes(&iov[n], &done);
    n += iov[n].iov_len > 0;
  }
  return n;
}

/* Writes the strings in the slots from `first` to the last argument; the counter of
 * bytes gone lies behind the arguments. pass_fd goes with the first byte. */
static int write_strings(struct run *r, int first, int pass_fd) {
  struct iovec iov[GATHER_MAX];
  int counter = SLOT_ARG + r->nargs, count = counter - first;
  size_t done = (size_t)lua_tointeger(r->L, counter);
  for (;;) {
    int niov = gather(r->L, first, count, done, iov);
    if (niov == 0)
      return 0;
    if (r->o->fd < 0)
      return op_fail(r, EBADF);
    int fd = done == 0 ? pass_fd : -1;
    ssize_t n = sys_write(r->o->fd, r->o->type, iov, niov, r->block, fd);
    if (n == -EAGAIN)
      return op_wants(r, "w");
    if (n < 0)
      return op_fail(r, (int)-n);
    done += (size_t)n;
    lua_pushinteger(r->L, (lua_Integer)done);
    lua_replace(r->L, counter);
  }
}

static int step_write(struct run *r) {
  int n = write_strings(r, SLOT_ARG, -1);
  if (n != 0)
    return n;
  lua_settop(r->L, SLOT_SELF);
  return 1;
}

static int step_send_fd(struct run *r) { /* arguments: a copy of the handle, the bytes */
  struct socket *handle = socket_check(r->L, SLOT_ARG);
  int n = write_strings(r, SLOT_ARG + 1, handle->fd);
  if (n != 0)
    return n;
  socket_close(handle);
  lua_settop(r->L, SLOT_SELF);
  return 1;
}

static int take_queued(struct socket *o, uint64_t *ret_end) {
  int fd = o->queue[0].fd;
  *ret_end = o->queue[0].end;
  o->nqueued--;
  memmove(o->queue, o->queue + 1, o->nqueued * sizeof *o->queue);
  return fd;
}

/* A descriptor, and what of its message was not read yet. */
static int give_queued(struct run *r) {
  uint64_t end;
  socket_push(r->L, take_queued(r->o, &end), SOCKET_FOREIGN);
  size_t n = end > r->o->taken ? (size_t)(end - r->o->taken) : 0;
  lua_pushlstring(r->L, n > 0 ? (const char *)buf_peek(&r->o->in) : "", n);
  socket_take(r->o, n);
  return 2;
}

static int step_recv_fd(struct run *r) {
  enum { USEFUL = 64 * 1024 }; /* more than one message of a UNIX socket ever has */
  for (;;) {
    if (r->o->nqueued > 0)
      return give_queued(r);
    if (r->o->lost) {
      r->o->lost = 0;
      return op_fail(r, EMFILE);
    }
    if (r->o->fd < 0)
      return op_fail(r, EBADF);
    ssize_t n = socket_fill(r->o, USEFUL, r->block);
    if (n == -EAGAIN)
      return op_wants(r, "r");
    if (n < 0)
      return op_fail(r, (int)-n);
    if (n == 0) {
      luaL_pushfail(r->L);
      lua_pushliteral(r->L, "end of file");
      lua_pushinteger(r->L, 0);
      return 3;
    }
  }
}

static int step_accept(struct run *r) {
  if (r->o->fd < 0)
    return op_fail(r, EBADF);
  int ask = !r->block && r->o->kind != SOCKET_OWN;
  int fd = sys_accept(r->o->fd, ask, op_has_waiter(r->L));
  if (fd == -EAGAIN)
    return op_wants(r, "r");
  if (fd < 0)
    return op_fail(r, -fd);
  socket_push(r->L, fd, SOCKET_OWN);
  return 1;
}

static int (*const steps[OP_COUNT])(struct run *) = {
    [OP_READ] = step_read,       [OP_LINES] = step_read,      [OP_WRITE] = step_write,
    [OP_ACCEPT] = step_accept,   [OP_SEND_FD] = step_send_fd, [OP_RECV_FD] = step_recv_fd,
    [OP_CONNECT] = step_connect, [OP_LISTEN] = step_listen,
};

static int drive(lua_State *L, enum op op, int nargs) {
  for (;;) {
    struct run r = {.L = L, .op = op, .nargs = nargs, .want = {-1, "", -1}};
    r.o = lua_touserdata(L, SLOT_SELF);
    r.block = lua_isnil(L, SLOT_DEADLINE) && !op_has_waiter(L);
    int n = steps[op](&r);
    if (n >= 0)
      return n;
    n = wait_for(&r);
    if (n > 0)
      return n;
  }
}

static int resume(lua_State *L, int status, lua_KContext ctx) {
  enum op op = (enum op)(ctx & ((1 << OP_BITS) - 1));
  int nargs = (int)(ctx >> OP_BITS);
  int n = judge_answer(L, op, nargs);
  return n > 0 ? n : drive(L, op, nargs);
}

int op_start(lua_State *L, enum op op, double timeout) {
  if (timeout < 0)
    lua_pushnil(L);
  else
    lua_pushnumber(L, sys_now() + timeout);
  lua_insert(L, SLOT_DEADLINE);
  int nargs = lua_gettop(L) - SLOT_DEADLINE;
  luaL_checkstack(L, LUA_MINSTACK + nargs, "too many arguments");
  if (op == OP_WRITE || op == OP_SEND_FD)
    lua_pushinteger(L, 0);
  return drive(L, op, nargs);
}

/* ---- methods ---- */

static int m_read(lua_State *L) {
  const struct socket *o = socket_check_open(L, 1);
  read_check_formats(L, 2);
  return op_start(L, OP_READ, o->timeout);
}

/* Upvalues: the object, the number of formats, the formats. */
static int next_line(lua_State *L) {
  int nformats = (int)lua_tointeger(L, lua_upvalueindex(2));
  lua_settop(L, 0);
  luaL_checkstack(L, nformats + LUA_MINSTACK, "too many arguments");
  lua_pushvalue(L, lua_upvalueindex(1));
  for (int i = 1; i <= nformats; i++)
    lua_pushvalue(L, lua_upvalueindex(2 + i));
  return op_start(L, OP_LINES, socket_check_open(L, 1)->timeout);
}

static int m_lines(lua_State *L) {
  enum { FORMATS_MAX = 250 };
  socket_check_open(L, 1);
  int nformats = lua_gettop(L) - 1;
  luaL_argcheck(L, nformats <= FORMATS_MAX, FORMATS_MAX + 2, "too many arguments");
  read_check_formats(L, 2);
  lua_pushinteger(L, nformats);
  lua_insert(L, 2);
  lua_pushcclosure(L, next_line, 2 + nformats);
  return 1;
}

static int m_write(lua_State *L) {
  const struct socket *o = socket_check_open(L, 1);
  int n = lua_gettop(L) - 1;
  for (int i = 2; i <= 1 + n; i++) {
    if (lua_type(L, i) == LUA_TNUMBER)
      numeral_put_plain(L, i);
    else
      luaL_checklstring(L, i, NULL);
  }
  if (n > GATHER_MAX)
    lua_concat(L, n);
  return op_start(L, OP_WRITE, o->timeout);
}

static int m_accept(lua_State *L) {
  const struct socket *o = socket_check_open(L, 1);
  lua_settop(L, 1);
  return op_start(L, OP_ACCEPT, o->timeout);
}

/* At least one byte must go along: a zero one where no data was given. The handle is
 * duplicated at once, as the caller may close its own while this waits. */
static int m_send_fd(lua_State *L) {
  const struct socket *o = socket_check_open(L, 1);
  size_t length;
  luaL_checkany(L, 2);
  numeral_put_plain(L, 3);
  luaL_optlstring(L, 3, "", &length);
  lua_settop(L, 3);
  if (length == 0) {
    lua_pushlstring(L, "", 1);
    lua_replace(L, 3);
  }
  if (!o->is_unix)
    return socket_fail(L, EOPNOTSUPP);
  int handle = handle_check(L, 2);
  if (handle < 0) {
    luaL_pushfail(L);
    lua_insert(L, -2);
    lua_pushinteger(L, EBADF);
    return 3;
  }
  struct socket *copy = socket_new(L);
  int fd = fd_dup(handle);
  if (fd < 0)
    return socket_fail(L, -fd);
  socket_adopt(copy, fd, SOCKET_FOREIGN);
  lua_replace(L, 2);
  lua_tolstring(L, 3, NULL);
  return op_start(L, OP_SEND_FD, o->timeout);
}

static int m_recv_fd(lua_State *L) {
  const struct socket *o = socket_check_open(L, 1);
  lua_settop(L, 1);
  if (!o->is_unix)
    return socket_fail(L, EOPNOTSUPP);
  return op_start(L, OP_RECV_FD, o->timeout);
}

void op_set_methods(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"read", m_read},     {"lines", m_lines},     {"write", m_write},
      {"accept", m_accept}, {"send_fd", m_send_fd}, {"recv_fd", m_recv_fd},
      {NULL, NULL},
  };
  luaL_setfuncs(L, methods, 0);
}
