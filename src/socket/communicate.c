/* socket:communicate (communicate.h): writes everything and reads to the end at the same
 * time, so that a peer that answers while it is still being told (cat, sort, gzip) never
 * stands against us, each with a full buffer that the other does not read. Both sides.
 *
 *   arguments: the data, how many bytes of it have gone, where the writing stands
 *
 * A peer may end its reading early, as `head -n 1` does: what is left to write is dropped
 * then, and its answer counts. */
#include "socket/communicate.h"

#include "socket/numeral.h"
#include "socket/wait.h"
#include "socket/write.h"
#include <errno.h>
#include <sys/socket.h>

enum { SLOT_DATA = SLOT_ARG, SLOT_STAGE = SLOT_ARG + 2 };
enum stage { WRITING, SHUT }; /* SHUT: nothing more is written */

static enum stage stage_of(lua_State *L) {
  return (enum stage)lua_tointeger(L, SLOT_STAGE);
}

/* 0: everything is written and the end was told; -EAGAIN, or a negated errno. */
static int write_on(struct wait *w) {
  struct wait writer = *w;
  writer.nargs--; /* its counter is the last but one */
  int r = stage_of(w->L) == SHUT ? 0 : write_some(&writer, SLOT_DATA, -1);
  if (r == -EAGAIN || (r < 0 && r != -EPIPE))
    return r;
  if (stage_of(w->L) == SHUT)
    return 0;
  lua_pushinteger(w->L, SHUT);
  lua_replace(w->L, SLOT_STAGE);
  if (shutdown(w->socket->fd, SHUT_WR) == 0 || errno == ENOTCONN)
    return 0;
  return -errno;
}

/* Of a UNIX socket nothing is lost when the other side has closed it unread. */
static int is_end(const struct socket *s, ssize_t n) {
  return n == 0 || (n == -ECONNRESET && s->is_unix);
}

/* 0: the end; -EAGAIN, -EMSGSIZE: more than the limit, or a negated errno. */
static int read_on(struct wait *w, int may_block) {
  struct socket *s = w->socket;
  for (;;) {
    if (socket_is_beyond_limit(s, buf_size(&s->in)))
      return -EMSGSIZE;
    if (s->fd < 0)
      return -EBADF;
    ssize_t n = socket_fill(s, 0, w->block && may_block);
    if (is_end(s, n))
      return 0;
    if (n < 0)
      return (int)n;
    if (!may_block)
      return -EAGAIN; /* first what can be written: the answer depends on it */
  }
}

static int fail(struct wait *w, int error) {
  if (error != EMSGSIZE)
    return wait_fail(w, error);
  socket_fail_limit(w->L);
  return wait_fail_top(w);
}

static int answer(struct wait *w) {
  struct socket *s = w->socket;
  size_t n = buf_size(&s->in);
  lua_pushlstring(w->L, n > 0 ? (const char *)buf_peek(&s->in) : "", n);
  socket_take(s, n);
  return 1;
}

static int step_communicate(struct wait *w) {
  if (w->socket->fd < 0)
    return wait_fail(w, EBADF);
  int written = write_on(w);
  if (written < 0 && written != -EAGAIN)
    return fail(w, -written);
  int r = read_on(w, written == 0);
  if (r < 0 && r != -EAGAIN)
    return fail(w, -r);
  if (r == 0 && written == 0)
    return answer(w);
  return wait_event(w, r == 0 ? "w" : written == 0 ? "r" : "rw");
}

static int undo_communicate(lua_State *L, int nargs) {
  return write_undo(L, nargs - 1);
}

static const struct wait_kind communicating = {step_communicate, undo_communicate};

static int l_communicate(lua_State *L) {
  const struct socket *s = socket_check_open(L, 1);
  numeral_put_plain(L, 2);
  luaL_optlstring(L, 2, "", NULL);
  lua_settop(L, 2);
  if (s->type != SYS_SOCKET || s->is_datagram)
    return socket_fail(L, s->is_datagram ? EOPNOTSUPP : ENOTSOCK);
  if (lua_isnil(L, 2)) {
    lua_pushliteral(L, "");
    lua_replace(L, 2);
  }
  lua_pushinteger(L, 0);
  lua_pushinteger(L, WRITING);
  return wait_start(L, &communicating, s->timeout);
}

const luaL_Reg communicate_methods[] = {{"communicate", l_communicate}, {NULL, NULL}};
