#include "base/number.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { DIGITS_FIRST = 14, DIGITS_MAX = 17 }; /* 17 always suffice for a double */

static int belongs(char c) {
  return isdigit((unsigned char)c) || c == '-' || c == '+' || c == 'e';
}

/* What is neither digit, sign nor exponent is the locale's decimal point, of any length.
 */
static size_t set_point(const char *from, char *to) {
  size_t n = 0;
  int in_point = 0;
  for (; *from; from++) {
    if (belongs(*from))
      to[n++] = *from;
    else if (!in_point)
      to[n++] = '.';
    in_point = !belongs(*from);
  }
  to[n] = '\0';
  return n;
}

size_t number_text(double x, char ret_text[NUMBER_TEXT_MAX]) {
  char text[NUMBER_TEXT_MAX + 16];
  if (!isfinite(x))
    return (size_t)snprintf(ret_text, NUMBER_TEXT_MAX, "%g", x);
  for (int digits = DIGITS_FIRST; digits <= DIGITS_MAX; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, x);
    double back = strtod(text, NULL); /* in the locale that wrote it */
    if (!(back < x) && !(back > x))
      break;
  }
  return set_point(text, ret_text);
}
