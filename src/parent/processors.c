/* How many processors there are for us: those of the affinity mask, and no more than the
 * control group's quota is worth. Runs in the parent. */
#include "parent/pool.h"

#include <stdio.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

static unsigned allowed(void) {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
    return (unsigned)CPU_COUNT(&set);
#endif
  long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n > 0 ? (unsigned)n : 1;
}

/* Processors that the quota of the (only visible) control group is worth; 0: no quota. */
static unsigned quota(void) {
  unsigned long long used = 0, period = 0;
  FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
  if (!f)
    return 0;
  if (fscanf(f, "%llu %llu", &used, &period) != 2 || !period)
    used = 0;
  fclose(f);
  return used ? (unsigned)((used + period - 1) / period) : 0;
}

unsigned pool_processors(void) {
  unsigned n = allowed(), q = quota();
  return q && q < n ? q : n;
}
