/* The module table of moonfork.socket, and of it pair, open and wrap (socket_module.h).
 * Both sides. Where a wait function is set (a parent) what is made here is non-blocking
 * underneath, but for the second end of a pair, which is the one to be given away:
 * programs that it ends up in seldom expect EAGAIN. */
#include "socket/socket_module.h"

#include "os/fd.h"
#include "os/sock.h"
#include "socket/methods.h"
#include "socket/net.h"
#include "socket/ready.h"
#include "socket/wait.h"
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

static int l_pair(lua_State *L) {
  int fd[2];
  struct socket *a = socket_new(L), *b = socket_new(L);
  int r = sock_pair(fd, wait_has_function(L));
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
static int l_open(lua_State *L) {
  size_t npath, nmode;
  const char *path = luaL_checklstring(L, 1, &npath);
  const char *mode = luaL_optlstring(L, 2, "r", &nmode);
  int flags = open_flags(mode);
  luaL_argcheck(L, strlen(path) == npath, 1, "a path without zero bytes expected");
  luaL_argcheck(L, flags >= 0 && strlen(mode) == nmode, 2, "invalid mode");
  int nonblocking = wait_has_function(L);
  struct socket *s = socket_new(L);
  int fd = open_file(path, flags, nonblocking);
  if (fd < 0) {
    luaL_pushfail(L);
    lua_pushfstring(L, "%s: %s", path, strerror(-fd));
    lua_pushinteger(L, -fd);
    return 3;
  }
  socket_adopt(s, fd, SOCKET_OWN);
  if (nonblocking && s->type == SYS_FILE)
    fd_set_nonblocking(fd, 0);
  return 1;
}

static int l_wrap(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1);
  struct socket *s = socket_new(L);
  if (n < 0 || n > INT_MAX || fcntl((int)n, F_GETFD) == -1)
    return socket_fail(L, EBADF);
  if (n > 2)
    fd_set_cloexec((int)n, 1);
  socket_adopt(s, (int)n, SOCKET_FOREIGN);
  s->is_told = 1;
  socket_set_defaults(s);
  return 1;
}

void socket_prepare(lua_State *L) {
  methods_open(L);
  wait_keep_names(L);
}

int socket_module_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"pair", l_pair}, {"open", l_open}, {"wrap", l_wrap}, {NULL, NULL}};
  socket_prepare(L);
  luaL_newlib(L, functions);
  luaL_setfuncs(L, net_functions, 0);
  luaL_setfuncs(L, poll_functions, 0);
  return 1;
}
