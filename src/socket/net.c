/* connect, listen and accept (net.h). Both sides. From an address to a socket in these
 * steps:
 *
 *   resolve -> [wait for the resolver] -> for each socket address:
 *     listen:  socket, bind, listen                        -> done, or the next
 *     connect: socket, connect -> [wait until writable] -> done, or the next
 *
 * The socket under construction lies in the object in slot 1 from its birth, the resolver
 * in a userdata in slot 3, so that nothing leaks when a step raises or is never resumed.
 */
#include "socket/net.h"

#include "base/copied.h"
#include "base/result.h"
#include "os/fd.h"
#include "os/fdwait.h"
#include "os/term.h"
#include "socket/resolve.h"
#include "socket/wait.h"
#include <errno.h>
#include <lauxlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SLOT_NET = SLOT_ARG, BACKLOG_MAX = 65535 };
#define RETRY_SECONDS 0.01

static const char net_key = 0;

struct net {
  struct resolve resolve;
  struct address address;
  const struct addrinfo *next; /* to try */
  int started, connecting;
  int error;                       /* of the last socket address that failed */
  int passive, backlog, reuseport; /* of listen */
};

static int l_net_gc(lua_State *L) {
  struct net *n = lua_touserdata(L, 1);
  resolve_deinit(&n->resolve);
  return 0;
}

/* In a copy of the interpreter: the original's, which goes on with it. */
static int l_net_copied(lua_State *L) {
  struct net *n = lua_touserdata(L, 1);
  resolve_init(&n->resolve);
  n->next = NULL;
  return 0;
}

static struct net *new_net(lua_State *L) {
  struct net *n = lua_newuserdatauv(L, sizeof *n, 0);
  memset(n, 0, sizeof *n);
  resolve_init(&n->resolve);
  n->error = EADDRNOTAVAIL;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &net_key) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, l_net_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, l_net_copied);
    lua_setfield(L, -2, COPIED_FIELD);
    lua_pushcfunction(L, l_net_gc);
    lua_setfield(L, -2, COPIED_END_FIELD);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &net_key);
  }
  lua_setmetatable(L, -2);
  return n;
}

/* ---- steps ---- */

static int undo_net(lua_State *L, int nargs) {
  struct net *n = lua_touserdata(L, SLOT_NET);
  resolve_deinit(&n->resolve);
  socket_close(socket_check(L, SLOT_SELF));
  return 3;
}

static int finish(struct wait *w, struct net *n) {
  resolve_deinit(&n->resolve);
  lua_pushvalue(w->L, SLOT_SELF);
  return 1;
}

static int fail_resolve(struct wait *w, struct net *n, int error, const char *text) {
  luaL_pushfail(w->L);
  if (n->address.host[0] != '\0')
    lua_pushfstring(w->L, "%s: %s", n->address.host, text);
  else
    lua_pushstring(w->L, text);
  lua_pushinteger(w->L, error);
  return wait_fail_top(w);
}

/* 0: the list is there. WAIT_MORE, or the results of a failure. */
static int resolve_address(struct wait *w, struct net *n) {
  const char *text = "";
  int r = 0;
  if (n->next || n->started > 1)
    return 0;
  if (!n->started++)
    r = resolve_start(&n->resolve, &n->address, n->passive, w->block, &text);
  if (r == 0)
    r = resolve_poll(&n->resolve, &text);
  if (r == MF_AGAIN) {
    n->started = 1;
    w->want = (struct want){n->resolve.wait_fd, "r", -1};
    return WAIT_MORE;
  }
  if (r < 0)
    return fail_resolve(w, n, -r, text);
  n->started = 2;
  n->next = n->resolve.list;
  return 0;
}

/* A socket for the next address goes into the object; 0 or -errno. */
static int new_socket(struct wait *w, const struct addrinfo *a) {
  socket_close(w->socket);
  int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return -errno;
  fd = fd_raise(fd);
  if (fd < 0)
    return fd;
  socket_adopt(w->socket, fd, SOCKET_OWN);
  socket_set_defaults(w->socket); /* what a listener accepts inherits it (Linux) */
  return 0;
}

/* The socket under an abandoned path refuses. Asked as datagrams, a stream listener that
 * lives refuses the type (EPROTOTYPE) and never learns of it: no connection waits to be
 * accepted. 1: it is gone; 0: there is none; or a negated errno. */
static int remove_abandoned(const struct addrinfo *a) {
  const struct sockaddr_un *un = (const void *)a->ai_addr;
  struct stat st;
  if (a->ai_family != AF_UNIX || lstat(un->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
    return 0;
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return -errno;
  int refused = connect(fd, a->ai_addr, a->ai_addrlen) != 0 && errno == ECONNREFUSED;
  fd_close(&fd);
  return refused && unlink(un->sun_path) == 0;
}

static int bind_to(int fd, const struct addrinfo *a) {
  if (bind(fd, a->ai_addr, a->ai_addrlen) == 0)
    return 0;
  int error = errno;
  int removed = error == EADDRINUSE ? remove_abandoned(a) : 0;
  if (removed <= 0)
    return removed < 0 ? removed : -error;
  return bind(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : -errno;
}

static int bind_and_listen(struct wait *w, const struct net *n,
                           const struct addrinfo *a) {
  int on = 1, r = new_socket(w, a);
  if (r < 0)
    return r;
  if (a->ai_family != AF_UNIX)
    setsockopt(w->socket->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (n->reuseport &&
      setsockopt(w->socket->fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0)
    return -errno;
  r = bind_to(w->socket->fd, a);
  if (r < 0 || a->ai_socktype == SOCK_DGRAM)
    return r;
  return listen(w->socket->fd, n->backlog) == 0 ? 0 : -errno;
}

static int step_listen(struct wait *w) {
  struct net *n = lua_touserdata(w->L, SLOT_NET);
  int r = resolve_address(w, n);
  if (r != 0)
    return r;
  for (; n->next; n->next = n->next->ai_next) {
    r = bind_and_listen(w, n, n->next);
    if (r == 0)
      return finish(w, n);
    n->error = -r;
  }
  return wait_fail(w, n->error);
}

/* 0 connected, MF_AGAIN, or -errno of the attempt. */
static int connect_result(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLOUT};
  int error = 0;
  socklen_t size = sizeof error;
  if (fdwait(&p, 1, 0) == 0)
    return MF_AGAIN;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
    return -errno;
  return -error;
}

/* 0 connected, MF_AGAIN: it wants to be writable, or -errno of this socket address. */
static int try_connect(struct wait *w, struct net *n) {
  const struct addrinfo *a = n->next;
  int r = 0;
  if (n->connecting) {
    r = connect_result(w->socket->fd);
    n->connecting = r == MF_AGAIN;
    return r;
  }
  r = new_socket(w, a);
  if (r < 0)
    return r;
  do
    r = connect(w->socket->fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : -errno;
  while (r == -EINTR && a->ai_family == AF_UNIX);
  if (r != -EINPROGRESS && r != -EINTR)
    return r;
  n->connecting = 1;
  return MF_AGAIN;
}

/* The backlog of a UNIX listener is full; no event tells when it no longer is. */
static int pause_connect(struct wait *w, struct net *n) {
  int fd = resolve_quiet_fd(&n->resolve);
  if (fd < 0)
    return wait_fail(w, -fd);
  w->want = (struct want){fd, "r", RETRY_SECONDS};
  return WAIT_MORE;
}

static int step_connect(struct wait *w) {
  struct net *n = lua_touserdata(w->L, SLOT_NET);
  int r = resolve_address(w, n);
  if (r != 0)
    return r;
  while (n->next) {
    if (n->connecting && w->socket->fd < 0)
      return wait_fail(w, EBADF);
    r = try_connect(w, n);
    if (r == MF_AGAIN)
      return wait_event(w, "w");
    if (r == -EAGAIN && n->next->ai_family == AF_UNIX)
      return pause_connect(w, n);
    if (r == 0) {
      if (!wait_has_function(w->L))
        fd_set_nonblocking(w->socket->fd, 0);
      return finish(w, n);
    }
    n->error = -r;
    n->next = n->next->ai_next;
  }
  return wait_fail(w, n->error);
}

static const struct wait_kind connecting = {step_connect, undo_net};
static const struct wait_kind listening = {step_listen, undo_net};

/* ---- functions ---- */

/* Stack: address in 1. Leaves the object in 1, the state in 2. NULL: nil, message, errno
 * are on the stack. */
static struct net *prepare(lua_State *L) {
  struct address address;
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  int r = address_parse(text, length, &address);
  if (r == -EINVAL) {
    luaL_pushfail(L);
    lua_pushfstring(
        L,
        "'%s' is not an address (\"host:port\", \"[v6]:port\", \"/path\", \"./path\", "
        "\"@name\", \"unixgram:/path\" or \"unixgram:@name\")",
        text);
    lua_pushinteger(L, EINVAL);
    return NULL;
  }
  if (r < 0) {
    socket_fail(L, -r);
    return NULL;
  }
  lua_settop(L, 1);
  socket_new(L);
  lua_replace(L, 1);
  struct net *n = new_net(L);
  n->address = address;
  return n;
}

static int l_connect(lua_State *L) {
  double timeout = luaL_optnumber(L, 2, -1);
  return !prepare(L) ? 3 : wait_start(L, &connecting, timeout);
}

struct listen_options {
  int backlog, reuseport;
};

static int bad_option(lua_State *L, const char *format, const char *name) {
  lua_pushfstring(L, format, name);
  return luaL_argerror(L, 2, lua_tostring(L, -1));
}

/* The value is on top. */
static int to_backlog(lua_State *L) {
  int is_integer;
  lua_Integer n = lua_tointegerx(L, -1, &is_integer);
  if (!is_integer || lua_type(L, -1) != LUA_TNUMBER || n < 0 || n > BACKLOG_MAX)
    bad_option(L, "backlog: an integer from 0 to 65535 expected, got %s",
               luaL_tolstring(L, -1, NULL));
  return (int)n;
}

static void take_option(lua_State *L, const char *name, struct listen_options *o) {
  if (strcmp(name, "backlog") == 0) {
    o->backlog = to_backlog(L);
  } else if (strcmp(name, "reuseport") == 0) {
    if (!lua_isboolean(L, -1))
      bad_option(L, "reuseport: a boolean expected, got %s", luaL_typename(L, -1));
    o->reuseport = lua_toboolean(L, -1);
  } else {
    bad_option(L, "unknown option '%s' (valid: backlog, reuseport)", name);
  }
}

/* The second argument: a table, or the backlog alone. */
static struct listen_options check_listen_options(lua_State *L) {
  struct listen_options o = {SOMAXCONN, 0};
  lua_settop(L, 2);
  if (lua_isnil(L, 2))
    return o;
  if (lua_type(L, 2) == LUA_TNUMBER) {
    o.backlog = to_backlog(L);
    return o;
  }
  luaL_checktype(L, 2, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING)
      bad_option(L, "unknown option '%s' (valid: backlog, reuseport)",
                 luaL_tolstring(L, -2, NULL));
    take_option(L, lua_tostring(L, -2), &o);
  }
  return o;
}

static int l_listen(lua_State *L) {
  luaL_checkstring(L, 1);
  struct listen_options o = check_listen_options(L);
  struct net *n = prepare(L);
  if (!n)
    return 3;
  n->passive = 1;
  n->backlog = o.backlog;
  n->reuseport = o.reuseport;
  return wait_start(L, &listening, -1);
}

const luaL_Reg net_functions[] = {
    {"connect", l_connect}, {"listen", l_listen}, {NULL, NULL}};

/* ---- accept ---- */

static int step_accept(struct wait *w) {
  if (w->socket->fd < 0)
    return wait_fail(w, EBADF);
  int ask = !w->block && (w->socket->kind != SOCKET_OWN || term_watched() ||
                          fd_is_nonblocking(w->socket->fd) != 1); /* made to block once */
  int fd = sys_accept(w->socket->fd, ask, wait_has_function(w->L));
  if (fd == -EAGAIN)
    return wait_event(w, "r");
  if (fd < 0)
    return wait_fail(w, -fd);
  socket_push(w->L, fd, SOCKET_OWN);
  return 1;
}

static const struct wait_kind accepting = {step_accept, NULL};

static int l_accept(lua_State *L) {
  const struct socket *s = socket_check_open(L, 1);
  lua_settop(L, 1);
  return wait_start(L, &accepting, s->timeout);
}

const luaL_Reg net_methods[] = {{"accept", l_accept}, {NULL, NULL}};
