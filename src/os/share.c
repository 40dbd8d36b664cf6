#include "os/share.h"

#include "os/fd.h"
#include "os/memfile.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#ifdef MFD_ALLOW_SEALING

static int map_memory(int fd, size_t size, void **ret_map) {
  void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (map == MAP_FAILED)
    return -errno;
  *ret_map = map;
  return 0;
}

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
  if (r == 0)
    r = map_memory(fd, size, ret_map);
  if (r < 0) {
    fd_close(&fd);
    return r;
  }
  *ret_fd = fd;
  return 0;
}

/* Files on disks have no seals, other files of tmpfs have only F_SEAL_SEAL. */
int share_is_memory(int fd, size_t size) {
  struct stat st;
  int seals = fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(fd, &st) == 0 &&
         S_ISREG(st.st_mode) && st.st_size == (off_t)size;
}

int share_map(int fd, size_t size, void **ret_map) {
  return share_is_memory(fd, size) ? map_memory(fd, size, ret_map) : -EINVAL;
}

#else

int share_new(size_t size, int *ret_fd, void **ret_map) {
  (void)size, (void)ret_fd, (void)ret_map;
  return -ENOSYS;
}

int share_is_memory(int fd, size_t size) {
  (void)fd, (void)size;
  return 0;
}

int share_map(int fd, size_t size, void **ret_map) {
  (void)fd, (void)size, (void)ret_map;
  return -EINVAL;
}

#endif

void share_unmap(void *map, size_t size) {
  munmap(map, size);
}
