#include "template/fork/birth.h"

#include "template/fork/atfork.h"
#include "template/fork/libc_fork.h"
#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#ifdef __linux__
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

int atfork_are_seen;
void (*atfork_prepare)(void), (*atfork_parent)(void), (*atfork_child)(void);

#if defined(__linux__) && defined(__NR_clone) && !defined(__s390x__)

/* Where libc keeps the number of this thread, which the kernel writes for a new process:
 * what the kernel was told at the thread's start. Where no thread id stands there (musl
 * has a lock there) it is of no use. */
static int *told_tid(int own) {
  int *at = NULL;
#ifdef PR_GET_TID_ADDRESS
  if (prctl(PR_GET_TID_ADDRESS, &at) < 0)
    return NULL;
#endif
  return at && *at == own ? at : NULL;
}

/* Where the kernel does not tell (a sandbox without prctl): the only place in the
 * thread's descriptor where its number stands. */
static int *search_tid(int own) {
#ifdef __GLIBC__
  enum { HEAD = 1024 };
  int *descriptor = (int *)(uintptr_t)pthread_self(), *found = NULL;
  for (size_t i = 0; i < HEAD / sizeof *descriptor; i++) {
    if (descriptor[i] != own)
      continue;
    if (found)
      return NULL;
    found = &descriptor[i];
  }
  return found;
#else
  return NULL;
#endif
}

static int *find_tid(void) {
  int own = (int)syscall(SYS_gettid), *at = told_tid(own);
  return at ? at : search_tid(own);
}

/* As the kernel wants the arguments: most machines have the last two the other way round
 * than x86-64. */
static long call_clone(unsigned long flags, volatile uint32_t *parent_tid,
                       int *child_tid) {
#ifdef __x86_64__
  return syscall(SYS_clone, flags, NULL, parent_tid, child_tid, 0L);
#else
  return syscall(SYS_clone, flags, NULL, parent_tid, 0L, child_tid);
#endif
}

/* Where the handlers of libraries are called from here. */
static pid_t clone_sibling(volatile uint32_t *pid) {
  static int *tid;
  static void *robust_list;
  static size_t robust_size;
  if (!tid) {
    tid = find_tid();
    if (!tid || syscall(SYS_get_robust_list, 0, &robust_list, &robust_size) < 0) {
      tid = NULL;
      errno = ENOSYS;
      return -1;
    }
  }
  if (atfork_prepare)
    atfork_prepare();
  long r = call_clone(CLONE_PARENT | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID |
                          CLONE_CHILD_CLEARTID | SIGCHLD,
                      pid, tid);
  if (r == 0) {
    syscall(SYS_set_robust_list, robust_list, robust_size);
    if (atfork_child)
      atfork_child();
    return 0;
  }
  int error = r < 0 ? errno : 0;
  if (atfork_parent)
    atfork_parent();
  if (r < 0) /* else the page with errno would be copied at each birth */
    errno = error;
  return (pid_t)r;
}

pid_t birth_sibling(volatile uint32_t *pid) {
  static int libc_cant;
  if (!atfork_are_seen && !libc_cant) {
    pid_t r = libc_fork_sibling(pid);
    if (r >= 0 || errno != ENOSYS)
      return r;
    libc_cant = 1;
  }
  return clone_sibling(pid);
}

#else

pid_t birth_sibling(volatile uint32_t *pid) {
  (void)pid;
  errno = ENOSYS;
  return -1;
}

#endif
