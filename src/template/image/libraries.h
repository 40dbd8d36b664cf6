/* The program and libraries of this process, as dl_iterate_phdr tells them: where they
 * lie and which build they are. Runs in templates and clones. */
#ifndef TEMPLATE_IMAGE_LIBRARIES_H
#define TEMPLATE_IMAGE_LIBRARIES_H

#include <stddef.h>
#include <stdint.h>

enum { OBJECT_ID_MAX = 32, OBJECT_PATH_MAX = 4096, OBJECT_DATA_MAX = 4 };

struct library_data { /* variables: [from, to) */
  uint64_t from, to;
};

struct library {
  char *path;               /* "": the program */
  uint64_t base, low, high; /* addresses are counted from base; it lies in [low, high) */
  unsigned char id[OBJECT_ID_MAX]; /* its build id; without one, a sum of its file */
  unsigned nid;
  /* Its segments that stay writable, without what is read-only after relocation; a
   * further segment would not be looked at. */
  struct library_data data[OBJECT_DATA_MAX];
  unsigned ndata;
  /* Variables that each thread has of its own: this thread's, from 0 where it has not
   * used them; and what they begin as, of which the bytes behind init_size are 0. */
  struct library_data tls;
  uint64_t tls_size, tls_init, tls_init_size;
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
