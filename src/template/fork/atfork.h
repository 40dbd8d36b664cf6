/* The fork handlers that libraries have registered (pthread_atfork), as far as they can
 * be seen: the program and libmoonfork-template stand before libc and take the
 * registrations (atfork.c); the Lua module comes too late for that, and has libc call
 * them (libc_fork.h). */
#ifndef TEMPLATE_FORK_ATFORK_H
#define TEMPLATE_FORK_ATFORK_H

/* In the order that pthread_atfork(3) tells: prepare the last first, the others the first
 * first. */
struct atfork_handlers {
  void (*prepare)(void), (*parent)(void), (*child)(void);
};

extern int atfork_are_seen;

/* Calls those of libraries. NULL where there are none, or none can be seen. */
extern void (*atfork_prepare)(void);
extern void (*atfork_parent)(void);
extern void (*atfork_child)(void);

#endif
