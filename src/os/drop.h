/* Closing descriptors that another process has sent. close(2) of the last one of its
 * description may take as long as that process likes: a TCP socket with SO_LINGER and
 * unsent data, a terminal that drains, a file of a file system in user space, a UNIX
 * socket in which such descriptors wait. A parent has them closed by a thread of its own.
 */
#ifndef OS_DROP_H
#define OS_DROP_H

#include "os/fd.h"

/* From now on, in this process and not in its forked copies, a thread closes. */
void drop_aside(void);
/* Closes what its owner has done with: here, and by the thread where it might take long.
 * 0 or -errno of close. */
int fd_part(int fd);
/* The same for what is known to be a UNIX socket. */
int fd_part_unix(int fd);

#endif
