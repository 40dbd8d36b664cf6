/* A handler of ours for a signal that others may handle, too: C modules of a program. Ours
 * is installed in front of theirs, and passes on what is not for us. Runs in templates
 * and in programs with pseudo-processes. */
#ifndef OS_SIGCHAIN_H
#define OS_SIGCHAIN_H

#include <signal.h>

struct sigchain {
  int signum;
  void (*handler)(int signum, siginfo_t *info, void *context); /* ours */
  struct sigaction next; /* whom it stands in front of; SIG_DFL: nobody */
};

/* Ours is the first from now on, whoever has come meanwhile. It interrupts system calls.
 * One thread at a time. 0 or -errno. */
int sigchain_install(struct sigchain *c);
/* In our handler: the next one's turn. */
void sigchain_pass(const struct sigchain *c, siginfo_t *info, void *context);
/* Is that ours, in front of nobody? */
int sigchain_is_alone(const struct sigchain *c, const struct sigaction *action);

#endif
