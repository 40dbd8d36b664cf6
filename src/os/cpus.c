/* See cpus.h.
 *
 * A control group is limited by its own quota and by those of all groups around it; the
 * tightest counts. Where the group's path is not below what is mounted (a container that
 * sees its own group as the root), the files of the root are the ones to read, and
 * walking up from any path ends there. A line of the membership file:
 *
 *   v2   0::/PATH                    ROOT/PATH/cpu.max: "QUOTA PERIOD" or "max PERIOD"
 *   v1   N:cpu,cpuacct:/PATH         ROOT/cpu/PATH/cpu.cfs_quota_us (-1: none) and
 *                                    ROOT/cpu/PATH/cpu.cfs_period_us
 *
 * A system may have both kinds at once. */
#include "os/cpus.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

static unsigned cpus_allowed(void) {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
    return (unsigned)CPU_COUNT(&set);
#endif
  long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n > 0 ? (unsigned)n : 1;
}

/* The numbers at the start of a file, up to two. Returns how many there are. */
static int read_numbers(const char *folder, const char *name, long long ret[2]) {
  char path[PATH_MAX];
  if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
    return 0;
  FILE *f = fopen(path, "re");
  if (!f)
    return 0;
  int n = fscanf(f, "%lld %lld", &ret[0], &ret[1]);
  fclose(f);
  return n > 0 ? n : 0;
}

/* Whole processors that a quota is worth, rounded up; 0: no quota. */
static unsigned worth(long long quota, long long period) {
  if (quota <= 0 || period <= 0)
    return 0;
  long long n = quota / period + (quota % period != 0);
  return n < UINT_MAX ? (unsigned)n : 0;
}

static unsigned quota_v2(const char *folder) {
  long long max[2];
  return read_numbers(folder, "cpu.max", max) == 2 ? worth(max[0], max[1]) : 0;
}

static unsigned quota_v1(const char *folder) {
  long long quota[2], period[2];
  if (read_numbers(folder, "cpu.cfs_quota_us", quota) < 1 ||
      read_numbers(folder, "cpu.cfs_period_us", period) < 1)
    return 0;
  return worth(quota[0], period[0]);
}

/* The tightest quota of the group at `path` below `mount` and of those around it. */
static unsigned tightest(const char *mount, const char *path,
                         unsigned (*quota)(const char *folder)) {
  char folder[PATH_MAX];
  unsigned least = 0;
  size_t start = strlen(mount);
  if (strstr(path, "/..")) /* outside of the namespace: nothing of it is mounted */
    path = "";
  if (snprintf(folder, sizeof folder, "%s%s", mount, path) >= (int)sizeof folder)
    return 0;
  for (char *end = folder + strlen(folder); end; end = strrchr(folder + start, '/')) {
    *end = '\0';
    unsigned n = quota(folder);
    if (n && (!least || n < least))
      least = n;
  }
  return least;
}

/* Is the controller in "cpu,cpuacct"? */
static int has_controller(const char *list, const char *name) {
  size_t n = strlen(name);
  for (; *list; list += strcspn(list, ","), list += *list == ',')
    if (strcspn(list, ",") == n && memcmp(list, name, n) == 0)
      return 1;
  return 0;
}

static unsigned quota_of_line(char *line, const char *root) {
  char mount[PATH_MAX], *list = strchr(line, ':');
  char *path = list ? strchr(list + 1, ':') : NULL;
  line[strcspn(line, "\n")] = '\0';
  if (!path)
    return 0;
  *list++ = *path++ = '\0';
  if (strcmp(line, "0") == 0 && *list == '\0')
    return tightest(root, path, quota_v2);
  if (!has_controller(list, "cpu") ||
      snprintf(mount, sizeof mount, "%s/cpu", root) >= (int)sizeof mount)
    return 0;
  return tightest(mount, path, quota_v1);
}

unsigned cpus_limit(unsigned allowed, const char *membership, const char *root) {
  char line[PATH_MAX + 64];
  FILE *f = fopen(membership, "re");
  if (!f)
    return allowed;
  while (fgets(line, sizeof line, f)) {
    unsigned n = quota_of_line(line, root);
    if (n && n < allowed)
      allowed = n;
  }
  fclose(f);
  return allowed;
}

unsigned cpus_usable(void) {
  return cpus_limit(cpus_allowed(), "/proc/self/cgroup", "/sys/fs/cgroup");
}
