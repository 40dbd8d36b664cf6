/* The life of a moonfork.socket (socket.h). Both sides.
 *
 * The metatable hangs in the registry under the address of a variable of this very copy
 * of the code. So a template program and a module loaded into it, which may be of
 * different builds, never take each other's sockets for their own; each sees the other's
 * as an object that answers fileno. Who copies an interpreter knows all of them, which are
 * of one build there (template_check_build): they are listed in the registry, too. */
#include "socket/socket.h"

#include "base/copied.h"
#include "os/drop.h"
#include "os/fd.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* The first room is one that malloc has at hand: many sockets give one short message, or
 * their end at once. */
enum { FILL_FIRST = 1024, FILL_MIN = 4096, FILL_MAX = 256 * 1024 };

#define CLASSES "moonfork.socket classes" /* in the registry: metatable = true */

static const char metatable_key = 0;

/* ---- make ---- */

void socket_register(lua_State *L) {
  lua_pushliteral(L, SOCKET_NAME);
  lua_setfield(L, -2, "__name");
  lua_pushliteral(L, SOCKET_NAME);
  lua_setfield(L, -2, "__metatable");
  luaL_getsubtable(L, LUA_REGISTRYINDEX, CLASSES);
  lua_pushvalue(L, -2);
  lua_pushboolean(L, 1);
  lua_rawset(L, -3);
  lua_pop(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &metatable_key);
}

int socket_is_registered(lua_State *L) {
  int is = lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key) == LUA_TTABLE;
  lua_pop(L, 1);
  return is;
}

void socket_closed(struct socket *ret) {
  memset(ret, 0, sizeof *ret);
  ret->fd = -1;
  ret->timeout = -1;
  ret->limit = SOCKET_NO_LIMIT;
  buf_init(&ret->in, PTRDIFF_MAX);
}

struct socket *socket_new(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key) != LUA_TTABLE)
    luaL_error(L, "moonfork.socket is not prepared in this state");
  struct socket *s = lua_newuserdatauv(L, sizeof *s, 0);
  socket_closed(s);
  lua_insert(L, -2);
  lua_setmetatable(L, -2);
  return s;
}

void socket_adopt(struct socket *s, int fd, enum socket_kind kind) {
  s->fd = fd;
  s->kind = (unsigned char)kind;
  s->type = (unsigned char)sys_type_of(fd);
  s->is_unix = s->type == SYS_SOCKET && sys_is_unix(fd);
  s->is_datagram = s->type == SYS_SOCKET && sys_is_datagram(fd);
}

void socket_set_defaults(const struct socket *s) {
  int on = 1;
  if (s->type == SYS_SOCKET &&
      !s->is_unix) /* of other kinds of sockets it changes nothing */
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static int l_new(lua_State *L) {
  socket_new(L);
  return 1;
}

static struct socket *push_new(lua_State *L, int fd) {
  if (!lua_checkstack(L, 2)) {
    fd_close(&fd);
    luaL_error(L, "stack overflow");
  }
  lua_pushcfunction(L, l_new);
  if (lua_pcall(L, 0, 1, 0) != LUA_OK) {
    fd_close(&fd);
    lua_error(L);
  }
  return lua_touserdata(L, -1);
}

void socket_push(lua_State *L, int fd, enum socket_kind kind) {
  struct socket *s = push_new(L, fd);
  if (fd > 2)
    fd_set_cloexec(fd, 1);
  socket_adopt(s, fd, kind);
  socket_set_defaults(s);
}

void socket_adopt_unix(struct socket *s, int fd) {
  s->fd = fd;
  s->kind = SOCKET_OWN;
  s->type = SYS_SOCKET;
  s->is_unix = 1;
}

void socket_push_unix(lua_State *L, int fd) {
  socket_adopt_unix(push_new(L, fd), fd);
}

/* ---- use ---- */

/* Methods have the class as their first upvalue. */
struct socket *socket_test(lua_State *L, int idx) {
  void *s = lua_touserdata(L, idx);
  if (!s || !lua_getmetatable(L, idx))
    return NULL;
  int is_ours = lua_rawequal(L, -1, lua_upvalueindex(1));
  if (!is_ours) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key);
    is_ours = lua_rawequal(L, -1, -2);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return is_ours ? s : NULL;
}

struct socket *socket_test_any(lua_State *L, int idx) {
  void *s = lua_touserdata(L, idx);
  if (!s || !lua_getmetatable(L, idx))
    return NULL;
  if (lua_getfield(L, LUA_REGISTRYINDEX, CLASSES) == LUA_TTABLE)
    lua_pushvalue(L, -2);
  else
    lua_pushnil(L);
  int is_one = !lua_isnil(L, -1) && lua_rawget(L, -2) == LUA_TBOOLEAN;
  lua_pop(L, 3);
  return is_one ? s : NULL;
}

static int l_copied(lua_State *L) {
  if (socket_copied(lua_touserdata(L, 1)) < 0)
    return luaL_error(L, "not enough memory");
  return 0;
}

void socket_copies(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key);
  lua_pushcfunction(L, l_copied);
  lua_setfield(L, -2, COPIED_FIELD);
  lua_pop(L, 1);
}

/* Mostly a dot in the place of a colon. */
static int bad_self(lua_State *L) {
  lua_Debug ar;
  const char *name = lua_getstack(L, 0, &ar) && lua_getinfo(L, "n", &ar) ? ar.name : NULL;
  name = name ? name : "?";
  return luaL_error(L,
                    "calling '%s' on bad self (" SOCKET_NAME
                    " expected, got %s; use a colon: socket:%s(...))",
                    name, lua_isnone(L, 1) ? "no value" : luaL_typename(L, 1), name);
}

struct socket *socket_check(lua_State *L, int idx) {
  struct socket *s = socket_test(L, idx);
  if (!s && idx == 1)
    bad_self(L);
  else if (!s)
    luaL_typeerror(L, idx, SOCKET_NAME);
  return s;
}

struct socket *socket_check_open(lua_State *L, int idx) {
  struct socket *s = socket_check(L, idx);
  if (s->fd < 0)
    luaL_error(L, "attempt to use a closed " SOCKET_NAME);
  return s;
}

static size_t fill_size(const struct socket *s, size_t wanted) {
  size_t have = buf_size(&s->in); /* what is long already will be longer */
  size_t n = wanted > have ? wanted : have, least = s->in.data ? FILL_MIN : FILL_FIRST;
  return n < least ? least : n > FILL_MAX ? FILL_MAX : n;
}

/* A message that does not fit in is cut off by the kernel. No other reader gets between
 * looking and taking but one who shares the socket; he finds the room that messages have
 * by default. */
static size_t message_size(const struct socket *s, size_t size) {
  ssize_t n = sys_next_message(s->fd);
  size = size < FILL_MAX ? FILL_MAX : size;
  return n > 0 && (size_t)n > size ? (size_t)n : size;
}

static void keep_descriptors(struct socket *s, struct fdset *fds) {
  uint64_t end = s->taken + buf_size(&s->in);
  if (fds->n > 0 && !s->queue) /* without memory they are lost */
    s->queue = calloc(SOCKET_QUEUE_MAX, sizeof *s->queue);
  for (int i = 0; s->queue && i < fds->n && s->nqueued < SOCKET_QUEUE_MAX; i++) {
    s->queue[s->nqueued].fd = fdset_steal(fds, i);
    s->queue[s->nqueued++].end = end;
  }
  for (int i = 0; i < fds->n; i++)
    s->lost |= fds->fd[i] >= 0;
  fdset_drop(fds);
}

ssize_t socket_fill(struct socket *s, size_t wanted, int block) {
  struct fdset fds;
  int truncated;
  size_t size = fill_size(s, wanted);
  if (s->is_datagram)
    size = message_size(s, size);
  unsigned char *room = buf_reserve(&s->in, size);
  if (!room)
    return -ENOMEM;
  int keep = s->is_unix; /* else the kernel closes what comes along, here and now */
  if (keep)
    fdset_init(&fds);
  int may_sleep =
      block && !s->is_datagram; /* the room is that of what is there already */
  ssize_t n =
      sys_read(s->fd, s->type, room, size, may_sleep, keep ? &fds : NULL, &truncated);
  if (n > 0)
    buf_commit(&s->in, (size_t)n);
  s->at_end = n == 0;
  if (keep)
    keep_descriptors(s, &fds);
  s->lost |= truncated != 0;
  return n;
}

int socket_has_waiting(const struct socket *s) {
  return buf_size(&s->in) > 0 || s->nqueued > 0;
}

int socket_is_beyond_limit(const struct socket *s, size_t n) {
  return s->limit != SOCKET_NO_LIMIT && n > (uint64_t)s->limit;
}

void socket_take(struct socket *s, size_t n) {
  buf_consume(&s->in, n);
  s->taken += n;
  s->scanned = s->scanned > n ? s->scanned - n : 0;
}

/* ---- end ---- */

int socket_release(struct socket *s) {
  int fd = s->fd;
  s->fd = -1;
  buf_deinit(&s->in);
  s->scanned = 0;
  while (s->nqueued > 0)
    fd_drop(&s->queue[--s->nqueued].fd);
  free(s->queue);
  s->queue = NULL;
  return fd;
}

int socket_close(struct socket *s) {
  sys_flush_first(); /* what goes first may go to this one */
  int fd = socket_release(s);
  if (fd < 0)
    return 0;
  if (!s->is_unix)
    return fd_part(fd);
  int may_wait = s->at_end && !s->is_datagram && !s->is_told;
  return may_wait ? fd_part_ended(fd) : fd_part_unix(fd);
}

int socket_fail(lua_State *L, int error) {
  luaL_pushfail(L);
  lua_pushstring(L, error == ETIMEDOUT ? "timed out" : strerror(error));
  lua_pushinteger(L, error);
  return 3;
}

int socket_fail_limit(lua_State *L) {
  luaL_pushfail(L);
  lua_pushliteral(L, "line too long");
  lua_pushinteger(L, EMSGSIZE);
  return 3;
}

int socket_copied(struct socket *s) {
  struct buf in = s->in;
  struct queued *queue = s->queue;
  int r = 0;
  s->in.data = NULL;
  s->in.head = s->in.tail = s->in.cap = 0;
  s->queue = NULL;
  if (buf_size(&in) > 0)
    r = buf_put(&s->in, buf_peek(&in), buf_size(&in));
  if (queue) {
    s->queue = calloc(SOCKET_QUEUE_MAX, sizeof *s->queue);
    if (s->queue)
      memcpy(s->queue, queue, s->nqueued * sizeof *queue);
    else
      s->nqueued = 0;
  }
  s->waiting = 0;
  return r < 0 || (queue && !s->queue) ? -ENOMEM : 0;
}
