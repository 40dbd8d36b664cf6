/* How many processors this process may keep busy: those of its affinity mask, and no more
 * than the processor quota of its control groups is worth (cgroup v1 and v2). Runs in any
 * process. */
#ifndef OS_CPUS_H
#define OS_CPUS_H

/* At least 1. Reads a few small files, so ask once. */
unsigned cpus_usable(void);

/* The part below, for tests: `allowed` limited by the quotas of the control groups that
 * the file `membership` lists (the form of /proc/self/cgroup), whose files lie below
 * `root` (/sys/fs/cgroup). */
unsigned cpus_limit(unsigned allowed, const char *membership, const char *root);

#endif
