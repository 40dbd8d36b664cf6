/* Operations that may have to wait, as steps that can be taken again. Both sides; private
 * to src/socket but for wait_set_function.
 *
 * A step works on nothing but the socket and the stack, so that between two steps the
 * coroutine may be suspended, other coroutines may use the same socket, and an operation
 * that ran out of time can be started again: what was read stays in the socket's buffer.
 *
 *   stack: 1 the socket | 2 deadline or nil | 3 the kind | 4 .. 3+nargs arguments
 *          | what the step adds
 */
#ifndef SOCKET_WAIT_H
#define SOCKET_WAIT_H

#include "socket/socket.h"

struct wait;

struct wait_kind { /* one per operation, in the file that has it */
  /* One step: how many results, which are on top, or WAIT_MORE. */
  int (*step)(struct wait *w);
  /* The operation has failed, and nil, message, errno are on top: gives back what the
   * steps made, and tells how many results there are. May raise instead. NULL: 3. */
  int (*undo)(lua_State *L, int nargs);
};

enum { SLOT_SELF = 1, SLOT_DEADLINE = 2, SLOT_KIND = 3, SLOT_ARG = 4 };
enum { WAIT_MORE = -1 }; /* a step's result: wait as told in want, then again */

struct wait { /* one step of one operation */
  lua_State *L;
  struct socket *socket;
  const struct wait_kind *kind;
  int nargs;
  int block; /* sleeping in a call is fine: no reactor to turn and no deadline */
  struct want {
    int fd;
    const char *events;
    double at_most; /* seconds; negative: none. The step is taken again in any case */
  } want;
};

/* Stack: the socket and the arguments. timeout in seconds, negative: none. */
int wait_start(lua_State *L, const struct wait_kind *kind, double timeout);
/* Wants an event of the socket's own descriptor. */
int wait_event(struct wait *w, const char *events);
/* The failure of this operation, as its results. error is positive. */
int wait_fail(struct wait *w, int error);
/* The same where nil, message, errno are on top. */
int wait_fail_top(struct wait *w);

/* How sockets of this state wait: a function wait(fd, events, timeout) -> true | false
 * ("timed out") | nil, message; events "r", "w" or "rw", timeout seconds or nil. It may
 * yield. With "" nobody waits: it ends all waits with true, for one of the sockets goes.
 * Pops it from the stack; nil: poll(2). Methods call it with lua_callk when an operation
 * would block. */
void wait_set_function(lua_State *L);
/* Whether there is one, and so a reactor that must not be blocked. */
int wait_has_function(lua_State *L);
/* The socket is about to be closed or given away: who waits for it shall look again, for
 * the kernel tells nothing of a closed descriptor. Calls the wait function with no
 * events. */
void wait_closing(lua_State *L, const struct socket *s);
/* Keeps the names that an operation looks up in the registry. A clone that had to make
 * them would write to the table of strings, which it shares with its template. */
void wait_keep_names(lua_State *L);
/* Seconds until the operation's deadline; negative: none. */
double wait_left(lua_State *L);

/* registry[WAIT_SHARED]: a wait function for all copies of this code in a state, where
 * the one of a copy was not set: a server's worker whose coroutines wait for sockets
 * (src/serve/loop.c). A name, as those copies share it. */
#define WAIT_SHARED "moonfork.wait"

/* registry[WAIT_ATTEND]: what a process where sockets just block has to look after
 * between two waits: a Lua function, called with SIGTERM blocked before each of them. A
 * signal that comes between that look and the sleep ends the sleep (ppoll), and the
 * function is called again. It returns whether it had something to do: then a poll of
 * several sockets gives what it has. It may raise, and may not yield. A name and not an
 * address, as the copies of this code in one state share it. */
#define WAIT_ATTEND "moonfork.attend"

/* What the function does may also have been done elsewhere: in Lua code, a moment before
 * a poll that would then sleep without having looked. So the next poll of this state
 * doesn't sleep. */
void wait_end_next_poll(lua_State *L);
/* Whether that was said since the last time that this was asked. */
int wait_poll_ends(lua_State *L);

/* Sleeps until one of the entries can be served: this is the one place where a process
 * without a reactor waits for its sockets. timeout in seconds, negative: none. How many
 * are ready, 0: the time ran out, -EINTR when the attending function had something to do,
 * or another negated errno. */
int wait_sleep(lua_State *L, struct pollfd *p, int n, double timeout);

#endif
