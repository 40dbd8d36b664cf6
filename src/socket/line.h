/* Lines that are there already, without a Lua string for each. Both sides. */
#ifndef SOCKET_LINE_H
#define SOCKET_LINE_H

#include "socket/socket.h"

struct line { /* borrowed from the socket until it is taken */
  const char *text;
  size_t size;  /* without its end */
  size_t taken; /* of the socket: socket_take(s, taken) goes to the next one */
};
/* The next line of an open socket; end is the byte behind it, which the last one need not
 * have. 1; 0: the end; -EAGAIN: it is not there yet; -E2BIG: longer than socket:limit
 * allows; or another negated errno. Never waits, but for files, which are always ready.
 */
int line_peek(struct socket *s, char end, struct line *ret);

#endif
