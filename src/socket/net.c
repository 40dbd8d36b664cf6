/* connect and listen: from an address to a socket (wait.h). Both sides. The steps:
 *
 *   resolve -> [wait for the resolver] -> for each socket address:
 *     listen:  socket, bind, listen                        -> done, or the next
 *     connect: socket, connect -> [wait until writable] -> done, or the next
 *
 * The socket under construction lies in the object in slot 1 from its birth, the resolver
 * in a userdata in slot 3, so that nothing leaks when a step raises or is never resumed.
 */
#include "socket/wait.h"

#include "base/result.h"
#include "socket/resolve.h"
#include "socket/option.h"
#include "os/fd.h"
#include "os/fdwait.h"
#include <errno.h>
#include <lauxlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SLOT_NET = SLOT_ARG };
#define RETRY_SECONDS 0.01

static const char net_key = 0;

struct net {
  struct resolve resolve;
  struct address address;
  const struct addrinfo *next; /* to try */
  int started, connecting;
  int error; /* of the last socket address that failed */
  int backlog;
};

static int net_gc(lua_State *L) {
  struct net *n = lua_touserdata(L, 1);
  resolve_deinit(&n->resolve);
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
    lua_pushcfunction(L, net_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &net_key);
  }
  lua_setmetatable(L, -2);
  return n;
}

/* ---- steps ---- */

void net_give_up(lua_State *L) {
  struct net *n = lua_touserdata(L, SLOT_NET);
  resolve_deinit(&n->resolve);
  socket_close(socket_check(L, SLOT_SELF));
}

static int finish(struct run *r, struct net *n) {
  resolve_deinit(&n->resolve);
  lua_pushvalue(r->L, SLOT_SELF);
  return 1;
}

static int fail_resolve(struct run *r, struct net *n, int error, const char *text) {
  luaL_pushfail(r->L);
  if (n->address.host[0] != '\0')
    lua_pushfstring(r->L, "%s: %s", n->address.host, text);
  else
    lua_pushstring(r->L, text);
  lua_pushinteger(r->L, error);
  return op_fail_top(r->L, r->op, r->nargs);
}

/* 0: the list is there. OP_WANTS, or the results of a failure. */
static int resolve_address(struct run *r, struct net *n) {
  const char *text = "";
  int e = 0;
  if (n->next != NULL || n->started > 1)
    return 0;
  if (!n->started++)
    e = resolve_start(&n->resolve, &n->address, r->op == OP_LISTEN, r->block, &text);
  if (e == 0)
    e = resolve_poll(&n->resolve, &text);
  if (e == MF_AGAIN) {
    n->started = 1;
    r->want = (struct want){n->resolve.wait_fd, "r", -1};
    return OP_WANTS;
  }
  if (e < 0)
    return fail_resolve(r, n, -e, text);
  n->started = 2;
  n->next = n->resolve.list;
  return 0;
}

/* A socket for the next address goes into the object; 0 or -errno. */
static int new_socket(struct run *r, const struct addrinfo *a) {
  socket_close(r->o);
  int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return -errno;
  fd = fd_raise(fd);
  if (fd < 0)
    return fd;
  socket_adopt(r->o, fd, SOCKET_OWN);
  option_set_defaults(r->o); /* what a listener accepts inherits it (Linux) */
  return 0;
}

/* The socket under an abandoned path refuses. Asked as datagrams, a stream listener that lives
 * refuses the type (EPROTOTYPE) and never learns of it: no connection waits to be accepted. */
static int remove_abandoned(const struct addrinfo *a) {
  const struct sockaddr_un *un = (const void *)a->ai_addr;
  struct stat st;
  if (a->ai_family != AF_UNIX || lstat(un->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
    return 0;
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return 0;
  int refused = connect(fd, a->ai_addr, a->ai_addrlen) != 0 && errno == ECONNREFUSED;
  fd_close(&fd);
  return refused && unlink(un->sun_path) == 0;
}

static int bind_to(int fd, const struct addrinfo *a) {
  if (bind(fd, a->ai_addr, a->ai_addrlen) == 0)
    return 0;
  int error = errno;
  if (error != EADDRINUSE || !remove_abandoned(a))
    return -error;
  return bind(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : -errno;
}

static int bind_and_listen(struct run *r, const struct addrinfo *a, int backlog) {
  int on = 1, e = new_socket(r, a);
  if (e < 0)
    return e;
  if (a->ai_family != AF_UNIX)
    setsockopt(r->o->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  e = bind_to(r->o->fd, a);
  if (e < 0)
    return e;
  return listen(r->o->fd, backlog) == 0 ? 0 : -errno;
}

int step_listen(struct run *r) {
  struct net *n = lua_touserdata(r->L, SLOT_NET);
  int e = resolve_address(r, n);
  if (e != 0)
    return e;
  for (; n->next != NULL; n->next = n->next->ai_next) {
    e = bind_and_listen(r, n->next, n->backlog);
    if (e == 0)
      return finish(r, n);
    n->error = -e;
  }
  return op_fail(r, n->error);
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
static int try_connect(struct run *r, struct net *n) {
  const struct addrinfo *a = n->next;
  int e = 0;
  if (n->connecting) {
    e = connect_result(r->o->fd);
    n->connecting = e == MF_AGAIN;
    return e;
  }
  e = new_socket(r, a);
  if (e < 0)
    return e;
  do
    e = connect(r->o->fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : -errno;
  while (e == -EINTR && a->ai_family == AF_UNIX);
  if (e != -EINPROGRESS && e != -EINTR)
    return e;
  n->connecting = 1;
  return MF_AGAIN;
}

/* The backlog of a UNIX listener is full; no event tells when it no longer is. */
static int pause_connect(struct run *r, struct net *n) {
  int fd = resolve_quiet_fd(&n->resolve);
  if (fd < 0)
    return op_fail(r, -fd);
  r->want = (struct want){fd, "r", RETRY_SECONDS};
  return OP_WANTS;
}

int step_connect(struct run *r) {
  struct net *n = lua_touserdata(r->L, SLOT_NET);
  int e = resolve_address(r, n);
  if (e != 0)
    return e;
  while (n->next != NULL) {
    if (n->connecting && r->o->fd < 0)
      return op_fail(r, EBADF);
    e = try_connect(r, n);
    if (e == MF_AGAIN)
      return op_wants(r, "w");
    if (e == -EAGAIN && n->next->ai_family == AF_UNIX)
      return pause_connect(r, n);
    if (e == 0) {
      if (!op_has_waiter(r->L))
        fd_set_nonblocking(r->o->fd, 0);
      return finish(r, n);
    }
    n->error = -e;
    n->next = n->next->ai_next;
  }
  return op_fail(r, n->error);
}

/* ---- functions ---- */

/* Stack: address in 1. Leaves the object in 1, the state in 2. NULL: nil, message, errno
 * are on the stack. */
static struct net *prepare(lua_State *L) {
  struct address address;
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  int e = address_parse(text, length, &address);
  if (e == -EINVAL) {
    luaL_pushfail(L);
    lua_pushfstring(L, "'%s' is not an address (\"host:port\", \"[v6]:port\" or \"/path\")",
                    text);
    lua_pushinteger(L, EINVAL);
    return NULL;
  }
  if (e < 0) {
    socket_fail(L, -e);
    return NULL;
  }
  lua_settop(L, 1);
  socket_new(L);
  lua_replace(L, 1);
  struct net *n = new_net(L);
  n->address = address;
  return n;
}

int net_connect(lua_State *L) {
  double timeout = luaL_optnumber(L, 2, -1);
  return prepare(L) == NULL ? 3 : op_start(L, OP_CONNECT, timeout);
}

int net_listen(lua_State *L) {
  lua_Integer backlog = luaL_optinteger(L, 2, SOMAXCONN);
  luaL_argcheck(L, backlog >= 0 && backlog <= 65535, 2, "out of range");
  struct net *n = prepare(L);
  if (n == NULL)
    return 3;
  n->backlog = (int)backlog;
  return op_start(L, OP_LISTEN, -1);
}
