/* The system call that makes a clone, and what libc's fork() does around it. Runs in
 * templates.
 *
 * A clone is to be a child of the template's parent (CLONE_PARENT), which then has its
 * pid, status and resource use from the kernel, whatever becomes of the template. libc
 * has no function for that; so the call is made directly, and this file does the rest of
 * fork(): fork handlers (atfork.h), the thread id in the thread's descriptor, the robust
 * list. */
#ifndef TEMPLATE_FORK_BIRTH_H
#define TEMPLATE_FORK_BIRTH_H

#include <stdint.h>
#include <sys/types.h>

/* As fork(), but the new process is a sibling; its pid is at *pid before it runs. -1 with
 * errno ENOSYS, EINVAL or EPERM where that can't be: process 1 of a pid namespace, a
 * sandbox, a libc that is not understood. */
pid_t birth_sibling(volatile uint32_t *pid);

#endif
