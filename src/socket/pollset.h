/* Several descriptors behind one, as a reactor waits for one at a time. Knows no Lua; an
 * implementation for each kind of kernel. Private to src/socket. */
#ifndef SOCKET_POLLSET_H
#define SOCKET_POLLSET_H

#include <poll.h>

/* A descriptor (close-on-exec, above 2) that can be read while one of the entries can, or
 * is broken; entries with a negative fd are passed over. It ends with close(2), and
 * forgets what is closed. Or a negated errno. */
int pollset_open(const struct pollfd *p, int n);

#endif
