/* See mapping.h. /proc/self/smaps has for each mapping a line like those of
 * /proc/self/maps, and among others its flags (proc(5), VmFlags). */
#include "template/audit/mapping.h"

#include <stdio.h>
#include <string.h>

struct mapping {
  unsigned long long size;
  char perms[5], path[160];
};

static int starts_with(const char *text, const char *with) {
  return strncmp(text, with, strlen(with)) == 0;
}

/* "7f0c-7f1d rw-s 00000000 00:05 1234   /path"; 0 when the line is another one. */
static int parse_head(const char *line, struct mapping *ret) {
  unsigned long long from, to;
  int at = 0;
  if (sscanf(line, "%llx-%llx %4s %*s %*s %*s %n", &from, &to, ret->perms, &at) < 3 ||
      at == 0)
    return 0;
  ret->size = to - from;
  size_t n = strcspn(line + at, "\n");
  snprintf(ret->path, sizeof ret->path, "%.*s", (int)n, line + at);
  for (char *p = ret->path; *p != '\0'; p++)
    if ((unsigned char)*p < ' ' || *p == 0x7f)
      *p = '?';
  return 1;
}

static int has_flag(const char *flags, const char *name) {
  for (const char *p = flags; (p = strstr(p, name)); p++)
    if (p[-1] == ' ' && (p[2] == ' ' || p[2] == '\n' || p[2] == '\0'))
      return 1;
  return 0;
}

/* AUDIT_KIND_COUNT: nothing to tell. */
static enum audit_kind kind_of(const struct mapping *m, const char *flags) {
  int is_device = starts_with(m->path, "/dev/") && !starts_with(m->path, "/dev/zero") &&
                  !starts_with(m->path, "/dev/shm/");
  if (starts_with(m->path, "/memfd:moonfork") || starts_with(m->path, "[v"))
    return AUDIT_KIND_COUNT;
  if (starts_with(m->path, "/[aio]"))
    return AUDIT_AIO;
  if (is_device || has_flag(flags, "io") || has_flag(flags, "pf"))
    return AUDIT_DEVICE_MEMORY;
  if (m->perms[3] == 's' && m->perms[1] == 'w' && !starts_with(m->path, "anon_inode:"))
    return AUDIT_SHARED_MEMORY;
  if (has_flag(flags, "dc"))
    return AUDIT_ABSENT_MEMORY;
  return has_flag(flags, "lo") ? AUDIT_LOCKED_MEMORY : AUDIT_KIND_COUNT;
}

static void tell(enum audit_kind kind, const struct mapping *m,
                 void (*found)(enum audit_kind, const char *, void *), void *data) {
  const char *what = kind == AUDIT_SHARED_MEMORY   ? "a shared mapping"
                     : kind == AUDIT_ABSENT_MEMORY ? "memory that is not forked"
                     : kind == AUDIT_LOCKED_MEMORY ? "locked memory"
                     : kind == AUDIT_AIO           ? "a context for asynchronous input "
                                                     "and output"
                                                   : "memory of a device";
  char text[256];
  snprintf(text, sizeof text, "%s of %llu KiB%s%s%s", what, m->size / 1024,
           m->path[0] ? " (" : "", m->path, m->path[0] ? ")" : "");
  found(kind, text, data);
}

void mapping_each(void (*found)(enum audit_kind kind, const char *text, void *data),
                  void *data) {
  struct mapping m = {0};
  char line[512];
  FILE *f = fopen("/proc/self/smaps", "re");
  if (!f)
    return;
  while (fgets(line, sizeof line, f)) {
    if (!starts_with(line, "VmFlags:")) {
      struct mapping next = {0};
      if (parse_head(line, &next))
        m = next;
      continue;
    }
    enum audit_kind kind = kind_of(&m, line);
    if (kind != AUDIT_KIND_COUNT)
      tell(kind, &m, found, data);
  }
  fclose(f);
}
