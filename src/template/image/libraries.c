/* See libraries.h. */
#include "template/image/libraries.h"

#include "template/image/format.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct listing {
  struct libraries *o;
  int error;
};

/* A file without a build id (of another linker): what is in it. */
static void sum_of_file(struct library *o) {
  struct stat st;
  int fd = open(*o->path ? o->path : "/proc/self/exe", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &st) < 0 || st.st_size <= 0) {
    if (fd >= 0)
      close(fd);
    return;
  }
  size_t n = (size_t)st.st_size;
  void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (p == MAP_FAILED)
    return;
  uint64_t id[2] = {image_sum(n, p, n / 8 * 8), n};
  munmap(p, n);
  memcpy(o->id, id, sizeof id);
  o->nid = sizeof id;
}

/* The notes of a segment: name and contents are padded to its alignment, 4 or 8. */
static void look_at_notes(struct library *o, const char *p, size_t n, size_t align) {
  align = align == 8 ? 8 : 4;
  while (n >= sizeof(ElfW(Nhdr))) {
    const ElfW(Nhdr) *note = (const ElfW(Nhdr) *)(const void *)p;
    size_t name = (sizeof *note + note->n_namesz + align - 1) / align * align;
    size_t all = name + (note->n_descsz + align - 1) / align * align;
    if (name > n || note->n_descsz > n - name)
      return;
    if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 &&
        memcmp(note + 1, "GNU", 4) == 0 && note->n_descsz <= OBJECT_ID_MAX) {
      o->nid = note->n_descsz;
      memcpy(o->id, p + name, o->nid);
    }
    if (all >= n)
      return;
    p += all;
    n -= all;
  }
}

/* ---- variables ---- */

static void add_data(struct library *o, uint64_t from, uint64_t to) {
  if (from < to && o->ndata < OBJECT_DATA_MAX)
    o->data[o->ndata++] = (struct library_data){from, to};
}

/* Without [relro, relro_end), which lies at one of its ends or is none of it. */
static void add_segment(struct library *o, uint64_t from, uint64_t to, uint64_t relro,
                        uint64_t relro_end) {
  if (relro_end <= from || relro >= to) {
    add_data(o, from, to);
  } else {
    add_data(o, from, relro);
    add_data(o, relro_end, to);
  }
}

static void look_for_data(struct library *o, const struct dl_phdr_info *info,
                          size_t size) {
  uint64_t relro = 0, relro_end = 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    uint64_t at = info->dlpi_addr + p->p_vaddr;
    if (p->p_type == PT_GNU_RELRO) {
      relro = at;
      relro_end = at + p->p_memsz;
    } else if (p->p_type == PT_TLS) {
      o->tls_size = p->p_memsz;
      o->tls_init = at;
      o->tls_init_size = p->p_filesz;
      if (size >= offsetof(struct dl_phdr_info, dlpi_tls_data) + sizeof(void *))
        o->tls.from = (uint64_t)(uintptr_t)info->dlpi_tls_data;
      o->tls.to = o->tls.from ? o->tls.from + p->p_memsz : 0;
    }
  }
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    uint64_t at = info->dlpi_addr + p->p_vaddr;
    if (p->p_type == PT_LOAD && (p->p_flags & PF_W))
      add_segment(o, at, at + p->p_memsz, relro, relro_end);
  }
}

static int add_object(struct dl_phdr_info *info, size_t size, void *data) {
  struct listing *l = data;
  struct library *more = realloc(l->o->all, (l->o->n + 1) * sizeof *more);
  l->error = -ENOMEM;
  if (!more)
    return 1;
  l->o->all = more;
  struct library *o = &more[l->o->n];
  *o = (struct library){.base = info->dlpi_addr, .low = UINT64_MAX};
  o->path = strdup(info->dlpi_name ? info->dlpi_name : "");
  if (!o->path)
    return 1;
  l->o->n++;
  l->error = 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    uint64_t at = info->dlpi_addr + p->p_vaddr;
    if (p->p_type == PT_LOAD) {
      o->low = at < o->low ? at : o->low;
      o->high = at + p->p_memsz > o->high ? at + p->p_memsz : o->high;
    } else if (p->p_type == PT_NOTE) {
      look_at_notes(o, (const char *)(uintptr_t)at, p->p_memsz, p->p_align);
    }
  }
  look_for_data(o, info, size);
  if (o->nid == 0 && o->low < o->high && (!*o->path || *o->path == '/'))
    sum_of_file(o);
  return 0;
}

int libraries_list(struct libraries *ret) {
  struct listing l = {.o = ret};
  *ret = (struct libraries){0};
  dl_iterate_phdr(add_object, &l);
  if (l.error)
    libraries_free(ret);
  return l.error;
}

void libraries_free(struct libraries *o) {
  for (size_t i = 0; i < o->n; i++)
    free(o->all[i].path);
  free(o->all);
  *o = (struct libraries){0};
}

struct library *libraries_find(const struct libraries *o, uint64_t address) {
  for (size_t i = 0; i < o->n; i++)
    if (address >= o->all[i].low && address < o->all[i].high)
      return &o->all[i];
  return NULL;
}

/* A handle is never followed before it is known to be one. */
struct library *libraries_of_handle(const struct libraries *o, uint64_t handle) {
  for (size_t i = 0; i < o->n; i++) {
    void *h = *o->all[i].path ? dlopen(o->all[i].path, RTLD_NOW | RTLD_NOLOAD) : NULL;
    if (!h)
      continue;
    dlclose(h); /* the reference of this call */
    if ((uint64_t)(uintptr_t)h == handle)
      return &o->all[i];
  }
  return NULL;
}
