/* Operations that may have to wait, as steps that can be taken again. Both sides; private
 * to src/socket.
 *
 * A step works on nothing but the object and the stack, so that between two steps the
 * coroutine may be suspended, other coroutines may use the same object, and an operation
 * that ran out of time can be started again: what was read stays in the object's buffer.
 *
 *   stack: 1 the object | 2 deadline or nil | 3 .. 2+nargs arguments | what the step adds
 */
#ifndef SOCKET_WAIT_H
#define SOCKET_WAIT_H

#include "socket/socket.h"

enum op {
  OP_READ,
  OP_LINES,
  OP_WRITE,
  OP_ACCEPT,
  OP_SEND_FD,
  OP_RECV_FD,
  OP_CONNECT,
  OP_LISTEN,
  OP_COUNT
};
enum { SLOT_SELF = 1, SLOT_DEADLINE = 2, SLOT_ARG = 3 };
enum { OP_WANTS = -1 }; /* a step's result: wait as told in want, then again */

struct run { /* one step of one operation */
  lua_State *L;
  struct socket *o;
  enum op op;
  int nargs;
  int block; /* sleeping in a call is fine: no reactor to turn and no deadline */
  struct want {
    int fd;
    const char *events;
    double at_most; /* seconds; negative: none. The step is taken again in any case */
  } want;
};

/* Stack: the object and the arguments. timeout in seconds, negative: none. */
int op_start(lua_State *L, enum op op, double timeout);
/* Wants an event of the object's own descriptor. */
int op_wants(struct run *r, const char *events);
/* The failure of this operation, as its results. error is positive. */
int op_fail(struct run *r, int error);
/* The same where nil, message, errno are on top. */
int op_fail_top(lua_State *L, enum op op, int nargs);
/* Whether this side has a reactor that must not be blocked. */
int op_has_waiter(lua_State *L);

int step_read(struct run *r);    /* read.c; OP_LINES too */
int step_connect(struct run *r); /* net.c */
int step_listen(struct run *r);
int net_connect(lua_State *L); /* the functions connect and listen (net.c) */
int net_listen(lua_State *L);
void net_give_up(lua_State *L); /* one of these has failed: what it made goes */
int read_check_formats(lua_State *L, int first); /* raises what is no format */

#endif
