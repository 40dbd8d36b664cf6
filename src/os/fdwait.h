/* poll(2) that works under every limit on descriptors. Runs in every process. */
#ifndef OS_FDWAIT_H
#define OS_FDWAIT_H

#include <poll.h>
#include <signal.h>
#include <time.h>

/* As poll(2): how many entries have revents, 0 when the time ran out, -1 with errno. An
 * entry with a negative fd is passed over. Linux refuses more entries than RLIMIT_NOFILE
 * (EINVAL), the passed over ones included; pselect(2), which does not, answers then: it
 * tells a hang-up where an end of file can be read, and an error as what was asked for.
 */
int fdwait(struct pollfd *p, int n, int timeout_ms);
/* As ppoll(2). timeout NULL: for ever; mask NULL: as it is. */
int fdwait_masked(struct pollfd *p, int n, const struct timespec *timeout,
                  const sigset_t *mask);

#endif
