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

/* While UNIX sockets are under way in messages, as they are with each fork, the close of
 * any UNIX socket makes Linux look for circles among them: it wakes up a thread of the
 * kernel, which with many forks at a time takes 5 % of two processors. So the sockets of
 * processes that have ended are closed together then.
 *
 * Messages with sockets were sent (+1), or received (-1), on whatever thread; those
 * of a thread that has descriptors of its own don't count. */
void drop_count_sent(int delta);
/* fd_part_unix for a stream at whose end its owner has read. Where nobody has its other
 * end any more, its close may be put off: until no messages are under way, or for as many
 * others as DROP_TOGETHER says. Only in a parent, and where descriptors are no scarce
 * good. */
int fd_part_ended(int fd);
/* In a copy of the program: those that were put off. */
void drop_forked(void);
enum { DROP_TOGETHER = 16 };

#endif
