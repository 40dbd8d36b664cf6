/* Connections of one process to a listening socket that it has made itself and given
 * away: so a socket goes to another process without being in a message. Linux alone, as
 * far as it is not forbidden. Whoever knows the name can listen or connect there, once it
 * is free or while it is not: both sides look who the other one is. No two of a process have
 * the same name, also one after the other: of its own ones it can't take one for another.
 * Every process. */
#ifndef OS_OWN_LISTENER_H
#define OS_OWN_LISTENER_H

#include <sys/types.h>

struct own_listener { /* what its maker keeps of it */
  char name[40];      /* an abstract one */
  unsigned n;
  pid_t pid; /* the maker, as the kernel tells it */
};

/* *ret_fd: the listening socket, close-on-exec, non-blocking, above 2. 0 or -errno. -EPERM,
 * here and below: a filter of system calls is installed. */
int own_listener_make(struct own_listener *ret, int *ret_fd);
/* By its maker: a connected socket, close-on-exec, non-blocking, above 2; or -errno. -EAGAIN:
 * no room now. */
int own_listener_connect(const struct own_listener *l);
/* Who made a listening socket; 0: not known, or another user, or this system can't tell. */
pid_t own_listener_maker(int fd);
/* By whoever has it: *ret_fd is the next connection of that maker's, close-on-exec, above 2,
 * and blocking; others are closed. -errno: none was taken; -EAGAIN: there is none. 0 with
 * -errno in *ret_fd: one was taken, and could not be kept. */
int own_listener_accept(int fd, pid_t maker, int *ret_fd);

#endif
