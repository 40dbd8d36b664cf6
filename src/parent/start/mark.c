#include "parent/start/mark.h"

#include "os/fd.h"
#include "os/sock.h"
#include "wire/proto.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The value is "DEPTH,PID": how many programs with a mark have started one another, and
 * who started this one. The number of the starter tells a program that was meant from one
 * that merely inherited the environment, from a shell in between for one; the depth ends
 * the row where every program has such a shell. */
enum { DEPTH_MAX = 8, VALUE_MAX = 48 };

struct mark {
  unsigned depth;
  int starter;
};

static struct mark read_mark(void) {
  struct mark m = {0, 0};
  const char *value = getenv(PROTO_MARK_ENV);
  if (value && sscanf(value, "%u,%d", &m.depth, &m.starter) != 2)
    m = (struct mark){0, 0};
  return m;
}

static int is_mark(const char *entry) {
  size_t n = sizeof PROTO_MARK_ENV - 1;
  return strncmp(entry, PROTO_MARK_ENV, n) == 0 && entry[n] == '=';
}

/* The array, and behind it the text of the mark. */
char **mark_environment(void) {
  extern char **environ;
  size_t n = 0, at = 0;
  while (environ && environ[n])
    n++;
  char **e = malloc((n + 2) * sizeof *e + sizeof PROTO_MARK_ENV + VALUE_MAX);
  if (!e)
    return NULL;
  for (size_t i = 0; i < n; i++)
    if (!is_mark(environ[i]))
      e[at++] = environ[i];
  char *text = (char *)(e + n + 2);
  snprintf(text, sizeof PROTO_MARK_ENV + VALUE_MAX, PROTO_MARK_ENV "=%u,%d",
           read_mark().depth + 1, (int)getpid());
  e[at++] = text;
  e[at] = NULL;
  return e;
}

void mark_free(char **environment) {
  free(environment);
}

/* Ours is a nameless socket that is inherited by exec; whatever else has the number is
 * not. */
static void close_control(void) {
  static int done;
  int fd = PROTO_BOOT_CONTROL_FD, flags = fcntl(fd, F_GETFD);
  if (!done++ && flags >= 0 && !(flags & FD_CLOEXEC) && sock_is_nameless(fd))
    fd_close(&fd);
}

int mark_is_left(void) {
  struct mark m = read_mark();
  if (!m.depth || (m.starter != (int)getppid() && m.depth < DEPTH_MAX))
    return 0;
  close_control();
  return 1;
}
