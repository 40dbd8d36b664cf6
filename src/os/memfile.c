/* See memfile.h. */
#include "os/memfile.h"

#include "os/fd.h"
#include <errno.h>
#include <stdint.h>
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
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
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

int memfile_collapse(char *place) {
  return madvise(place, HUGE_PAGE, MADV_COLLAPSE) < 0 ? -errno : 0;
}

int memfile_make_huge(int fd) {
  char *room = mmap(NULL, 2 * HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED)
    return -errno;
  char *place = room + (-(uintptr_t)room & (HUGE_PAGE - 1));
  void *file = mmap(place, HUGE_PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
  int r = file == MAP_FAILED ? -errno : memfile_collapse(place);
  munmap(room, 2 * HUGE_PAGE);
  return r;
}

#else

int memfile_new(const char *name, size_t size, enum memfile_use use) {
  (void)name, (void)size, (void)use;
  return -ENOSYS;
}

int memfile_collapse(char *place) {
  (void)place;
  return -ENOSYS;
}

int memfile_make_huge(int fd) {
  (void)fd;
  return -ENOSYS;
}

#endif
