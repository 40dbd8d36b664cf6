/* How fork's cost grows with memory that the child shares, by the kind of its mapping. No
 * Lua and no library: the kernel alone.
 *
 *   sharing_bench MIB
 *
 * anonymous, small pages; anonymous, huge pages (the heap while it is built); a file in
 * memory (memfd) mapped private and unwritten, whose page tables fork need not copy, in
 * small and in huge pages (the heap when it is frozen, see
 * src/template/heap/memfd_map.h). For each: fork + exit + wait of a child that touches
 * none, 64 or 1,024 places of it, reading or writing, spread evenly. Best and median of
 * 41, in turns. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

enum kind { SMALL, HUGE, FILE_SMALL, FILE_HUGE, NKINDS };
static const char *const names[NKINDS] = {
    "anonymous, small pages", "anonymous, huge pages", "private memfd, small pages",
    "private memfd, huge pages"};
enum { ROUNDS = 41, HUGE_PAGE = 2 << 20 };
static char *map[NKINDS];
static size_t size;

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static char *reserve(void) {
  char *p = mmap(NULL, size + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return p + (-(size_t)p & (HUGE_PAGE - 1));
}

static void give_up(const char *what) {
  perror(what);
  exit(1);
}

static void make(enum kind kind) {
  int file = kind >= FILE_SMALL, huge = kind == HUGE || kind == FILE_HUGE;
  int fd = file ? memfd_create("sharing", MFD_CLOEXEC) : -1;
  if (file && ftruncate(fd, (off_t)size) < 0)
    give_up("ftruncate");
  int flags = MAP_FIXED | (file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
  char *p = mmap(reserve(), size, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (p == MAP_FAILED)
    give_up("mmap");
  if (!file)
    madvise(p, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  for (size_t i = 0; file && huge && i < size; i += HUGE_PAGE) {
    p[i] = 1; /* an empty file has nothing to collapse */
    if (madvise(p + i, HUGE_PAGE, MADV_COLLAPSE) < 0)
      give_up("MADV_COLLAPSE");
  }
  for (size_t i = 0; i < size; i += 4096)
    p[i] = 1;
  if (file) { /* what was built through the shared mapping is read through a private one
               */
    if (mmap(p, size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE, fd, 0) ==
        MAP_FAILED)
      give_up("mmap");
  }
  map[kind] = p;
}

static double once(enum kind kind, int touches, int write) {
  volatile char *p = map[kind];
  size_t step = touches ? size / (size_t)touches : 0;
  double start = now_us();
  pid_t pid = fork();
  if (pid == 0) {
    for (int i = 0; i < touches; i++)
      if (write)
        p[(size_t)i * step] = 2;
      else
        (void)p[(size_t)i * step];
    _exit(0);
  }
  waitpid(pid, NULL, 0);
  return now_us() - start;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
  static const struct {
    int touches, write;
  } works[] = {{0, 0}, {64, 0}, {1024, 0}, {64, 1}, {1024, 1}};
  static double us[NKINDS][5][ROUNDS];
  size = (size_t)(argc > 1 ? atoi(argv[1]) : 1024) << 20;
  for (int kind = 0; kind < NKINDS; kind++) { /* each in a process of its own */
    int out[2];
    if (pipe(out) < 0)
      give_up("pipe");
    if (fork() == 0) {
      make((enum kind)kind);
      for (int i = 0; i < ROUNDS; i++)
        for (int w = 0; w < 5; w++)
          us[kind][w][i] = once((enum kind)kind, works[w].touches, works[w].write);
      for (int w = 0; w < 5; w++) {
        qsort(us[kind][w], ROUNDS, sizeof(double), by_value);
        printf("%-28s %5d places %-7s best %7.0f us, median %7.0f us\n", names[kind],
               works[w].touches, works[w].write ? "written" : "read", us[kind][w][0],
               us[kind][w][ROUNDS / 2]);
      }
      fflush(stdout);
      _exit(0);
    }
    wait(NULL);
  }
  return 0;
}
