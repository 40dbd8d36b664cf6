/* Memory that other processes can map by a descriptor (memfd_create(2)). Every process.
 */
#ifndef OS_SHARE_H
#define OS_SHARE_H

#include <stddef.h>

/* A file of zeroes in memory, whose size nobody can change any more (who maps it could be
 * killed by that), and a shared mapping of it. The descriptor is close-on-exec, above 2.
 * 0, or -errno; -ENOSYS: not here, or a sandbox or the limit on file sizes
 * refuses. */
int share_new(size_t size, int *ret_fd, void **ret_map);
/* Whether share_new made this of that size, here or in another process: nothing else may
 * be mapped that another process gave. A touch past the end of a file is a signal
 * (SIGBUS), and what is written to a file of a user's stays in it. */
int share_is_memory(int fd, size_t size);
/* The same memory (borrows the descriptor). 0, or -errno; -EINVAL: it is not that. */
int share_map(int fd, size_t size, void **ret_map);
void share_unmap(void *map, size_t size);

#endif
