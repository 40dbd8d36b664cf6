/* libc's own fork(), with the system call that birth.c makes: for the Lua module, which
 * comes too late to see the fork handlers of libraries (atfork.h). libc knows them all,
 * but runs them nowhere else. Runs in templates that are copies of a program.
 *
 *   libc's fork(): prepare handlers -> clone(2) -> parent handlers | child handlers
 *                                       |  ^
 *                               SIGSYS  v  |  its result
 *                              on_call: clone(2) as a sibling
 *
 * Meanwhile the kernel hands system calls of this thread to a handler of ours (syscall
 * user dispatch, Linux 5.11). It makes each call as it is, but clone(2) with the flags
 * of a sibling; from then on calls go their usual way. A new process has no dispatch. */
#ifndef TEMPLATE_FORK_LIBC_FORK_H
#define TEMPLATE_FORK_LIBC_FORK_H

#include <stdint.h>
#include <sys/types.h>

/* As birth_sibling. -1 with errno ENOSYS where the kernel can't do that, or no clone was
 * tried. */
pid_t libc_fork_sibling(volatile uint32_t *pid);

#endif
