/* Runs pseudo-processes: the first in the thread that begins, each copy in one of its
 * own. */
#ifndef PSEUDO_DRIVER_H
#define PSEUDO_DRIVER_H

#include <lua.h>

/* What the first state is made of. */
struct driver_program {
  const char *script, *name; /* name: of the interpreter, before messages */
  lua_State *from;    /* with the table `arg` at index 1, path and cpath at 2 and 3 */
  lua_CFunction core; /* moonfork.pseudo_core, for package.preload */
};

/* Runs the script in a state of its own and waits for all that it has forked. Returns the
 * exit status, or -1 with text[size] filled: it could not begin. */
int driver_run(const struct driver_program *program, char *text, size_t size);

#endif
