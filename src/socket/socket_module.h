/* moonfork.socket: the descriptor object of both sides (doc/lua-api.md). In a clone its
 * methods block by poll(2); in a parent they wait through a function that the binding
 * sets, so that the reactor turns or a coroutine is suspended. Needs base, os and lua
 * only.
 *
 * Objects of the template program and of a module loaded into it don't mix: the metatable
 * hangs in the registry under an address of the very copy of this code (socket.c), and
 * each takes the other's objects for handles through their fileno.
 *
 * In the copy that template() or early make of an interpreter the wait function must be
 * taken off (wait_set_function with nil): there is no reactor there.
 *
 * In detail:
 *  - a time limit (settimeout, connect's second argument) holds for one whole method call
 *    and ends it with nil, "timed out", ETIMEDOUT; what was read stays in the buffer, so
 * the call may be made again. A write that fails tells as a fourth value how many bytes
 * went;
 *  - recv_fd waits for a descriptor and gives with it all bytes up to the end of its
 *    message that were not read yet; without data send_fd sends one zero byte. A
 * descriptor that comes in while read fills its buffer waits for recv_fd (16 at most, the
 * loss of others is told as EMFILE). At the end: nil, "end of file", 0;
 *  - detach gives as a second value the bytes that were read ahead, if there are any; dup
 *    leaves them with the original; file() hands them on, or fails with EBUSY;
 *  - listen takes backlog and reuseport second, removes the path of a UNIX socket that
 *    nobody listens to, and address() tells what a socket is bound to (port 0);
 *  - poll takes any handles; a datagram is read like a file that ends with it, and limit
 *    keeps what it refuses in the buffer;
 *  - option without a value gives what the system has (Linux doubles sndbuf and rcvbuf
 * for its own bookkeeping), with one sets it and gives the socket. nodelay is set
 * whenever a TCP descriptor becomes a moonfork.socket, but by dup: whoever switched it
 * off has to do so again in the process that he sends it to;
 *  - methods of a closed socket raise, but close, getfd and pollfd (-1). One that is
 * closed by somebody else while it waits gives EBADF. One coroutine at a time should
 * write.
 */
#ifndef SOCKET_SOCKET_MODULE_H
#define SOCKET_SOCKET_MODULE_H

#include <lua.h>

/* Makes what all sockets of this state share: before the first socket_push. Processes
 * forked from here on don't each make it themselves. May raise (memory). */
void socket_prepare(lua_State *L);
/* The module table (pair, listen, connect, poll, open, wrap), prepared. Leaves it on the
 * stack.
 */
int socket_module_open(lua_State *L);

#endif
