/* Who starts template programs. A process hangs on the thread that has started it: at
 * that thread's end, not its process's, the kernel sends the signal of the leash
 * (PR_SET_PDEATHSIG), also to what the process forks. So that is the main thread, or else
 * one of the library's own, which lives as long as the process. A thread with descriptors
 * of its own (a clone in a thread, a pseudo-process) is a parent like the main thread.
 * Runs in the parent, on any thread. */
#ifndef PARENT_LOOP_SPAWNER_H
#define PARENT_LOOP_SPAWNER_H

#include "os/proc.h"

/* 1: what is started next by this thread, by spawner_start or by fork, can be on that
 * leash; 0: the thread that starts it may end before the process. forks: by fork. */
int spawner_lasts(int forks);
/* As proc_spawn. */
int spawner_start(const struct proc_spawn *s, pid_t *ret_pid);

#endif
