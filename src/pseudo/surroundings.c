#include "pseudo/surroundings.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct surroundings {
  char **entries; /* "NAME=value", NULL at the end */
  size_t n;
};

extern char **environ;

static int add(struct surroundings *s, char *entry) {
  char **larger = realloc(s->entries, (s->n + 2) * sizeof *larger);
  if (!larger || !entry) {
    s->entries = larger ? larger : s->entries;
    free(entry);
    return -ENOMEM;
  }
  s->entries = larger;
  s->entries[s->n++] = entry;
  s->entries[s->n] = NULL;
  return 0;
}

struct surroundings *surroundings_new(const struct surroundings *from) {
  struct surroundings *s = calloc(1, sizeof *s);
  char **all = from ? from->entries : environ;
  if (!s || !(s->entries = calloc(1, sizeof *s->entries))) {
    free(s);
    return NULL;
  }
  for (; all && *all; all++)
    if (add(s, strdup(*all)) < 0) {
      surroundings_free(s);
      return NULL;
    }
  return s;
}

void surroundings_free(struct surroundings *s) {
  if (!s)
    return;
  for (size_t i = 0; i < s->n; i++)
    free(s->entries[i]);
  free(s->entries);
  free(s);
}

int surroundings_separate(void) {
#ifdef __linux__
  return unshare(CLONE_FILES | CLONE_FS) < 0 ? -errno : 0;
#else
  return -ENOSYS;
#endif
}

static size_t find(const struct surroundings *s, const char *name) {
  size_t length = strlen(name), i = 0;
  for (; i < s->n; i++)
    if (!strncmp(s->entries[i], name, length) && s->entries[i][length] == '=')
      break;
  return i;
}

const char *surroundings_get(const struct surroundings *s, const char *name) {
  size_t i = find(s, name);
  return i < s->n ? s->entries[i] + strlen(name) + 1 : NULL;
}

int surroundings_set(struct surroundings *s, const char *name, const char *value) {
  size_t i = find(s, name), size = strlen(name) + (value ? strlen(value) : 0) + 2;
  char *entry = NULL;
  if (value) {
    if (!(entry = malloc(size)))
      return -ENOMEM;
    snprintf(entry, size, "%s=%s", name, value);
  }
  if (i == s->n)
    return value ? add(s, entry) : 0;
  free(s->entries[i]);
  s->entries[i] = value ? entry : s->entries[--s->n];
  s->entries[s->n] = NULL;
  return 0;
}

char *const *surroundings_environ(const struct surroundings *s) {
  return s->entries;
}
