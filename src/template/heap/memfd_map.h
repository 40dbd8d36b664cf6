/* Private memory that stays as it is, moved to where fork need not copy anything: a
 * sealed file in memory, in huge pages, mapped privately at the same addresses. A mapping
 * of a file that nobody has written through has no page tables that a child could not
 * make anew, so fork leaves it out (vma_needs_copy() in Linux' mm/memory.c); a child maps
 * 2 MiB at its first read of them, and copies the 4 KiB that it writes to. Linux 6.1 and
 * later (huge pages whatever shmem_enabled says: MADV_COLLAPSE, madvise(2)); elsewhere
 * nothing is frozen.
 *
 * Each piece has a mirror: the file once more, for reading, in the template alone. It
 * keeps every page mapped by someone who lives as long as the template, so that the
 * kernel's counts say "shared" of pages that only one clone looks at for the moment. */
#ifndef TEMPLATE_MEMFD_MAP_H
#define TEMPLATE_MEMFD_MAP_H

#include "os/memfile.h"
#include <stddef.h>

/* Each piece is two mappings, which a fork looks at: as few as the address space has room
 * for. */
enum {
  MEMFD_MAP_PIECE_MIN = 128 << 20,
  MEMFD_MAP_PIECE = sizeof(void *) > 4 ? 1 << 30 : MEMFD_MAP_PIECE_MIN
};

/* n bytes at a multiple of HUGE_PAGE plus `off`, without access. NULL: no room. */
char *memfd_map_reserve(size_t n, size_t off);

/* What moves memory wants the process to have one thread, and all signals blocked.
 *
 * Freezes [place, place + n), n at most MEMFD_MAP_PIECE, place and n multiples of the
 * page, all of it readable, writable, private. Returns how many bytes from the front are
 * frozen now (fewer where the system has no more huge pages or descriptors or won't have
 * such files; 0 also on kernels without). *mirror is NULL, or as many bytes for the
 * caller to munmap. The rest is as it was. keep_mirror 0: none is wanted (address space
 * is limited). */
size_t memfd_map_make(char *place, size_t n, int keep_mirror, char **mirror);

/* Looks at every page of a frozen [place, place + n), so that this process has mapped it,
 * too. */
void memfd_map_touch(char *place, size_t n);

/* For work that writes to nearly every page and leaves nearly every one as it was: a
 * collection of everything. cover moves the frozen [place, place + n), multiples of
 * HUGE_PAGE, aside and puts a copy in huge pages in its place, which costs a tenth
 * of 4 KiB copies one by one. uncover moves what it got back, with those pages that have
 * changed: the others are shared again. cover: NULL if [place, place + n) is more than
 * one mapping, or there is no memory. uncover: negative where it can't; the copy stays,
 * and aside is for munmap. */
char *memfd_map_cover(char *place, size_t n);
int memfd_map_uncover(char *place, size_t n, char *aside, size_t page);

/* Makes [place, place + n) anonymous private memory again, in huge pages. Returns how
 * many bytes from the front are; the rest is as it was. */
size_t memfd_map_undo(char *place, size_t n);

#endif
