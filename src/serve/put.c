/* Lines of a log: written whole, or the reason. A reader of the log that has gone is no
 * reason to end, so a worker must not get SIGPIPE by it. */
#include "os/sigpipe.h"
#include "serve/module.h"

#include <errno.h>
#include <lauxlib.h>
#include <poll.h>
#include <unistd.h>

/* 0 or an errno. */
static int put(int fd, const char *text, size_t n) {
  while (n > 0) {
    ssize_t put = write(fd, text, n);
    if (put >= 0) {
      text += put;
      n -= (size_t)put;
    } else if (errno == EAGAIN) { /* somebody made the description non-blocking */
      struct pollfd p = {fd, POLLOUT, 0};
      poll(&p, 1, -1);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

/* put(fd, text) -> true; or nil, message, errno */
static int l_put(lua_State *L) {
  struct sigpipe guard;
  size_t n;
  int fd = (int)luaL_checkinteger(L, 1);
  const char *text = luaL_checklstring(L, 2, &n);
  sigpipe_block(&guard);
  int error = put(fd, text, n);
  sigpipe_restore(&guard, error);
  if (error)
    return serve_fail(L, error, NULL);
  lua_pushboolean(L, 1);
  return 1;
}

void put_open(lua_State *L) {
  lua_pushcfunction(L, l_put);
  lua_setfield(L, -2, "put");
}
