/* ORIGIN: this place in the code, "death.c:65", for whoever looks for where an error was
 * made. NULL but in debug builds. */
#ifndef BASE_ORIGIN_H
#define BASE_ORIGIN_H

#include <stddef.h>

#ifdef MOONFORK_DEBUG
#define ORIGIN_TEXT(n) #n
#define ORIGIN_OF(file, line) file ":" ORIGIN_TEXT(line)
#define ORIGIN ORIGIN_OF(__FILE__, __LINE__)
#else
#define ORIGIN NULL
#endif

#endif
