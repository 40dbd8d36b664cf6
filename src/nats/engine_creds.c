/* A file of credentials: a token and a seed, each after a line of dashes and before
 * another, as nsc writes them. libnats reads it when the server asks, and what is wrong
 * with it then looks like a failure of the connection. Runs in the parent, in the thread
 * of an attempt. */
#include "nats/engine_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CREDS_MAX = 65536 };

/* It has a secret: the memory is cleared before it is given back. */
static void wipe(char *text, size_t n) {
  volatile char *p = text;
  while (n-- > 0)
    *p++ = '\0';
  free(text);
}

/* The lines between lines of dashes: the n-th of them, from 0 on; NULL: there are fewer.
 * It is cut out of the text. */
static char *nth_block(char *text, int n) {
  int is_inside = 0;
  char *rest = text;
  for (char *line; (line = strsep(&rest, "\n"));) {
    line[strcspn(line, "\r")] = '\0';
    if (strncmp(line, "---", 3) == 0)
      is_inside = !is_inside;
    else if (is_inside && *line && n-- == 0)
      return line;
  }
  return NULL;
}

static const char *fault_of(char *text) {
  unsigned char *signature = NULL;
  int length = 0;
  char *seed = nth_block(text, 1);
  if (!seed)
    return "no token and seed, as nsc writes them";
  natsStatus s = nats_Sign(seed, "nonce", &signature, &length);
  free(signature);
  return s == NATS_OK ? NULL : "a seed that is not valid";
}

int engine_creds_check(const char *path, char *ret_fault, size_t size) {
  char *text = malloc(CREDS_MAX + 1);
  FILE *file = text ? fopen(path, "re") : NULL;
  if (!file) {
    snprintf(ret_fault, size, "the credentials can't be read (%s): %s",
             text ? strerror(errno) : "not enough memory", path);
    free(text);
    return -1;
  }
  size_t n = fread(text, 1, CREDS_MAX, file);
  fclose(file);
  text[n] = '\0';
  const char *fault = fault_of(text);
  if (fault)
    snprintf(ret_fault, size, "the credentials can't be used (%s): %s", fault, path);
  wipe(text, CREDS_MAX + 1);
  return fault ? -1 : 0;
}
