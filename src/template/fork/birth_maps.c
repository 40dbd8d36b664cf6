/* See birth_maps.h. Linux, glibc; linked into moonfork-template only.
 *
 * fork copies the record of each mapping, and the end of the process frees it: 0.6 us for
 * one in which nothing was written. A library is loaded as three mappings of its file
 * that nobody writes to, one after the other: headers, code, constants. They differ in
 * being executable, and only in that; where all three are, the kernel joins them to one,
 * as all libraries were mapped before the linker separated constants from code. Measured,
 * with libc, libm and the dynamic linker: 31 mappings become 25, and a template's
 * processor time for a clone x 0.96. Each module of C that a template has loaded is two
 * more. Where the system refuses executable memory nothing changes. */
#include "template/fork/birth_maps.h"

#include <link.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

struct walk {
  uintptr_t page;
  int nobjects;
};

/* What of an object is only read and executed, where that lies in one piece; the first is
 * the program, whose code has its place (birth_text.c). */
static int join(struct dl_phdr_info *info, size_t size, void *data) {
  struct walk *walk = data;
  uintptr_t start = 0, end = 0;
  int has_code = 0;
  (void)size;
  if (walk->nobjects++ == 0)
    return 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    if (p->p_type != PT_LOAD || (p->p_flags & PF_W))
      continue;
    uintptr_t at = info->dlpi_addr + p->p_vaddr, first = at & -walk->page;
    if (end == 0)
      start = first;
    else if (first != end)
      return 0;
    end = (at + p->p_memsz + walk->page - 1) & -walk->page;
    has_code |= (p->p_flags & PF_X) != 0;
  }
  if (has_code)
    (void)mprotect((void *)start, end - start, PROT_READ | PROT_EXEC);
  return 0;
}

void birth_maps_prepare(void) {
  struct walk walk = {(uintptr_t)sysconf(_SC_PAGESIZE), 0};
  dl_iterate_phdr(join, &walk);
}
