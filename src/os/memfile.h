/* Files in memory (memfd_create(2)). Runs in every process. */
#ifndef OS_MEMFILE_H
#define OS_MEMFILE_H

#include <stddef.h>

enum memfile_use {
  MEMFILE_DATA, /* may be sealed (F_ADD_SEALS), never executed */
  MEMFILE_CODE  /* may be mapped with PROT_EXEC */
};

enum { HUGE_PAGE = 2 << 20 }; /* bytes; also of a file in memory */

/* A file of size zero bytes; its descriptor is close-on-exec. name is what the system
 * shows. -errno; -EFBIG: the limit on file sizes forbids it, and to try would have been a
 * signal (SIGXFSZ) that ends the process; -ENOSYS: not here. */
int memfile_new(const char *name, size_t size, enum memfile_use use);

/* Moves the HUGE_PAGE bytes at place, a multiple of HUGE_PAGE in a shared mapping of such
 * a file, into one huge page (MADV_COLLAPSE). 0 or -errno: the system can't do it now. */
int memfile_collapse(char *place);

/* The same with the first HUGE_PAGE bytes of a file, which has so many and something
 * written in them. */
int memfile_make_huge(int fd);

#endif
