/* moonfork.socket: the descriptor object of both sides (API 1.7). In a clone its methods
 * block by poll(2); in a parent they wait through a function that the binding sets, so
 * that the reactor turns or a coroutine is suspended. Needs base, os and lua only.
 *
 * Objects of the template program and of a module loaded into it don't mix: the metatable
 * hangs in the registry under an address of the very copy of this code (socket.c), and each
 * takes the other's objects for handles through their fileno.
 *
 * In the copy that template() or early make of an interpreter the wait function must be
 * taken off (socket_set_wait with nil): there is no reactor there.
 *
 * What API 1.7 leaves open:
 *  - a time limit (settimeout, connect's second argument) holds for one whole method call
 *    and ends it with nil, "timed out", ETIMEDOUT; what was read stays in the buffer, so the
 *    call may be made again. A write that fails tells as a fourth value how many bytes went;
 *  - recv_fd waits for a descriptor and gives with it all bytes up to the end of its
 *    message that were not read yet; without data send_fd sends one zero byte. A descriptor
 *    that comes in while read fills its buffer waits for recv_fd (16 at most, the loss of
 *    others is told as EMFILE). At the end: nil, "end of file", 0;
 *  - detach gives as a second value the bytes that were read ahead, if there are any; dup
 *    leaves them with the original; file() hands them on, or fails with EBUSY;
 *  - listen takes a backlog second, removes the path of a UNIX socket that nobody listens
 *    to, and address() tells what a socket is bound to (port 0);
 *  - option without a value gives what the system has (Linux doubles sndbuf and rcvbuf for its
 *    own bookkeeping), with one sets it and gives the socket. nodelay is set whenever a TCP
 *    descriptor becomes a moonfork.socket, but by dup: whoever switched it off has to do so
 *    again in the process that he sends it to;
 *  - methods of a closed socket raise, but close, getfd and pollfd (-1). One that is closed
 *    by somebody else while it waits gives EBADF. One coroutine at a time should write.
 */
#ifndef SOCKET_MODULE_H
#define SOCKET_MODULE_H

#include <lua.h>

enum socket_kind {
  SOCKET_OWN = 0,    /* a description that the library created: may be switched blocking or not */
  SOCKET_FOREIGN = 1 /* sent, inherited or wrapped: its blocking flag is never changed */
};

/* Pushes a moonfork.socket that owns fd. Takes fd, even when it raises (memory). The fd is
 * made close-on-exec. */
void socket_push(lua_State *L, int fd, enum socket_kind kind);
/* The same for a close-on-exec UNIX stream socket that the library created: nothing to ask the
 * system. */
void socket_push_unix(lua_State *L, int fd);
/* Makes what all sockets of this state share, so that processes forked from here on don't
 * each make it themselves. May raise (memory). */
void socket_prepare(lua_State *L);
/* The descriptor behind the value at idx: an integer, an io file, a moonfork.socket, or an
 * object that answers fileno, getfd, pollfd or fd (in this order; methods are called, plain
 * integer fields are taken; may raise what the method raises). Returns the number (borrowed,
 * checked to be open with fcntl), or -1 with a message pushed ("... is no open descriptor");
 * raises an argument error where the value is of no such kind. */
int handle_check(lua_State *L, int idx);
/* The module table (pair, listen, connect, open, wrap). Leaves it on the stack. */
int socket_module_open(lua_State *L);
/* How sockets of this state wait: a function wait(fd, events, timeout) -> true | false
 * ("timed out") | nil, message; events "r", "w" or "rw", timeout seconds or nil. It may
 * yield. Pops it from the stack; nil: poll(2). Methods call it with lua_callk when an
 * operation would block. */
void socket_set_wait(lua_State *L);

#endif
