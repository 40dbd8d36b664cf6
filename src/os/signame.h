/* The names of signals, without "SIG". Runs in every process. */
#ifndef OS_SIGNAME_H
#define OS_SIGNAME_H

#include <stddef.h>

struct signame {
  const char *name;
  int number;
};

/* The i-th that this system has; NULL behind the last. */
const struct signame *signame_at(size_t i);
/* The number of "TERM" or "SIGTERM"; -1: there is no such signal. */
int signame_number(const char *name);

#endif
