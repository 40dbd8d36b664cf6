/* See memfd_map.h. Runs in templates, at a seal, and in clones, at a collection. For a
 * moment what is moved can't be touched: the caller sees to it that there is no other
 * thread and that no signal is delivered. */
#include "template/heap/memfd_map.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

char *memfd_map_reserve(size_t n, size_t off) {
  size_t all = n + off + HUGE_PAGE;
  char *p = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED)
    return NULL;
  char *start = p + (-(uintptr_t)p & (HUGE_PAGE - 1)) + off, *end = p + all;
  if (start > p)
    munmap(p, (size_t)(start - p));
  if (start + n < end)
    munmap(start + n, (size_t)(end - start - n));
  return start;
}

#ifdef __linux__
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static size_t offset_of(const char *place) {
  return (uintptr_t)place & (HUGE_PAGE - 1);
}

/* Puts `fresh` (a mapping to be made by the caller's flags and descriptor) in the place
 * of what is there, and gives the address where that can be read meanwhile; NULL: nothing
 * has changed. */
static char *exchange(char *place, size_t n, int flags, int fd, off_t offset) {
  char *aside = memfd_map_reserve(n, offset_of(place));
  if (!aside)
    return NULL;
  if (mremap(place, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, aside) == MAP_FAILED) {
    munmap(aside, n);
    return NULL;
  }
  if (mmap(place, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | flags, fd,
           offset) != MAP_FAILED)
    return aside;
  (void)mremap(aside, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, place);
  return NULL;
}

/* Written, not stored through the mapping: where memory is short that is an error, and no
 * SIGBUS. */
static int put(int fd, const char *data, size_t n, size_t off) {
  while (n > 0) {
    ssize_t done = pwrite(fd, data, n, (off_t)off);
    if (done < 0 && errno == EINTR)
      continue;
    if (done <= 0)
      return -1;
    data += done;
    off += (size_t)done;
    n -= (size_t)done;
  }
  return 0;
}

/* One huge page or none: a unit in small ones would be slower than what it replaces. An
 * empty file has nothing to collapse yet. */
static int put_unit(char *mirror, const char *place, int fd, size_t off) {
  if (put(fd, place, 1, off) < 0 || memfile_collapse(mirror) < 0)
    return -1;
  memcpy(mirror, place, HUGE_PAGE);
  return 0;
}

/* The file's bytes from off on, n of them, filled from place and put in its place. */
static int fill(char *mirror, char *place, size_t n, int fd, size_t off) {
  int r = n == HUGE_PAGE ? put_unit(mirror, place, fd, off) : put(fd, place, n, off);
  if (r < 0)
    return -1;
  char *old = exchange(place, n, 0, fd, (off_t)off);
  if (!old)
    return -1;
  munmap(old, n);
  return 0;
}

size_t memfd_map_make(char *place, size_t n, int keep_mirror, char **mirror) {
  size_t first = offset_of(place), done = 0;
  *mirror = NULL;
  int fd = memfile_new("moonfork-heap", first + n, MEMFILE_DATA);
  if (fd < 0)
    return 0;
  char *copy = memfd_map_reserve(n, first);
  if (copy && mmap(copy, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                   (off_t)first) == MAP_FAILED) {
    munmap(copy, n);
    copy = NULL;
  }
  while (copy && done < n) {
    size_t step = HUGE_PAGE - offset_of(place + done);
    if (step > n - done)
      step = n - done;
    if (fill(copy + done, place + done, step, fd, first + done) < 0)
      break;
    done += step;
  }
  if (copy && done < n)
    munmap(copy + done, n - done);
  if (copy && done &&
      (!keep_mirror || mprotect(copy, done, PROT_READ) < 0 ||
       madvise(copy, done, MADV_DONTFORK) < 0)) {
    munmap(copy, done);
    copy = NULL;
  }
  if (done)
    *mirror = copy;
  (void)fcntl(fd, F_ADD_SEALS,
              F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
  close(fd);
  return done;
}

void memfd_map_touch(char *place, size_t n) {
  (void)madvise(place, n, MADV_POPULATE_READ); /* best effort */
}

char *memfd_map_cover(char *place, size_t n) {
  char *aside = exchange(place, n, MAP_ANONYMOUS, -1, 0);
  if (!aside)
    return NULL;
  (void)madvise(place, n, MADV_HUGEPAGE);
  memcpy(place, aside, n);
  return aside;
}

int memfd_map_uncover(char *place, size_t n, char *aside, size_t page) {
  (void)madvise(aside, n, MADV_DONTNEED); /* what was copied before is in place, too */
  for (size_t i = 0; i < n; i += page)
    if (memcmp(aside + i, place + i, page) != 0)
      memcpy(aside + i, place + i, page);
  return mremap(aside, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED ? -1 : 0;
}

size_t memfd_map_undo(char *place, size_t n) {
  size_t done = 0;
  while (done < n) {
    size_t step = HUGE_PAGE - offset_of(place + done);
    if (step > n - done)
      step = n - done;
    char *old = exchange(place + done, step, MAP_ANONYMOUS, -1, 0);
    if (!old)
      break;
    (void)madvise(place + done, step, MADV_HUGEPAGE);
    memcpy(place + done, old, step);
    munmap(old, step);
    done += step;
  }
  return done;
}

#else

size_t memfd_map_make(char *place, size_t n, int keep_mirror, char **mirror) {
  (void)place, (void)n, (void)keep_mirror;
  *mirror = NULL;
  return 0;
}

void memfd_map_touch(char *place, size_t n) {
  (void)place, (void)n;
}

char *memfd_map_cover(char *place, size_t n) {
  (void)place, (void)n;
  return NULL;
}

int memfd_map_uncover(char *place, size_t n, char *aside, size_t page) {
  (void)place, (void)n, (void)aside, (void)page;
  return -1;
}

size_t memfd_map_undo(char *place, size_t n) {
  (void)place, (void)n;
  return 0;
}
#endif
