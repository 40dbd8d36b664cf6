/* The life of a moonfork.socket, its methods that never wait, and what counts as a handle
 * (module.h). Both sides; poll and the reactor are wait.c's.
 *
 * The metatable hangs in the registry under the address of a variable of this very copy
 * of the code. So a template program and a module loaded into it, which may be of
 * different builds, never take each other's objects for their own; each sees the other's
 * as an object that answers fileno. */
#include "socket/socket.h"

#include "socket/address.h"
#include "socket/option.h"
#include "os/drop.h"
#include "os/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FILL_MIN = 4096, FILL_MAX = 256 * 1024 };

static const char metatable_key = 0;

/* ---- make ---- */

static void set_metamethods(lua_State *L);
static void set_methods(lua_State *L);

static void push_metatable(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key) == LUA_TTABLE)
    return;
  lua_pop(L, 1);
  lua_createtable(L, 0, 8);
  set_metamethods(L);
  lua_createtable(L, 0, 32);
  set_methods(L);
  op_set_methods(L);
  lua_setfield(L, -2, "__index");
  lua_pushliteral(L, SOCKET_NAME);
  lua_setfield(L, -2, "__name");
  lua_pushliteral(L, SOCKET_NAME);
  lua_setfield(L, -2, "__metatable");
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &metatable_key);
}

void socket_prepare(lua_State *L) {
  luaL_checkstack(L, 4, NULL);
  push_metatable(L);
  lua_pop(L, 1);
}

struct socket *socket_new(lua_State *L) {
  push_metatable(L);
  struct socket *o = lua_newuserdatauv(L, sizeof *o, 0);
  memset(o, 0, sizeof *o);
  o->fd = -1;
  o->timeout = -1;
  buf_init(&o->in, PTRDIFF_MAX);
  lua_insert(L, -2);
  lua_setmetatable(L, -2);
  return o;
}

void socket_adopt(struct socket *o, int fd, enum socket_kind kind) {
  o->fd = fd;
  o->kind = (unsigned char)kind;
  o->type = (unsigned char)sys_type_of(fd);
  o->is_unix = o->type == SYS_SOCKET && sys_is_unix(fd);
}

static int new_protected(lua_State *L) {
  socket_new(L);
  return 1;
}

static struct socket *push_new(lua_State *L, int fd) {
  if (!lua_checkstack(L, 2)) {
    fd_close(&fd);
    luaL_error(L, "stack overflow");
  }
  lua_pushcfunction(L, new_protected);
  if (lua_pcall(L, 0, 1, 0) != LUA_OK) {
    fd_close(&fd);
    lua_error(L);
  }
  return lua_touserdata(L, -1);
}

void socket_push(lua_State *L, int fd, enum socket_kind kind) {
  struct socket *o = push_new(L, fd);
  if (fd > 2)
    fd_set_cloexec(fd, 1);
  socket_adopt(o, fd, kind);
  option_set_defaults(o);
}

void socket_push_unix(lua_State *L, int fd) {
  struct socket *o = push_new(L, fd);
  o->fd = fd;
  o->kind = SOCKET_OWN;
  o->type = SYS_SOCKET;
  o->is_unix = 1;
}

/* ---- use ---- */

struct socket *socket_test(lua_State *L, int idx) {
  void *o = lua_touserdata(L, idx);
  if (o == NULL || !lua_getmetatable(L, idx))
    return NULL;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key);
  int is_ours = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return is_ours ? o : NULL;
}

/* Mostly a dot in the place of a colon. */
static int bad_self(lua_State *L) {
  lua_Debug ar;
  const char *name = lua_getstack(L, 0, &ar) && lua_getinfo(L, "n", &ar) ? ar.name : NULL;
  name = name ? name : "?";
  return luaL_error(L, "calling '%s' on bad self (" SOCKET_NAME
                       " expected, got %s; use a colon: socket:%s(...))",
                    name, lua_isnone(L, 1) ? "no value" : luaL_typename(L, 1), name);
}

struct socket *socket_check(lua_State *L, int idx) {
  struct socket *o = socket_test(L, idx);
  if (o == NULL && idx == 1)
    bad_self(L);
  else if (o == NULL)
    luaL_typeerror(L, idx, SOCKET_NAME);
  return o;
}

struct socket *socket_check_open(lua_State *L, int idx) {
  struct socket *o = socket_check(L, idx);
  if (o->fd < 0)
    luaL_error(L, "attempt to use a closed " SOCKET_NAME);
  return o;
}

static size_t fill_size(const struct socket *o, size_t wanted) {
  size_t have = buf_size(&o->in); /* what is long already will be longer */
  size_t n = wanted > have ? wanted : have;
  return n < FILL_MIN ? FILL_MIN : n > FILL_MAX ? FILL_MAX : n;
}

static void keep_descriptors(struct socket *o, struct fdset *fds) {
  uint64_t end = o->taken + buf_size(&o->in);
  if (fds->n > 0 && !o->queue) /* without memory they are lost */
    o->queue = calloc(SOCKET_QUEUE_MAX, sizeof *o->queue);
  for (int i = 0; o->queue && i < fds->n && o->nqueued < SOCKET_QUEUE_MAX; i++) {
    o->queue[o->nqueued].fd = fdset_steal(fds, i);
    o->queue[o->nqueued++].end = end;
  }
  for (int i = 0; i < fds->n; i++)
    o->lost |= fds->fd[i] >= 0;
  fdset_drop(fds);
}

ssize_t socket_fill(struct socket *o, size_t wanted, int block) {
  struct fdset fds;
  int truncated;
  size_t size = fill_size(o, wanted);
  unsigned char *room = buf_reserve(&o->in, size);
  if (room == NULL)
    return -ENOMEM;
  int keep = o->is_unix; /* else the kernel closes what comes along, here and now */
  if (keep)
    fdset_init(&fds);
  ssize_t n = sys_read(o->fd, o->type, room, size, block, keep ? &fds : NULL, &truncated);
  if (n > 0)
    buf_commit(&o->in, (size_t)n);
  if (keep)
    keep_descriptors(o, &fds);
  o->lost |= truncated != 0;
  return n;
}

void socket_take(struct socket *o, size_t n) {
  buf_consume(&o->in, n);
  o->taken += n;
  o->scanned = o->scanned > n ? o->scanned - n : 0;
}

/* ---- end ---- */

int socket_release(struct socket *o) {
  int fd = o->fd;
  o->fd = -1;
  buf_deinit(&o->in);
  o->scanned = 0;
  while (o->nqueued > 0)
    fd_drop(&o->queue[--o->nqueued].fd);
  free(o->queue);
  o->queue = NULL;
  return fd;
}

int socket_close(struct socket *o) {
  int fd = socket_release(o);
  return fd < 0 ? 0 : fd_part(fd);
}

int socket_fail(lua_State *L, int error) {
  luaL_pushfail(L);
  lua_pushstring(L, error == ETIMEDOUT ? "timed out" : strerror(error));
  lua_pushinteger(L, error);
  return 3;
}

static int result(lua_State *L, int r) {
  if (r < 0)
    return socket_fail(L, -r);
  lua_pushboolean(L, 1);
  return 1;
}

/* ---- methods ---- */

static int m_close(lua_State *L) {
  return result(L, socket_close(socket_check(L, 1)));
}

static int m_gc(lua_State *L) {
  socket_close(socket_check(L, 1));
  return 0;
}

static int m_tostring(lua_State *L) {
  const struct socket *o = socket_check(L, 1);
  if (o->fd < 0)
    lua_pushliteral(L, SOCKET_NAME " (closed)");
  else
    lua_pushfstring(L, SOCKET_NAME " (fd %d)", o->fd);
  return 1;
}

static int m_fileno(lua_State *L) {
  lua_pushinteger(L, socket_check_open(L, 1)->fd);
  return 1;
}

/* For loops that ask objects which may have been closed meanwhile: -1 then. */
static int m_pollfd(lua_State *L) {
  lua_pushinteger(L, socket_check(L, 1)->fd);
  return 1;
}

static int m_events(lua_State *L) {
  socket_check(L, 1);
  lua_pushliteral(L, "r");
  return 1;
}

static int has_waiting(const struct socket *o) {
  return buf_size(&o->in) > 0 || o->nqueued > 0;
}

static int m_timeout(lua_State *L) {
  if (has_waiting(socket_check(L, 1)))
    lua_pushinteger(L, 0);
  else
    lua_pushnil(L);
  return 1;
}

static int m_dirty(lua_State *L) {
  lua_pushboolean(L, has_waiting(socket_check(L, 1)));
  return 1;
}

static int m_settimeout(lua_State *L) {
  struct socket *o = socket_check(L, 1);
  double seconds = luaL_optnumber(L, 2, -1);
  luaL_argcheck(L, seconds == seconds, 2, "not a number of seconds");
  o->timeout = seconds;
  lua_settop(L, 1);
  return 1;
}

static int m_flush(lua_State *L) { /* nothing is kept back by write */
  socket_check_open(L, 1);
  lua_settop(L, 1);
  return 1;
}

/* The words of poll, of the manual page, and of LuaSocket. */
static int m_shutdown(lua_State *L) {
  static const char *const names[] = {"r",    "w",       "rw",   "read", "write",
                                      "both", "receive", "send", NULL};
  static const int hows[] = {SHUT_RD, SHUT_WR,   SHUT_RDWR, SHUT_RD,
                             SHUT_WR, SHUT_RDWR, SHUT_RD,   SHUT_WR};
  const struct socket *o = socket_check_open(L, 1);
  int how = hows[luaL_checkoption(L, 2, "both", names)];
  return result(L, shutdown(o->fd, how) == 0 ? 0 : -errno);
}

/* fd, and where bytes were read ahead those as a string: whoever goes on with the
 * descriptor would miss them. */
static int m_detach(lua_State *L) {
  struct socket *o = socket_check_open(L, 1);
  size_t n = buf_size(&o->in);
  if (n > 0)
    lua_pushlstring(L, (const char *)buf_peek(&o->in), n);
  lua_pushinteger(L, o->fd);
  socket_release(o);
  if (n == 0)
    return 1;
  lua_insert(L, -2);
  return 2;
}

static int m_dup(lua_State *L) {
  const struct socket *o = socket_check_open(L, 1);
  struct socket *copy = socket_new(L);
  int fd = fd_dup(o->fd);
  if (fd < 0)
    return socket_fail(L, -fd);
  socket_adopt(copy, fd, o->kind);
  copy->timeout = o->timeout;
  return 1;
}

static int m_address(lua_State *L) {
  char text[ADDRESS_TEXT_MAX];
  const struct socket *o = socket_check_open(L, 1);
  int r = address_format(o->fd, text, sizeof text);
  if (r < 0)
    return socket_fail(L, -r);
  lua_pushstring(L, text);
  return 1;
}

/* ---- file() ---- */

static int close_stream(lua_State *L) {
  luaL_Stream *s = luaL_checkudata(L, 1, LUA_FILEHANDLE);
  return luaL_fileresult(L, fclose(s->f) == 0, NULL);
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
  if (*mode == '\0' || strchr("rwa", *mode++) == NULL)
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
static int open_stream(struct socket *o, const char *mode, FILE **ret) {
  size_t n = buf_size(&o->in);
  int fd = n > 0 ? fd_dup(o->fd) : o->fd;
  if (fd < 0)
    return fd;
  FILE *f = fdopen(fd, mode);
  if (f == NULL) {
    int error = errno;
    if (n > 0)
      fd_close(&fd);
    return -error;
  }
  int r = unread(f, buf_peek(&o->in), n);
  if (r < 0) {
    fclose(f);
    return r;
  }
  if (n > 0)
    socket_close(o);
  else
    socket_release(o);
  *ret = f;
  return 0;
}

static int m_file(lua_State *L) {
  struct socket *o = socket_check_open(L, 1);
  const char *mode = luaL_optstring(L, 2, default_mode(o->fd));
  luaL_argcheck(L, is_mode(mode), 2, "invalid mode");
  luaL_Stream *s = lua_newuserdatauv(L, sizeof *s, 0);
  s->f = NULL;
  s->closef = NULL;
  if (luaL_getmetatable(L, LUA_FILEHANDLE) != LUA_TTABLE)
    return luaL_error(L, "the io library is not open");
  lua_setmetatable(L, -2);
  int was_nonblocking = o->kind == SOCKET_OWN && fd_is_nonblocking(o->fd) == 1;
  if (was_nonblocking)
    fd_set_nonblocking(o->fd, 0);
  int r = open_stream(o, mode, &s->f);
  if (r < 0) {
    if (was_nonblocking)
      fd_set_nonblocking(o->fd, 1);
    return socket_fail(L, -r);
  }
  s->closef = close_stream;
  return 1;
}

static void set_metamethods(lua_State *L) {
  static const luaL_Reg metamethods[] = {
      {"__gc", m_gc}, {"__close", m_gc}, {"__tostring", m_tostring}, {NULL, NULL}};
  luaL_setfuncs(L, metamethods, 0);
}

static void set_methods(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"close", m_close},           {"fileno", m_fileno}, {"getfd", m_pollfd},
      {"pollfd", m_pollfd},         {"events", m_events}, {"timeout", m_timeout},
      {"dirty", m_dirty},           {"flush", m_flush},   {"detach", m_detach},
      {"settimeout", m_settimeout}, {"dup", m_dup},       {"address", m_address},
      {"shutdown", m_shutdown},     {"file", m_file},     {"option", option_method},
      {NULL, NULL},
  };
  luaL_setfuncs(L, methods, 0);
}

/* ---- handles ---- */

static int not_open(lua_State *L, const char *what) {
  lua_pushfstring(L, "%s is not an open descriptor", what);
  return -1;
}

static int check_number(lua_State *L, lua_Integer n) {
  if (n >= 0 && n <= INT_MAX && fcntl((int)n, F_GETFD) != -1)
    return (int)n;
  lua_pushfstring(L, "%I is not an open descriptor", (LUAI_UACINT)n);
  return -1;
}

/* Asks the object at idx by one name: a method is called, an integer field taken. 1 with
 * the answer on the stack, 0 without anything. */
static int ask_by(lua_State *L, int idx, const char *name) {
  int type = lua_getfield(L, idx, name);
  if (type == LUA_TNUMBER && lua_isinteger(L, -1))
    return 1;
  int is_method = type == LUA_TFUNCTION;
  if (!is_method && luaL_getmetafield(L, -1, "__call") != LUA_TNIL) {
    is_method = 1;
    lua_pop(L, 1);
  }
  if (!is_method) {
    lua_pop(L, 1);
    return 0;
  }
  lua_pushvalue(L, idx);
  lua_call(L, 1, 1);
  return 1;
}

static int is_askable(lua_State *L, int idx) {
  if (lua_istable(L, idx))
    return 1;
  if (lua_type(L, idx) != LUA_TUSERDATA ||
      luaL_getmetafield(L, idx, "__index") == LUA_TNIL)
    return 0;
  lua_pop(L, 1);
  return 1;
}

static int check_nothing(lua_State *L, int idx) {
  not_open(L, luaL_tolstring(L, idx, NULL));
  lua_remove(L, -2);
  return -1;
}

static int check_object(lua_State *L, int idx) {
  static const char *const names[] = {"fileno", "getfd", "pollfd", "fd"};
  for (size_t i = 0; is_askable(L, idx) && i < sizeof names / sizeof *names; i++) {
    if (!ask_by(L, idx, names[i]))
      continue;
    int is_integer;
    lua_Integer n = lua_tointegerx(L, -1, &is_integer);
    lua_pop(L, 1);
    return is_integer ? check_number(L, n) : check_nothing(L, idx);
  }
  return luaL_typeerror(L, idx,
                        "handle (a descriptor, file, socket or object with fileno)");
}

int handle_check(lua_State *L, int idx) {
  idx = lua_absindex(L, idx);
  luaL_checkstack(L, 6, NULL);
  if (lua_type(L, idx) == LUA_TNUMBER)
    return check_number(L, luaL_checkinteger(L, idx));
  const struct socket *o = socket_test(L, idx);
  if (o != NULL)
    return o->fd < 0 ? not_open(L, "a closed " SOCKET_NAME) : check_number(L, o->fd);
  const luaL_Stream *s = luaL_testudata(L, idx, LUA_FILEHANDLE);
  if (s != NULL)
    return s->closef == NULL ? not_open(L, "a closed file")
                             : check_number(L, fileno(s->f));
  return check_object(L, idx);
}
