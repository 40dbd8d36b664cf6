/* occupy: a library that takes addresses before its program begins (LD_PRELOAD), so that
 * an image finds its own taken. OCCUPY: the first address, in hexadecimal. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

__attribute__((constructor)) static void occupy(void) {
  enum { SIZE = 1 << 20, STATUS = 99 };
  const char *text = getenv("OCCUPY");
  if (!text)
    return;
  void *wanted = (void *)(uintptr_t)strtoull(text, NULL, 16);
  void *got =
      mmap(wanted, SIZE, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (got != wanted)
    _exit(STATUS);
}
