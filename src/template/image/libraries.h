/* The program and libraries of this process, as dl_iterate_phdr tells them: where they
 * lie and which build they are. Runs in templates and clones. */
#ifndef TEMPLATE_IMAGE_LIBRARIES_H
#define TEMPLATE_IMAGE_LIBRARIES_H

#include <stddef.h>
#include <stdint.h>

enum { OBJECT_ID_MAX = 32, OBJECT_PATH_MAX = 4096 };

struct library {
  char *path;               /* "": the program */
  uint64_t base, low, high; /* addresses are counted from base; it lies in [low, high) */
  unsigned char id[OBJECT_ID_MAX]; /* its build id; without one, a sum of its file */
  unsigned nid;
};

struct libraries {
  struct library *all;
  size_t n;
};

/* 0 or -ENOMEM. */
int libraries_list(struct libraries *ret);
void libraries_free(struct libraries *o);
/* NULL: none has this address. */
struct library *libraries_find(const struct libraries *o, uint64_t address);
/* The one that this handle of dlopen's is of. NULL: it is none. */
struct library *libraries_of_handle(const struct libraries *o, uint64_t handle);

#endif
