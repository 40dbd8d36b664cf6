/* The memory of another process, read aside. The kernel walks the whole of it for the
 * answer, which takes 10 ms for each GiB in small pages: too long for a loop. Runs in the
 * parent.
 *
 *   measure_start -> measure_fd is readable -> measure_end
 *              \---> measure_drop, at any time
 */
#ifndef OS_MEASURE_H
#define OS_MEASURE_H

#include "os/proc.h"

struct measure;

/* Has a thread call proc_memory(pid), all signals blocked, which ends with that. 0 or
 * -errno. */
int measure_start(pid_t pid, struct measure **ret);
/* Readable when the answer is there. Stays the measure's. */
int measure_fd(const struct measure *m);
/* Takes m, whose descriptor was readable; gives what proc_memory gave. */
int measure_end(struct measure *m, struct proc_memory *ret);
/* Takes m; nobody waits for it any more. Does not block. */
void measure_drop(struct measure *m);

#endif
