/* See json.h. */
#include "help/json.h"

#include <stddef.h>
#include <string.h>

static const char *value(const char *c);

static const char *blanks(const char *c) {
  return c ? c + strspn(c, " \t\r\n") : NULL;
}

static const char *text(const char *c) {
  if (!c || *c++ != '"')
    return NULL;
  for (; *c != '"'; c++) {
    if ((unsigned char)*c < ' ')
      return NULL;
    if (*c != '\\')
      continue;
    c++;
    if (*c == 'u' && strspn(c + 1, "0123456789abcdefABCDEF") >= 4)
      c += 4;
    else if (!*c || !strchr("\"\\/bfnrt", *c))
      return NULL;
  }
  return c + 1;
}

static const char *members(const char *c, char close) {
  c = blanks(c + 1);
  if (*c == close)
    return c + 1;
  for (;;) {
    if (close == '}') {
      c = blanks(text(c));
      if (!c || *c++ != ':')
        return NULL;
    }
    c = blanks(value(blanks(c)));
    if (!c || *c == close)
      return c ? c + 1 : NULL;
    if (*c != ',')
      return NULL;
    c = blanks(c + 1);
  }
}

static const char *value(const char *c) {
  size_t n;
  if (!c)
    return NULL;
  if (*c == '"')
    return text(c);
  if (*c == '[' || *c == '{')
    return members(c, *c == '[' ? ']' : '}');
  n = strspn(c, "-0123456789");
  return n ? c + n : NULL;
}

int json_is(const char *c) {
  c = blanks(value(blanks(c)));
  return c && !*c;
}
