/* Sending and receiving descriptors (pass.h). Both sides. What comes in while something
 * else is read waits in the socket (socket.h). */
#include "socket/pass.h"

#include "os/fd.h"
#include "socket/handle.h"
#include "socket/numeral.h"
#include "socket/wait.h"
#include "socket/write.h"
#include <errno.h>
#include <string.h>

/* ---- sending; arguments: a copy of the handle, the bytes, how many of them have gone
 * ---- */

static int step_send_fd(struct wait *w) {
  struct socket *handle = socket_check(w->L, SLOT_ARG);
  int n = write_strings(w, SLOT_ARG + 1, handle->fd);
  if (n != 0)
    return n;
  socket_close(handle);
  lua_settop(w->L, SLOT_SELF);
  return 1;
}

static int undo_send_fd(lua_State *L, int nargs) {
  socket_close(socket_check(L, SLOT_ARG));
  return write_undo(L, nargs);
}

static const struct wait_kind sending = {step_send_fd, undo_send_fd};

/* At least one byte must go along: a zero one where no data was given. The handle is
 * duplicated at once, as the caller may close its own while this waits. */
static int l_send_fd(lua_State *L) {
  const struct socket *s = socket_check_open(L, 1);
  size_t length;
  luaL_checkany(L, 2);
  numeral_put_plain(L, 3);
  luaL_optlstring(L, 3, "", &length);
  lua_settop(L, 3);
  if (length == 0) {
    lua_pushlstring(L, "", 1);
    lua_replace(L, 3);
  }
  if (!s->is_unix)
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
  lua_pushinteger(L, 0);
  return wait_start(L, &sending, s->timeout);
}

/* ---- receiving ---- */

static int take_queued(struct socket *s, uint64_t *ret_end) {
  int fd = s->queue[0].fd;
  *ret_end = s->queue[0].end;
  s->nqueued--;
  memmove(s->queue, s->queue + 1, s->nqueued * sizeof *s->queue);
  return fd;
}

/* A descriptor, and what of its message was not read yet. */
static int give_queued(struct wait *w) {
  struct socket *s = w->socket;
  uint64_t end;
  socket_push(w->L, take_queued(s, &end), SOCKET_FOREIGN);
  size_t n = end > s->taken ? (size_t)(end - s->taken) : 0;
  lua_pushlstring(w->L, n > 0 ? (const char *)buf_peek(&s->in) : "", n);
  socket_take(s, n);
  return 2;
}

static int step_recv_fd(struct wait *w) {
  enum { USEFUL = 64 * 1024 }; /* more than one message of a UNIX socket ever has */
  struct socket *s = w->socket;
  for (;;) {
    if (s->nqueued > 0)
      return give_queued(w);
    if (s->lost) {
      s->lost = 0;
      return wait_fail(w, EMFILE);
    }
    if (s->fd < 0)
      return wait_fail(w, EBADF);
    ssize_t n = socket_fill(s, USEFUL, w->block);
    if (n == -EAGAIN)
      return wait_event(w, "r");
    if (n < 0)
      return wait_fail(w, (int)-n);
    if (s->nqueued == 0 && socket_is_beyond_limit(s, buf_size(&s->in))) {
      socket_fail_limit(w->L);
      return wait_fail_top(w);
    }
    if (n == 0) {
      luaL_pushfail(w->L);
      lua_pushliteral(w->L, "end of file");
      lua_pushinteger(w->L, 0);
      return 3;
    }
  }
}

static const struct wait_kind receiving = {step_recv_fd, NULL};

static int l_recv_fd(lua_State *L) {
  const struct socket *s = socket_check_open(L, 1);
  lua_settop(L, 1);
  if (!s->is_unix)
    return socket_fail(L, EOPNOTSUPP);
  return wait_start(L, &receiving, s->timeout);
}

const luaL_Reg pass_methods[] = {
    {"send_fd", l_send_fd}, {"recv_fd", l_recv_fd}, {NULL, NULL}};
