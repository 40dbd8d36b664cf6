/* Appends to a fixed room without printf: for signal handlers, where printf is not
 * allowed, and for clones, where it would be a dozen pages that are not touched
 * otherwise. What does not fit is cut off. Each gives the new end. Runs in every process.
 */
#ifndef BASE_APPEND_H
#define BASE_APPEND_H

#include <stdint.h>
#include <string.h>

static inline char *append_text(char *at, char *end, const char *text) {
  size_t n = strlen(text);
  if (n > (size_t)(end - at))
    n = (size_t)(end - at);
  memcpy(at, text, n);
  return at + n;
}

static inline char *append_number(char *at, char *end, uint64_t number) {
  char digits[21], *first = digits + sizeof digits - 1;
  *first = 0;
  do
    *--first = (char)('0' + number % 10);
  while ((number /= 10) > 0);
  return append_text(at, end, first);
}

#endif
