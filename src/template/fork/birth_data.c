/* See birth_data.h. Linux, glibc; linked into moonfork-template only.
 *
 * A library's variables, its tables of addresses that are read-only after relocation, and
 * what malloc gave so far are pages that were written: fork copies their entries, and an
 * anon_vma for each mapping that has such. A birth reads little of them and writes
 * nothing. So their bytes are copied to a file in memory (memfd), which is mapped
 * privately in their place, with the protection that was there: the same bytes at the
 * same addresses. fork copies nothing of a private mapping of a file that nobody has
 * written through; whoever writes gets a page of his own, as ever. Measured: processor
 * time of a process x 0.94.
 *
 * What the stack has grown to and no longer needs goes back to the system.
 *
 * Between copy and mapping nobody may write there: one thread, all signals blocked, and
 * what is called is system calls. Mappings about which the kernel was told something
 * (locked memory, memory that forks leave out or wipe) stay as they are. */
#include "template/fork/birth_data.h"

#include "os/memfile.h"
#include "os/proc.h"

#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
  RANGES_MAX = 64,
  MEMORY_MAX = 16 << 20
}; /* more from malloc would take its time */

struct range {
  uintptr_t start, end;
  int prot;
};

struct ranges {
  int n;
  struct range at[RANGES_MAX];
};

struct plan {
  uintptr_t page;
  int nobjects;
  struct ranges data;      /* of the libraries */
  uintptr_t memory, names; /* somewhere in malloc's memory, and in the dynamic linker's */
  uintptr_t stack;         /* its lowest address; 0: not known */
  struct ranges *moved;
};

static void add(struct ranges *to, uintptr_t start, uintptr_t end, int prot) {
  if (start < end && to->n < RANGES_MAX)
    to->at[to->n++] = (struct range){start, end, prot};
}

/* ---- what the libraries have ---- */

/* The first object is the program: births write to its variables, but not to its tables.
 */
static int find_data(struct dl_phdr_info *info, size_t size, void *data) {
  struct plan *plan = data;
  (void)size;
  int first = plan->nobjects++ == 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    uintptr_t start = info->dlpi_addr + p->p_vaddr, end = start + p->p_memsz;
    if (first && p->p_type == PT_GNU_RELRO) {
      add(&plan->data, start & -plan->page, end & -plan->page, 0);
      continue;
    }
    if (first || p->p_type != PT_LOAD || !(p->p_flags & PF_W))
      continue;
    add(&plan->data, start & -plan->page, (end + plan->page - 1) & -plan->page, 0);
    if (!plan->names)
      plan->names = (uintptr_t)info->dlpi_name;
  }
  return 0;
}

/* ---- what of it is written, and plain memory ---- */

struct mapping {
  uintptr_t start, end;
  char protection[5];
  unsigned long written; /* KiB */
};

static int is_plain(char *flags) {
  static const char known[] = " rd wr mr mw me ac sd ";
  char *rest;
  for (char *flag = strtok_r(flags, " \n", &rest); flag;
       flag = strtok_r(NULL, " \n", &rest)) {
    char word[8];
    if (snprintf(word, sizeof word, " %s ", flag) != 4 || !strstr(known, word))
      return 0;
  }
  return 1;
}

static int has(const struct mapping *m, uintptr_t at) {
  return m->start <= at && at < m->end;
}

static void choose(struct plan *plan, const struct mapping *m) {
  int prot = strcmp(m->protection, "rw-p") == 0   ? PROT_READ | PROT_WRITE
             : strcmp(m->protection, "r--p") == 0 ? PROT_READ
                                                  : 0;
  /* Of its own thread's page each clone has a copy at once. */
  if (!prot || m->written == 0 || has(m, (uintptr_t)__builtin_thread_pointer()))
    return;
  if (has(m, plan->memory) || has(m, plan->names)) {
    if (m->end - m->start <= MEMORY_MAX)
      add(plan->moved, m->start, m->end, prot);
    return;
  }
  for (int i = 0; i < plan->data.n; i++) {
    const struct range *r = &plan->data.at[i];
    add(plan->moved, m->start > r->start ? m->start : r->start,
        m->end < r->end ? m->end : r->end, prot);
  }
}

static void read_line(struct plan *plan, char *line, struct mapping *m) {
  struct mapping head = {0};
  if (sscanf(line, "%lx-%lx %4s", &head.start, &head.end, head.protection) == 3) {
    *m = head;
    if (has(m, (uintptr_t)__builtin_frame_address(0)))
      plan->stack = head.start;
  }
  if (strncmp(line, "Anonymous:", 10) == 0)
    m->written = strtoul(line + 10, NULL, 10);
  else if (strncmp(line, "VmFlags:", 8) == 0 && is_plain(line + 8))
    choose(plan, m);
}

static void find_plain(struct plan *plan) {
  FILE *f = fopen("/proc/self/smaps", "re");
  struct mapping m = {0};
  char line[512];
  int begins = 1; /* a path may be longer than the line */
  if (!f)
    return;
  while (fgets(line, sizeof line, f)) {
    int ends = strchr(line, '\n') != NULL;
    if (begins)
      read_line(plan, line, &m);
    begins = ends;
  }
  fclose(f);
}

/* ---- the move ---- */

static void move(const struct ranges *all) {
  size_t size = 0, at = 0;
  for (int i = 0; i < all->n; i++)
    size += all->at[i].end - all->at[i].start;
  int fd = size ? memfile_new("moonfork-data", size, MEMFILE_DATA) : -1;
  if (fd < 0)
    return;
  for (int i = 0; i < all->n; i++) {
    struct range r = all->at[i];
    void *start = (void *)r.start;
    size_t n = r.end - r.start;
    if (pwrite(fd, start, n, (off_t)at) == (ssize_t)n)
      (void)mmap(start, n, r.prot, MAP_PRIVATE | MAP_FIXED, fd, (off_t)at);
    at += n;
  }
  /* No clone is to change the file under the others. */
  fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  close(fd);
}

/* A few pages below the caller's are used again by each fork. A function of its own, so that
 * nothing in use lies that far below its frame. */
__attribute__((noinline)) static void release_stack(uintptr_t start, uintptr_t page) {
  enum { KEPT = 4096 };
  uintptr_t end = ((uintptr_t)__builtin_frame_address(0) - KEPT) & -page;
  if (start && start < end)
    (void)madvise((void *)start, end - start, MADV_DONTNEED);
}

void birth_data_prepare(void) {
  struct ranges moved = {0};
  sigset_t all, before;
  if (proc_threads() != 1)
    return;
  struct plan *plan = calloc(1, sizeof *plan);
  if (!plan)
    return;
  plan->page = (uintptr_t)sysconf(_SC_PAGESIZE);
  plan->memory = (uintptr_t)plan;
  plan->moved = &moved;
  dl_iterate_phdr(find_data, plan);
  find_plain(plan);
  release_stack(plan->stack, plan->page);
  free(plan); /* what is written afterwards is copied by forks again */
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  move(&moved);
  sigprocmask(SIG_SETMASK, &before, NULL);
}
