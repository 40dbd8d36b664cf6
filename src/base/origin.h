/* Where in the code an error was made, for whoever looks for that: "death.c:65". Known in
 * debug builds only. Runs in every process. */
#ifndef BASE_ORIGIN_H
#define BASE_ORIGIN_H

#include <stddef.h>

/* This place, with the path that the compiler was given; else NULL. */
#ifdef MOONFORK_DEBUG
#define ORIGIN_TEXT(n) #n
#define ORIGIN_OF(file, line) file ":" ORIGIN_TEXT(line)
#define ORIGIN ORIGIN_OF(__FILE__, __LINE__)
/* Gives code, a negated errno that was decided here, to be passed on. */
#define ORIGINAL(code) origin_mark(ORIGIN, code)
#else
#define ORIGIN NULL
#define ORIGINAL(code) (code)
#endif

int origin_mark(const char *origin, int code);
/* Where the latest code of this thread was decided, once; else that place. */
const char *origin_of_code(const char *here);
/* Without the path: names of files are unique. */
const char *origin_name(const char *origin);
/* Whether messages are to end with it: MOONFORK_DEBUG=origin in the environment. */
int origin_is_shown(void);

#endif
