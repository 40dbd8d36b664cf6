/* socket:file() (file.h). Both sides. */
#include "socket/file.h"

#include "os/fd.h"
#include "socket/wait.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static int l_close_stream(lua_State *L) {
  luaL_Stream *stream = luaL_checkudata(L, 1, LUA_FILEHANDLE);
  return luaL_fileresult(L, fclose(stream->f) == 0, NULL);
}

static const char *default_mode(int fd) {
  int flags = fcntl(fd, F_GETFL);
  switch (flags < 0 ? O_RDWR : flags & O_ACCMODE) {
  case O_RDONLY:
    return "r";
  case O_WRONLY:
    return flags & O_APPEND ? "a" : "w";
  default:
    return "r+";
  }
}

static int is_mode(const char *mode) {
  if (*mode == '\0' || !strchr("rwa", *mode++))
    return 0;
  mode += *mode == '+';
  mode += *mode == 'b';
  return *mode == '\0';
}

/* What was read ahead is put back, last byte first (glibc keeps any number of them). */
static int unread(FILE *f, const unsigned char *data, size_t n) {
  while (n > 0)
    if (ungetc(data[--n], f) == EOF)
      return -EBUSY;
  return 0;
}

/* With bytes to put back it works on a duplicate, so that a failure changes nothing. */
static int open_stream(struct socket *s, const char *mode, FILE **ret) {
  size_t n = buf_size(&s->in);
  int fd = n > 0 ? fd_dup(s->fd) : s->fd;
  if (fd < 0)
    return fd;
  FILE *f = fdopen(fd, mode);
  if (!f) {
    int error = errno;
    if (n > 0)
      fd_close(&fd);
    return -error;
  }
  int r = unread(f, buf_peek(&s->in), n);
  if (r < 0) {
    fclose(f);
    return r;
  }
  if (n > 0)
    socket_close(s);
  else
    socket_release(s);
  *ret = f;
  return 0;
}

static int l_file(lua_State *L) {
  struct socket *s = socket_check_open(L, 1);
  size_t nmode;
  const char *mode = luaL_optlstring(L, 2, default_mode(s->fd), &nmode);
  luaL_argcheck(L, is_mode(mode) && strlen(mode) == nmode, 2, "invalid mode");
  luaL_Stream *stream = lua_newuserdatauv(L, sizeof *stream, 0);
  stream->f = NULL;
  stream->closef = NULL;
  if (luaL_getmetatable(L, LUA_FILEHANDLE) != LUA_TTABLE)
    return luaL_error(L, "the io library is not open");
  lua_setmetatable(L, -2);
  wait_closing(L, s);
  int was_nonblocking = s->kind == SOCKET_OWN && fd_is_nonblocking(s->fd) == 1;
  if (was_nonblocking)
    fd_set_nonblocking(s->fd, 0);
  int r = open_stream(s, mode, &stream->f);
  if (r < 0) {
    if (was_nonblocking)
      fd_set_nonblocking(s->fd, 1);
    return socket_fail(L, -r);
  }
  stream->closef = l_close_stream;
  return 1;
}

const luaL_Reg file_methods[] = {{"file", l_file}, {NULL, NULL}};
