#include "os/share.h"

#include "os/fd.h"
#include "os/memfile.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#ifdef MFD_ALLOW_SEALING

static int open_memory(size_t size) {
  int fd = memfile_new("moonfork", size, MEMFILE_DATA);
  if (fd == -EPERM || fd == -EACCES || fd == -EINVAL || fd == -EFBIG)
    return -ENOSYS;
  return fd < 0 ? fd : fd_raise_made(fd);
}

int share_new(size_t size, int *ret_fd, void **ret_map) {
  int fd = open_memory(size), r = 0;
  if (fd < 0)
    return fd;
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
    r = -ENOSYS;
  void *map = MAP_FAILED;
  if (r == 0)
    map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (r == 0 && map == MAP_FAILED)
    r = -errno;
  if (r < 0) {
    fd_close(&fd);
    return r;
  }
  *ret_fd = fd;
  *ret_map = map;
  return 0;
}

#else

int share_new(size_t size, int *ret_fd, void **ret_map) {
  (void)size, (void)ret_fd, (void)ret_map;
  return -ENOSYS;
}

#endif

void share_unmap(void *map, size_t size) {
  munmap(map, size);
}
