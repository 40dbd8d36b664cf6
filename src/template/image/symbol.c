/* See symbol.h. A file that is no sound ELF object has no names. */
#include "template/image/symbol.h"

#include "os/fd.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct file {
  const char *data;
  uint64_t size;
  const ElfW(Shdr) * sections;
  unsigned nsections;
  const char *names; /* of sections */
  uint64_t nnames;
};

static int has(const struct file *f, uint64_t at, uint64_t n) {
  return at <= f->size && n <= f->size - at;
}

static const char *text_at(const char *texts, uint64_t n, uint64_t at) {
  return at < n && memchr(texts + at, 0, (size_t)(n - at)) ? texts + at : NULL;
}

static int open_sections(struct file *f) {
  const ElfW(Ehdr) *h = (const ElfW(Ehdr) *)(const void *)f->data;
  if (!has(f, 0, sizeof *h) || memcmp(h->e_ident, ELFMAG, SELFMAG) != 0 ||
      h->e_shentsize != sizeof *f->sections || h->e_shoff % sizeof(uint64_t) != 0 ||
      !has(f, h->e_shoff, (uint64_t)h->e_shnum * sizeof *f->sections) ||
      h->e_shstrndx >= h->e_shnum)
    return -1;
  f->sections = (const ElfW(Shdr) *)(const void *)(f->data + h->e_shoff);
  f->nsections = h->e_shnum;
  const ElfW(Shdr) *s = &f->sections[h->e_shstrndx];
  if (!has(f, s->sh_offset, s->sh_size))
    return -1;
  f->names = f->data + s->sh_offset;
  f->nnames = s->sh_size;
  return 0;
}

/* Offsets are of words. */
static void print(const char *name, uint64_t offset, char *text, size_t n) {
  if (offset >= sizeof(uint64_t))
    snprintf(text, n, "%.100s+0x%llx", name,
             (unsigned long long)(offset & ~(uint64_t)(sizeof(uint64_t) - 1)));
  else
    snprintf(text, n, "%.100s", name);
}

static int find_symbol(const struct file *f, unsigned type, uint64_t address, char *text,
                       size_t n) {
  for (unsigned i = 0; i < f->nsections; i++) {
    const ElfW(Shdr) *s = &f->sections[i];
    if (s->sh_type != type || s->sh_link >= f->nsections ||
        !has(f, s->sh_offset, s->sh_size) || s->sh_offset % sizeof(uint64_t) != 0)
      continue;
    const ElfW(Shdr) *strings = &f->sections[s->sh_link];
    if (!has(f, strings->sh_offset, strings->sh_size))
      continue;
    const ElfW(Sym) *symbol = (const ElfW(Sym) *)(const void *)(f->data + s->sh_offset);
    for (uint64_t k = 0; k < s->sh_size / sizeof *symbol; k++, symbol++) {
      const char *name =
          text_at(f->data + strings->sh_offset, strings->sh_size, symbol->st_name);
      if ((symbol->st_info & 15) != STT_OBJECT || symbol->st_shndx == SHN_UNDEF ||
          address < symbol->st_value || address - symbol->st_value >= symbol->st_size ||
          !name || !*name)
        continue;
      print(name, address - symbol->st_value, text, n);
      return 1;
    }
  }
  return 0;
}

static void find_section(const struct file *f, uint64_t address, char *text, size_t n) {
  for (unsigned i = 0; i < f->nsections; i++) {
    const ElfW(Shdr) *s = &f->sections[i];
    const char *name = text_at(f->names, f->nnames, s->sh_name);
    if (!(s->sh_flags & SHF_ALLOC) || s->sh_flags & SHF_TLS || address < s->sh_addr ||
        address - s->sh_addr >= s->sh_size || !name)
      continue;
    print(name, address - s->sh_addr, text, n);
    return;
  }
}

void symbol_name(const char *file, uint64_t address, char *text, size_t n) {
  struct stat st;
  *text = '\0';
  int fd = open(file, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return;
  if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0) {
    struct file f = {.size = (uint64_t)st.st_size};
    void *p = mmap(NULL, (size_t)f.size, PROT_READ, MAP_PRIVATE, fd, 0);
    f.data = p;
    if (p != MAP_FAILED) {
      if (open_sections(&f) == 0 && !find_symbol(&f, SHT_SYMTAB, address, text, n) &&
          !find_symbol(&f, SHT_DYNSYM, address, text, n))
        find_section(&f, address, text, n);
      munmap(p, (size_t)f.size);
    }
  }
  fd_close(&fd);
}
