/* See stdin.h. ISO C has no way to drop input that was read ahead. */
#include "os/stdin.h"

#include <stdio.h>
#ifdef __linux__
#include <stdio_ext.h>
#define fpurge __fpurge
#endif

void stdin_reset(void) {
  fpurge(stdin);
  clearerr(stdin);
}
