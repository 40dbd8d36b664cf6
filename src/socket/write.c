/* Writing (write.h): as much as the kernel takes, then the rest when it takes more. Both
 * sides. */
#include "socket/write.h"

#include "socket/numeral.h"
#include <errno.h>
#include <sys/uio.h>

enum { GATHER_MAX = 8 };

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

static int counter_slot(int nargs) {
  return SLOT_ARG + nargs - 1;
}

int write_some(struct wait *w, int first, int pass_fd) {
  struct iovec iov[GATHER_MAX];
  int counter = counter_slot(w->nargs);
  size_t done = (size_t)lua_tointeger(w->L, counter);
  for (;;) {
    int niov = gather(w->L, first, counter - first, done, iov);
    if (niov == 0)
      return 0;
    if (w->socket->fd < 0)
      return -EBADF;
    int fd = done == 0 ? pass_fd : -1;
    ssize_t n = sys_write(w->socket->fd, w->socket->type, iov, niov, w->block, fd);
    if (n < 0)
      return (int)n;
    done += (size_t)n;
    lua_pushinteger(w->L, (lua_Integer)done);
    lua_replace(w->L, counter);
  }
}

int write_strings(struct wait *w, int first, int pass_fd) {
  int r = write_some(w, first, pass_fd);
  if (r == -EAGAIN)
    return wait_event(w, "w");
  return r < 0 ? wait_fail(w, -r) : 0;
}

int write_undo(lua_State *L, int nargs) {
  lua_pushvalue(L, counter_slot(nargs));
  return 4;
}

static int step_write(struct wait *w) {
  int n = write_strings(w, SLOT_ARG, -1);
  if (n != 0)
    return n;
  lua_settop(w->L, SLOT_SELF);
  return 1;
}

static const struct wait_kind writing = {step_write, write_undo};

static int l_write(lua_State *L) {
  const struct socket *s = socket_check_open(L, 1);
  int n = lua_gettop(L) - 1;
  for (int i = 2; i <= 1 + n; i++) {
    if (lua_type(L, i) == LUA_TNUMBER)
      numeral_put_plain(L, i);
    else
      luaL_checklstring(L, i, NULL);
  }
  if (n > GATHER_MAX)
    lua_concat(L, n);
  lua_pushinteger(L, 0); /* bytes gone */
  return wait_start(L, &writing, s->timeout);
}

static int l_flush(lua_State *L) { /* nothing is kept back by write */
  socket_check_open(L, 1);
  lua_settop(L, 1);
  return 1;
}

lua_CFunction socket_write_method(void) {
  return l_write;
}

const luaL_Reg write_methods[] = {{"write", l_write}, {"flush", l_flush}, {NULL, NULL}};
