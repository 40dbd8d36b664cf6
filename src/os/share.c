#include "os/share.h"

#include "os/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef MFD_ALLOW_SEALING

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U /* Linux 6.3 complains where it is not said */
#endif

static int open_memory(void) {
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  int fd = memfd_create("moonfork", flags | MFD_NOEXEC_SEAL);
  if (fd < 0 && errno == EINVAL)
    fd = memfd_create("moonfork", flags);
  if (fd < 0)
    return errno == EPERM || errno == EACCES || errno == EINVAL ? -ENOSYS : -errno;
  return fd_raise_made(fd);
}

int share_new(size_t size, int *ret_fd, void **ret_map) {
  int fd = open_memory(), r = 0;
  if (fd < 0)
    return fd;
  if (ftruncate(fd, (off_t)size) < 0)
    r = -errno;
  else if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
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
