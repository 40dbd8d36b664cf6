/* Writing strings. Both sides; private to src/socket. */
#ifndef SOCKET_WRITE_H
#define SOCKET_WRITE_H

#include "socket/wait.h"

/* Writes the strings in the slots from `first` to the last argument but one; that one
 * counts the bytes gone. pass_fd goes with the first byte, unless it is -1. 0: all of it
 * is written; -EAGAIN: the socket takes no more now; or a negated errno. */
int write_some(struct wait *w, int first, int pass_fd);
/* The same for a step: 0 when all is written, else the step's result. */
int write_strings(struct wait *w, int first, int pass_fd);
/* nil, message, errno are on top: adds how many bytes have gone. */
int write_undo(lua_State *L, int nargs);

extern const luaL_Reg write_methods[]; /* write, flush */

#endif
