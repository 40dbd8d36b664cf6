/* See memfile.h. */
#include "os/memfile.h"

#include "os/fd.h"
#include <errno.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#ifdef MFD_ALLOW_SEALING

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U /* Linux 6.3, which complains where neither is said */
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif

static int limit_forbids(size_t size) {
  struct rlimit limit;
  return getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < size;
}

int memfile_new(const char *name, size_t size, enum memfile_use use) {
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if (limit_forbids(size))
    return -EFBIG;
  int fd = memfd_create(name, flags | (use == MEMFILE_CODE ? MFD_EXEC : MFD_NOEXEC_SEAL));
  if (fd < 0 && errno == EINVAL)
    fd = memfd_create(name, flags); /* before Linux 6.3 */
  if (fd < 0)
    return -errno;
  if (ftruncate(fd, (off_t)size) < 0) {
    int r = -errno;
    fd_close(&fd);
    return r;
  }
  return fd;
}

#else

int memfile_new(const char *name, size_t size, enum memfile_use use) {
  (void)name, (void)size, (void)use;
  return -ENOSYS;
}

#endif
