/* SIGTERM that does not end the process at once: it is noted, and whoever waits returns.
 * The second one ends it. For clones whose function has asked for that; runs there. Knows
 * no Lua. */
#ifndef OS_TERM_H
#define OS_TERM_H

#include <poll.h>
#include <sys/types.h>

/* From the next SIGTERM on: noted once, on the calling thread, then the default again.
 * note(), which may be NULL, runs in the signal's handler. 0 or -errno. */
int term_install(void (*note)(void));
void term_remove(void); /* the disposition of before, and nothing is noted */
/* Whether waits have to look: installed, or noted and not taken. */
int term_watched(void);
int term_noted(void);
void term_unblock(void);
int term_take(void); /* 1 once for each that was noted */

/* fdwait, but -1 with EINTR as soon as, or when already, it is noted: nothing is lost
 * between a look and the sleep. */
int term_wait(struct pollfd *p, int n, int timeout_ms);
/* Sleeps until a child of these (as waitpid's first argument) can be waited for, and
 * leaves it be. 0, or -1 with errno; EINTR as above. */
int term_wait_child(pid_t which);
/* accept4, ended by EINTR where it is noted meanwhile. For descriptions that block: who
 * polls first may find that another process was faster. */
int term_accept(int fd, int flags);
/* A descriptor, the library's, that is readable while it is noted; for loops of others.
 * Or -errno. */
int term_wake_fd(void);

#endif
