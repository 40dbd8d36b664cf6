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
void share_unmap(void *map, size_t size);

#endif
