/* The kernel takes the leash (leash.h) from a process that changes its credentials: set
 * once more. Definitions in the program come before libc's. Linked as atfork.c is. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "template/server/server.h"

#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <sys/types.h>
#include <unistd.h>

static int changed(int r) {
  struct server *s = server_self();
  int error = errno;
  if (r == 0 && s && s->pid == getpid())
    leash_again(&s->leash);
  errno = error;
  return r;
}

#define CHANGES(name, parameters, arguments)                                             \
  __attribute__((visibility("default"))) int name parameters {                           \
    static int(*next) parameters;                                                        \
    if (!next)                                                                           \
      *(void **)&next = dlsym(RTLD_NEXT, #name);                                         \
    return changed(next arguments);                                                      \
  }

CHANGES(setuid, (uid_t id), (id))
CHANGES(seteuid, (uid_t id), (id))
CHANGES(setreuid, (uid_t real, uid_t effective), (real, effective))
CHANGES(setresuid, (uid_t real, uid_t effective, uid_t saved), (real, effective, saved))
CHANGES(setgid, (gid_t id), (id))
CHANGES(setegid, (gid_t id), (id))
CHANGES(setregid, (gid_t real, gid_t effective), (real, effective))
CHANGES(setresgid, (gid_t real, gid_t effective, gid_t saved), (real, effective, saved))
