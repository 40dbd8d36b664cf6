/* Where the owner's connections come that are the sockets of its forks (CMD_LISTEN). It
 * counts them, and the FORKs name them by number: one whose FORK never came is skipped.
 * Runs in templates; clones close it. */
#ifndef TEMPLATE_SERVER_ACCEPTING_H
#define TEMPLATE_SERVER_ACCEPTING_H

#include <stdint.h>
#include <sys/types.h>

struct accepting { /* all zero: there is none */
  int fd;
  pid_t maker;
  uint32_t ntaken;
  int known, usable; /* known: since something was executed that may change it */
};

/* fd: taken. */
void accepting_set(struct accepting *l, int fd);
void accepting_close(struct accepting *l);
/* Something was executed that is no fork: the owner asks before it connects again. So it
 * is closed where descriptors are scarce, or there is a filter of system calls. */
void accepting_doubt(struct accepting *l);
/* Whether the owner may use it: not where a filter of system calls may kill for them. */
int accepting_is_usable(struct accepting *l);
/* The socket, or -errno. -EPROTO: it can't be that number. */
int accepting_take(struct accepting *l, uint32_t number);

#endif
