/* What the kernel offers, asked by trying it: for people who want to know
 * (moonfork.doctor). Nothing else depends on it; who needs something tries it then
 * (doc/decisions/005-fallbacks.md). Runs in every process. */
#ifndef OS_FEATURE_H
#define OS_FEATURE_H

#include <stddef.h>

struct feature {
  const char *name;
  int (*has)(void); /* 0 or 1 */
};
/* The i-th; NULL behind the last. */
const struct feature *feature_at(size_t i);

#endif
