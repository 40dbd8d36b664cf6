/* The module table of moonfork.socket: pair, listen, connect, open, wrap (module.h). Both
 * sides. Where a wait function is set (a parent) what is made here is non-blocking
 * underneath, but for the second end of a pair, which is the one to be given away:
 * programs that it ends up in seldom expect EAGAIN. */
#include "socket/module.h"

#include "socket/wait.h"
#include "socket/option.h"
#include "os/fd.h"
#include "os/sock.h"
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

static int f_pair(lua_State *L) {
  int fd[2];
  struct socket *a = socket_new(L), *b = socket_new(L);
  int r = sock_pair(fd, op_has_waiter(L));
  if (r < 0)
    return socket_fail(L, -r);
  socket_adopt(a, fd[0], SOCKET_OWN);
  socket_adopt(b, fd[1], SOCKET_OWN);
  return 2;
}

/* -1: no mode that io.open knows. */
static int open_flags(const char *mode) {
  static const struct {
    char letter;
    int plain, plus;
  } modes[] = {
      {'r', O_RDONLY, O_RDWR},
      {'w', O_WRONLY | O_CREAT | O_TRUNC, O_RDWR | O_CREAT | O_TRUNC},
      {'a', O_WRONLY | O_CREAT | O_APPEND, O_RDWR | O_CREAT | O_APPEND},
  };
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
    if (mode[0] != modes[i].letter)
      continue;
    const char *rest = mode + 1 + (mode[1] == '+');
    rest += *rest == 'b';
    if (*rest == '\0')
      return mode[1] == '+' ? modes[i].plus : modes[i].plain;
  }
  return -1;
}

static int open_file(const char *path, int flags, int nonblocking) {
  int fd;
  do
    fd = open(path, flags | O_CLOEXEC | O_NOCTTY | (nonblocking ? O_NONBLOCK : 0), 0666);
  while (fd < 0 && errno == EINTR);
  return fd < 0 ? -errno : fd_raise(fd);
}

/* Opening a FIFO waits for its other side; where a reactor turns it is opened without
 * (and for writing, with nobody there, refused: ENXIO). */
static int f_open(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  int flags = open_flags(luaL_optstring(L, 2, "r"));
  luaL_argcheck(L, flags >= 0, 2, "invalid mode");
  int nonblocking = op_has_waiter(L);
  struct socket *o = socket_new(L);
  int fd = open_file(path, flags, nonblocking);
  if (fd < 0) {
    luaL_pushfail(L);
    lua_pushfstring(L, "%s: %s", path, strerror(-fd));
    lua_pushinteger(L, -fd);
    return 3;
  }
  socket_adopt(o, fd, SOCKET_OWN);
  if (nonblocking && o->type == SYS_FILE)
    fd_set_nonblocking(fd, 0);
  return 1;
}

static int f_wrap(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1);
  struct socket *o = socket_new(L);
  if (n < 0 || n > INT_MAX || fcntl((int)n, F_GETFD) == -1)
    return socket_fail(L, EBADF);
  if (n > 2)
    fd_set_cloexec((int)n, 1);
  socket_adopt(o, (int)n, SOCKET_FOREIGN);
  option_set_defaults(o);
  return 1;
}

int socket_module_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"pair", f_pair}, {"listen", net_listen}, {"connect", net_connect},
      {"open", f_open}, {"wrap", f_wrap},       {NULL, NULL},
  };
  luaL_newlib(L, functions);
  return 1;
}
