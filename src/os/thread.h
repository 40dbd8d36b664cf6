/* A thread of the library's own in a program that did not ask for it. Runs in the parent.
 */
#ifndef OS_THREAD_H
#define OS_THREAD_H

#include <pthread.h>
#include <stddef.h>

/* Starts body(arg) on a stack of so many bytes, with all signals blocked: none of the
 * program's handlers runs there. 0 or -errno. */
int thread_start(pthread_t *ret, size_t stack_size, void *(*body)(void *), void *arg);

#endif
