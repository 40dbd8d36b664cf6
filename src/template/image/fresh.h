/* What libraries are like when they have just been loaded: a second process of this very
 * program loads them, as loading an image does, and reports their variables. It does
 * nothing else, and ends. Variables can't be read from the files: what is relocated, and
 * what constructors write, is there only once a library is loaded.
 *
 * Runs in templates and clones, which ask, and in the process that is asked. */
#ifndef TEMPLATE_IMAGE_FRESH_H
#define TEMPLATE_IMAGE_FRESH_H

#include "template/image/libraries.h"

struct fresh_object {
  char *path; /* "": the program */
  uint64_t base, low, high;
  int owner; /* which of the files brought it, from 0; -1: the program has it at its start
              */
  const char
      *data; /* of struct library: data, one after the other in whole words, then tls */
  uint64_t ndata; /* 0: it has none, or owner is -1 */
};

struct fresh {
  struct fresh_object *objects;
  size_t nobjects;
  char *text; /* all of it lies here */
};

/* files: paths, to be loaded in this order. 0, or a negative errno and why: the program
 * can't be executed again, or a library can't be loaded. */
int fresh_look(const char *const *files, size_t nfiles, struct fresh *ret, char *why,
               size_t nwhy);
void fresh_free(struct fresh *f);

/* Of struct library, as fresh_object has it: the size, and the bytes. */
uint64_t fresh_data_size(const struct library *o);
void fresh_data_copy(const struct library *o, char *to);
/* Where the byte at the offset lies; not of a thread's variables. */
int fresh_data_is_thread(const struct library *o, uint64_t offset);
uint64_t fresh_data_address(const struct library *o, uint64_t offset);

#endif
