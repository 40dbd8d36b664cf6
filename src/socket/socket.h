/* A moonfork.socket: a descriptor with one owner, what was read ahead, and the
 * descriptors that came along with it. Both sides.
 *
 * Read-ahead and descriptors: reading a line takes in more than the line, so a descriptor
 * sent after it may come in with the same call. It is kept, with the place in the stream
 * where its message ends, until recv_fd asks; SOCKET_QUEUE_MAX at most, so that a hostile
 * peer fills no table. What comes on top is closed and the next recv_fd says so. */
#ifndef SOCKET_SOCKET_H
#define SOCKET_SOCKET_H

#include "base/buf.h"
#include "socket/sys.h"

#include <lauxlib.h>
#include <lua.h>
#include <stdint.h>

#define SOCKET_NAME "moonfork.socket"
enum { SOCKET_QUEUE_MAX = 16, SOCKET_NO_LIMIT = -1 };

enum socket_kind {
  SOCKET_OWN =
      0, /* a description that the library created: may be switched blocking or not */
  SOCKET_FOREIGN = 1 /* sent, inherited or wrapped: its blocking flag is never changed */
};

struct queued {
  int fd;
  uint64_t end; /* where its message ends, counted like taken */
};

struct socket {
  int fd;             /* -1: closed */
  unsigned char kind; /* enum socket_kind */
  unsigned char type; /* enum sys_type */
  unsigned char is_unix;
  unsigned char is_datagram; /* a read takes one message, and formats don't cross it */
  unsigned char at_end;      /* the last read has met the end */
  unsigned char is_told;     /* its number was: somebody else's loop may watch it */
  unsigned char lost;        /* a descriptor came for which there was no room */
  unsigned char nqueued;
  double timeout;       /* seconds a method may wait; negative: for ever */
  unsigned waiting;     /* operations that a wait function holds; some may be abandoned */
  int64_t limit;        /* SOCKET_NO_LIMIT, or the longest line and "a", in bytes */
  struct buf in;        /* read, and not yet asked for */
  size_t scanned;       /* bytes of it known to hold no `scanned_for` */
  char scanned_for;     /* the end of the last line that was looked for */
  uint64_t taken;       /* bytes that left it since ever */
  struct queued *queue; /* SOCKET_QUEUE_MAX of them; NULL: none has come yet */
};

/* Pushes a moonfork.socket that owns fd. Takes fd, even when it raises (memory). The fd
 * is made close-on-exec. */
void socket_push(lua_State *L, int fd, enum socket_kind kind);
/* The same for a close-on-exec UNIX stream socket that the library created: nothing to
 * ask the system. */
void socket_push_unix(lua_State *L, int fd);
/* For who keeps fd where that raises: a closed socket is pushed, then takes such a one. */
struct socket *socket_new(lua_State *L);
void socket_adopt_unix(struct socket *s, int fd);

/* What the method write of sockets is. */
lua_CFunction socket_write_method(void);

/* The rest is private to src/socket. */

/* The metatable, with its methods, is on top: takes it as that of all sockets of this
 * state. */
void socket_register(lua_State *L);
int socket_is_registered(lua_State *L);
/* Puts the descriptor into a closed socket. Takes fd. */
void socket_adopt(struct socket *s, int fd, enum socket_kind kind);
/* For a descriptor that has become a moonfork.socket, made here or not. A TCP socket
 * sends at once what it is given: with Nagle's algorithm the second of two small writes
 * waits for the other side's delayed acknowledgement, some 40 ms. */
void socket_set_defaults(const struct socket *s);
/* The socket at idx, or NULL where it is none of ours (another copy's is none). */
struct socket *socket_test(lua_State *L, int idx);
/* The same, but also of another copy of this code, which has to be of the same build. */
struct socket *socket_test_any(lua_State *L, int idx);
/* Raises an argument error where it is none; socket_check_open also where it is closed.
 */
struct socket *socket_check(lua_State *L, int idx);
struct socket *socket_check_open(lua_State *L, int idx);

/* Bytes (>0), 0 at the end, -EAGAIN or a negated errno; appended to s->in. wanted: how
 * many would be of use. */
ssize_t socket_fill(struct socket *s, size_t wanted, int block);
/* Whether something is there that the kernel no longer knows of. */
int socket_has_waiting(const struct socket *s);
/* Whether more than n bytes are more than the user wants of one line, or at once. */
int socket_is_beyond_limit(const struct socket *s, size_t n);
/* Forgets the first n bytes of s->in. */
void socket_take(struct socket *s, size_t n);
/* Gives the descriptor away; buffer and queue are dropped. */
int socket_release(struct socket *s);
/* 0 or what close(2) said. Twice is harmless. */
int socket_close(struct socket *s);

/* What is in the userdata of a closed one: so an open one begins in an image. */
void socket_closed(struct socket *ret);
/* In a copy of its interpreter, beside which the original goes on: its buffer is made its
 * own. 0 or -ENOMEM: it is empty. */
int socket_copied(struct socket *s);
/* Where nobody else looks after that (a program, which pseudo-processes may copy): it is
 * called for each socket in such a copy. The metatable is registered. */
void socket_copies(lua_State *L);

/* nil, message, errno: always returns 3. error is positive. */
int socket_fail(lua_State *L, int error);
/* The same where the other side sends more than socket:limit allows. */
int socket_fail_limit(lua_State *L);

#endif
