/* Where the installed template program lies. Runs in the parent. */
#ifndef PARENT_COMMON_PROGRAM_H
#define PARENT_COMMON_PROGRAM_H

#include <stddef.h>

enum { PROGRAM_PATH_MAX = 4096 };
/* The program of an exec without the option: MOONFORK_TEMPLATE, else the installed one.
 */
const char *program_default(char *room);
/* The same of moonfork-remote, the near end of links; the environment variable
 * MOONFORK_REMOTE names another. */
const char *program_remote(char *room);
/* What this code is in: the path of libmoonfork or of the Lua module, as it was loaded,
 * or "this program". */
const char *program_own(void);

#endif
