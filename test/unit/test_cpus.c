/* The number of usable processors by affinity and control groups, over folders of files
 * that look like the kernel's. It was counted in three places that did not agree: only
 * one of them knew cgroup v1, and only one nested groups. */
#include "unit/unit.h"

#include "os/cpus.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct file {
  const char *path, *text;
};

static char top[] = "/tmp/moonfork-cpus.XXXXXX";

static void put(const char *path, const char *text) {
  char full[512];
  snprintf(full, sizeof full, "%s/%s", top, path);
  for (char *slash = full + strlen(top) + 1; (slash = strchr(slash, '/')); slash++) {
    *slash = '\0';
    mkdir(full, 0700);
    *slash = '/';
  }
  FILE *f = fopen(full, "we");
  assert_non_null(f);
  fputs(text, f);
  fclose(f);
}

/* What of 64 processors is left. */
static unsigned limit(const struct file *files, size_t n) {
  char membership[64], root[64], command[128];
  strcpy(top, "/tmp/moonfork-cpus.XXXXXX");
  assert_non_null(mkdtemp(top));
  for (size_t i = 0; i < n; i++)
    put(files[i].path, files[i].text);
  snprintf(membership, sizeof membership, "%s/membership", top);
  snprintf(root, sizeof root, "%s/cgroup", top);
  unsigned cpus = cpus_limit(64, membership, root);
  snprintf(command, sizeof command, "rm -r '%s'", top);
  assert_int_equal(system(command), 0);
  return cpus;
}

#define LIMIT(...)                                                                       \
  limit((const struct file[]){__VA_ARGS__}, COUNT(((const struct file[]){__VA_ARGS__})))

static void test_cpus_v2_takes_its_own_group(void **state) {
  assert_int_equal(
      LIMIT({"membership", "0::/a/b\n"}, {"cgroup/a/b/cpu.max", "250000 100000\n"}), 3);
}

static void test_cpus_v2_takes_the_tightest_group_around(void **state) {
  assert_int_equal(LIMIT({"membership", "0::/a/b\n"},
                         {"cgroup/a/b/cpu.max", "max 100000\n"},
                         {"cgroup/a/cpu.max", "200000 100000\n"}),
                   2);
  assert_int_equal(LIMIT({"membership", "0::/a\n"},
                         {"cgroup/a/cpu.max", "800000 100000\n"},
                         {"cgroup/cpu.max", "500000 100000\n"}),
                   5);
}

static void test_cpus_v2_in_a_container_is_the_root(void **state) {
  assert_int_equal(LIMIT({"membership", "0::/\n"}, {"cgroup/cpu.max", "50000 100000\n"}),
                   1);
  assert_int_equal(
      LIMIT({"membership", "0::/../../other\n"}, {"cgroup/cpu.max", "400000 100000\n"}),
      4);
  assert_int_equal(
      LIMIT({"membership", "0::/not/mounted\n"}, {"cgroup/cpu.max", "400000 100000\n"}),
      4);
}

static void test_cpus_v1_takes_the_tightest_group(void **state) {
  assert_int_equal(
      LIMIT({"membership", "5:memory:/m\n4:cpu,cpuacct:/a/b\n1:name=systemd:/\n"},
            {"cgroup/cpu/a/b/cpu.cfs_quota_us", "-1\n"},
            {"cgroup/cpu/a/b/cpu.cfs_period_us", "100000\n"},
            {"cgroup/cpu/a/cpu.cfs_quota_us", "150000\n"},
            {"cgroup/cpu/a/cpu.cfs_period_us", "50000\n"}),
      3);
  assert_int_equal(LIMIT({"membership", "4:cpuacct,cpu:/docker/1234\n"},
                         {"cgroup/cpu/cpu.cfs_quota_us", "200000\n"},
                         {"cgroup/cpu/cpu.cfs_period_us", "100000\n"}),
                   2);
}

static void test_cpus_looks_at_both_kinds(void **state) {
  assert_int_equal(LIMIT({"membership", "4:cpu,cpuacct:/a\n0::/a\n"},
                         {"cgroup/cpu/a/cpu.cfs_quota_us", "700000\n"},
                         {"cgroup/cpu/a/cpu.cfs_period_us", "100000\n"}),
                   7);
}

static void test_cpus_without_a_quota_are_those_allowed(void **state) {
  assert_int_equal(LIMIT({"elsewhere", ""}), 64);
  assert_int_equal(LIMIT({"membership", "0::/a\n"}, {"cgroup/a/cpu.max", "max 100000\n"}),
                   64);
  assert_int_equal(LIMIT({"membership", "3:cpuset:/a\n2:cpuacct:/a\n"},
                         {"cgroup/cpu/a/cpu.cfs_quota_us", "100000\n"},
                         {"cgroup/cpu/a/cpu.cfs_period_us", "100000\n"}),
                   64);
  assert_int_equal(
      LIMIT({"membership", "0::/\n"}, {"cgroup/cpu.max", "9900000 100000\n"}), 64);
}

static void test_cpus_malformed_files_are_no_quota(void **state) {
  const char *texts[] = {
      "", "max", "100000", "-5 100000", "100000 0", "x y", "99999999999999999999 1"};
  for (size_t i = 0; i < COUNT(texts); i++)
    assert_int_equal(LIMIT({"membership", "0::/\n"}, {"cgroup/cpu.max", texts[i]}), 64);
  const char *lines[] = {"", ":", "::", "0", "0:", "4:cpu", "\n\n"};
  for (size_t i = 0; i < COUNT(lines); i++)
    assert_int_equal(LIMIT({"membership", lines[i]}, {"cgroup/cpu.max", "100000 100000"}),
                     64);
}

static void test_cpus_usable_follows_the_affinity(void **state) {
  assert_true(cpus_usable() >= 1);
#ifdef __linux__
  pid_t pid = fork();
  if (pid == 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(sched_getcpu(), &set);
    _exit(sched_setaffinity(0, sizeof set, &set) == 0 && cpus_usable() == 1 ? 0 : 1);
  }
  int status = -1;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
#endif
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_cpus_v2_takes_its_own_group),
      census_test(test_cpus_v2_takes_the_tightest_group_around),
      census_test(test_cpus_v2_in_a_container_is_the_root),
      census_test(test_cpus_v1_takes_the_tightest_group),
      census_test(test_cpus_looks_at_both_kinds),
      census_test(test_cpus_without_a_quota_are_those_allowed),
      census_test(test_cpus_malformed_files_are_no_quota),
      census_test(test_cpus_usable_follows_the_affinity),
  };
  return cmocka_run_group_tests_name("cpus", tests, NULL, NULL);
}
