/* What tests of the heap ask of it and of their process. */
#include "heap_kit.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

struct heap *heap_make(void **state) {
  struct heap *h = heap_new(0);
  assert_non_null(h);
  (void)state;
  return h;
}

struct heap_stats stats_of(const struct heap *h) {
  struct heap_stats stats;
  heap_stats(h, &stats);
  return stats;
}

size_t private_bytes(void) {
  FILE *f = fopen("/proc/self/smaps_rollup", "re");
  char line[256];
  long kib = 0, n;
  if (!f)
    return 0;
  while (fgets(line, sizeof line, f))
    if (sscanf(line, "Private_Dirty: %ld", &n) == 1)
      kib = n;
  fclose(f);
  return (size_t)kib * 1024;
}

int in_child(int (*f)(struct heap *h, void *data), struct heap *h, void *data) {
  fflush(NULL);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0)
    _exit(f(h, data) ? 0 : 1);
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
