/* Public structs that begin with their size_t size, so that a program compiled against a
 * shorter version of one keeps working: only what it has is read or written. Runs in
 * every process. */
#ifndef BASE_SIZED_H
#define BASE_SIZED_H

#include <errno.h>
#include <stddef.h>
#include <string.h>

/* The caller's struct, of whatever version, into *to, a full one of `full` bytes with
 * initial values: fields that the caller's lacks keep them. 0, or -EINVAL where size was
 * never set. */
static inline int sized_load(void *to, size_t full, const void *from) {
  size_t size;
  memcpy(&size, from, sizeof size);
  if (size < sizeof size)
    return -EINVAL;
  memcpy(to, from, size < full ? size : full);
  memcpy(to, &full, sizeof full);
  return 0;
}

/* The full struct at from into the caller's, which says by its size how much it takes;
 * the size stays. 0 or -EINVAL. */
static inline int sized_store(void *to, const void *from, size_t full) {
  size_t size;
  memcpy(&size, to, sizeof size);
  if (size < sizeof size)
    return -EINVAL;
  memcpy(to, from, size < full ? size : full);
  memcpy(to, &size, sizeof size);
  return 0;
}

#endif
