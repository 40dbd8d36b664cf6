#include "base/origin.h"

#include <stdlib.h>
#include <string.h>

static _Thread_local const char *marked;

int origin_mark(const char *origin, int code) {
  marked = origin;
  return code;
}

const char *origin_of_code(const char *here) {
  const char *there = marked;
  marked = NULL;
  return there ? there : here;
}

const char *origin_name(const char *origin) {
  const char *slash = strrchr(origin, '/');
  return slash ? slash + 1 : origin;
}

int origin_is_shown(void) {
  const char *env = getenv("MOONFORK_DEBUG");
  return env && strstr(env, "origin") != NULL;
}
