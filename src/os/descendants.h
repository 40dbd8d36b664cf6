/* What this process's children have started, and their children, at any depth. Runs in
 * processes that start a command of somebody's (the near end). descendants_linux.c or
 * descendants_none.c. */
#ifndef OS_DESCENDANTS_H
#define OS_DESCENDANTS_H

#include <stddef.h>
#include <sys/types.h>

/* On: a descendant whose parent ends is this process's child from then on, to be reaped
 * here, and not process 1's (PR_SET_CHILD_SUBREAPER, prctl(2)). */
void descendants_adopt(int on);
/* The signal (0: none) to all descendants in this process's own process group: who has
 * left that wants to stay, as a daemon does. keeps: whether a process, and all that it
 * has started, are left alone; also later, when it has ended itself, and with it process 1
 * of a pid namespace that has one of them, which would end them all. Who was found once
 * gets each further signal, whatever parent it has by then. How many there are that could
 * be signalled, or are left for such a namespace's sake; 0 where there is no way to find
 * them. A parent is signalled before its children. */
size_t descendants_signal(int signum, int (*keeps)(pid_t pid));

#endif
