/* See birth_maps.h. Linux, glibc; linked into moonfork-template only.
 *
 * fork copies the record of each mapping, and the end of the process frees it: 0.6 us for
 * one in which nothing was written. A library is loaded as three mappings of its file
 * that nobody writes to, one after the other: headers, code, constants. They differ in
 * being executable, and only in that; where all three are, the kernel joins them to one,
 * as all libraries were mapped before the linker separated constants from code. Measured,
 * with libc, libm and the dynamic linker: 31 mappings become 25, and a template's
 * processor time for a clone x 0.96. Each module of C that a template has loaded is two
 * more. Where the system refuses executable memory nothing changes.
 *
 * A mapping in which something was written costs 4 us more. The program's variables are
 * two: those of its file, which every birth writes, and those that are zero at first. The
 * former become plain memory as the latter are, and so one mapping with them. Only of
 * plain memory the kernel shows a title, too (proc_move_title). */
#include "template/fork/birth_maps.h"

#include "os/proc.h"

#include <link.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

struct walk {
  uintptr_t page;
  int nobjects;
};

/* Nobody may read or write there meanwhile: one thread, all signals blocked, a copy by
 * hand, since even memcpy has variables. */
static void make_plain(uintptr_t start, uintptr_t end) {
  enum { MOST = 16 * 1024 };
  unsigned long kept[MOST / sizeof(unsigned long)];
  volatile unsigned long *there = (volatile unsigned long *)start;
  size_t n = (end - start) / sizeof *there;
  sigset_t all, before;
  if (end <= start || end - start > MOST || proc_threads() != 1)
    return;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  for (size_t i = 0; i < n; i++)
    kept[i] = there[i];
  if (mmap((void *)start, end - start, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
    for (size_t i = 0; i < n; i++)
      there[i] = kept[i];
  sigprocmask(SIG_SETMASK, &before, NULL);
}

/* The program's variables that are not zero at first, which are the end of its file: what
 * is beside them, zero at first, is plain memory already. */
static void join_variables(const struct dl_phdr_info *info, uintptr_t page) {
  uintptr_t start = 0, end = 0, tables = 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    uintptr_t at = info->dlpi_addr + p->p_vaddr;
    if (p->p_type == PT_GNU_RELRO) {
      tables = (at + p->p_memsz) & -page;
    } else if (p->p_type == PT_LOAD && (p->p_flags & PF_W) && p->p_memsz > p->p_filesz) {
      start = at & -page;
      end = (at + p->p_filesz + page - 1) & -page;
    }
  }
  if (tables > start && tables < end) /* in the same segment, at its beginning */
    start = tables;
  if (tables && start)
    make_plain(start, end);
}

/* What of an object is only read and executed, where that lies in one piece; the first is
 * the program, whose code has its place (birth_text.c). */
static int join(struct dl_phdr_info *info, size_t size, void *data) {
  struct walk *walk = data;
  uintptr_t start = 0, end = 0;
  int has_code = 0;
  (void)size;
  if (walk->nobjects++ == 0) {
    join_variables(info, walk->page);
    return 0;
  }
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
