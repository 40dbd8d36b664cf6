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

static int look_beside(const char *from, char *room) {
  const char *slash = strrchr(from, '/');
  for (size_t i = 0; slash && i < sizeof beside / sizeof *beside; i++) {
    int n = snprintf(room, PROGRAM_PATH_MAX, "%.*s/%s/moonfork-template",
                     (int)(slash - from), from, beside[i]);
    if (n > 0 && n < PROGRAM_PATH_MAX && access(room, X_OK) == 0)
      return 1;
  }
  return 0;
}

const char *program_installed(char *room) {
  if (object[0]) {
    if (look_beside(object, room))
      return room;
    char *real = realpath(object, NULL); /* where only the object is linked to */
    int found = real && look_beside(real, room);
    free(real);
    if (found)
      return room;
  }
  return MOONFORK_TEMPLATE_PATH;
}

const char *program_default(char *room) {
  const char *env = proc_getenv("MOONFORK_TEMPLATE");
  return env && *env ? env : program_installed(room);
}

void mf_places(const char **ret_own, char *ret_program, size_t n) {
  char room[PROGRAM_PATH_MAX];
  *ret_own = object[0] ? object : NULL;
  snprintf(ret_program, n, "%s", program_default(room));
}
