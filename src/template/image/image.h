/* Images: an interpreter in a file, and back. Saving is done in the process whose
 * interpreter it is, between two commands; loading in a new one, in the place of making
 * an interpreter. Runs in templates and clones before run. */
#ifndef TEMPLATE_IMAGE_H
#define TEMPLATE_IMAGE_H

#include "template/heap/collector.h"

enum { IMAGE_TEXT_MAX = 1024 };

/* NULL: images are possible in this process. Else why not. heap may be NULL. */
const char *image_obstacle(lua_State *L, struct heap *heap);
enum {
  IMAGE_RUNNING = 1 /* of a function that runs: its sockets are closed ones in the file */
};
/* With nothing of C under way: the main thread is in no function, or has yielded. L: the
 * thread that shall serve in processes which load it; program: one that is suspended, to
 * be gone on with there, or NULL. A file that is there is replaced when the new one is
 * complete. 0, or a negative errno and why: -ENOTSUP where images are not possible,
 * -EINVAL for what can't be saved. */
int image_save(lua_State *L, struct heap *heap, const struct collector *c,
               lua_State *program, int flags, const char *path, char why[IMAGE_TEXT_MAX]);

struct image_loaded {
  lua_State *L;       /* the thread that serves */
  lua_State *program; /* NULL: none is suspended */
  struct heap *heap;
  struct collector collector; /* as it was saved, but for its pointers */
  uint64_t *hooks; /* distances of userdata with __clone; the caller frees it */
  size_t nhooks;
};
enum { IMAGE_VERIFY = 1 }; /* compare the sum of all contents, too */
/* 0, or a negative errno and why. The caller then prepares the state for this process. */
int image_load(const char *path, int flags, struct image_loaded *ret,
               char why[IMAGE_TEXT_MAX]);

/* First thing in the main of a template program: does not return where this process was
 * started to load libraries for image_save. */
void image_check_fresh(int argc, char **argv);

#endif
