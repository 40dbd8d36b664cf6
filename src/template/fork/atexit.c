/* Counts the exit handlers that libraries register (atexit(3), destructors of C++), for
 * the audit: clones leave without running them. Linked as atfork.c is; the registration
 * goes on to libc. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "template/audit/audit_mark.h"

#include <dlfcn.h>
#include <stddef.h>

typedef int registration(void (*handler)(void *), void *argument, void *dso);
__attribute__((visibility("default"))) registration __cxa_atexit;

int __cxa_atexit(void (*handler)(void *), void *argument, void *dso) {
  static registration *next;
  if (!next)
    *(void **)&next = dlsym(RTLD_NEXT, "__cxa_atexit");
  if (!next)
    return -1;
  audit_exit_handlers++;
  return next(handler, argument, dso);
}
