/* The installed template program is looked for from two ends: relative to the shared
 * object that this code is in (libmoonfork, or the Lua module), as the build installs or
 * a rock deploys them, and at the compiled path. Runs in the parent. */
#include "parent/common/program.h"

#include "os/proc.h"
#include "parent/private.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef MOONFORK_TEMPLATE_PATH
#error "the build defines where moonfork-template is installed"
#endif

/* From the folder of each object to that of the program. */
static const char *const beside[] = {MOONFORK_BESIDE_MODULE, MOONFORK_BESIDE_LIBRARY};
static char
    object[PROGRAM_PATH_MAX]; /* "": not known, or the code is in the program itself */

/* When the object is loaded: it may be known by a relative name, and the working
 * directory may change. */
__attribute__((constructor)) static void remember_object(void) {
  if (proc_object_path(object, object, sizeof object) < 0)
    object[0] = 0;
}

const char *program_own(void) {
  return object[0] ? object : "this program";
}

static int look_beside(const char *from, const char *name, char *room) {
  const char *slash = strrchr(from, '/');
  for (size_t i = 0; slash && i < sizeof beside / sizeof *beside; i++) {
    int n = snprintf(room, PROGRAM_PATH_MAX, "%.*s/%s/%s", (int)(slash - from), from,
                     beside[i], name);
    if (n > 0 && n < PROGRAM_PATH_MAX && access(room, X_OK) == 0)
      return 1;
  }
  return 0;
}

static const char *find(const char *name, const char *compiled, char *room) {
  if (object[0]) {
    if (look_beside(object, name, room))
      return room;
    char *real = realpath(object, NULL); /* where only the object is linked to */
    int found = real && look_beside(real, name, room);
    free(real);
    if (found)
      return room;
  }
  return compiled;
}

/* The program that was installed with this library or Lua module: the one that lies where
 * it belongs beside the shared object that this code is in (so a tree may be moved, and a
 * rock unpacked anywhere), else the path that the build compiled in, which need not
 * exist. room has PROGRAM_PATH_MAX bytes. */
static const char *program_installed(char *room) {
  return find("moonfork-template", MOONFORK_TEMPLATE_PATH, room);
}

const char *program_remote(char *room) {
  const char *env = proc_getenv("MOONFORK_REMOTE");
  return env && *env ? env : find("moonfork-remote", MOONFORK_REMOTE_PATH, room);
}

const char *program_default(char *room) {
  const char *env = proc_getenv("MOONFORK_TEMPLATE");
  return env && *env ? env : program_installed(room);
}

const char *mf_program(int remote, char *room) {
  return remote ? program_remote(room) : program_default(room);
}

void mf_places(const char **ret_own, char *ret_program, size_t n) {
  char room[PROGRAM_PATH_MAX];
  *ret_own = object[0] ? object : NULL;
  snprintf(ret_program, n, "%s", program_default(room));
}
