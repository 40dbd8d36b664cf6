/* What a clone costs, by allocator and collector of its template. A program of its own:
 * no sockets, no library but the heap and the seal, so that only memory is measured.
 *
 *   heap_bench [clones | growth | strings | long | all]
 *
 * clones   an 84 MiB heap of 524,288 small tables; fork + exit + wait of a clone that
 * does nothing; then a clone that makes two million small tables. Three kinds of template
 * take turns, twice, so that a change of the machine's mood shows growth   fork + exit +
 * wait as the template grows from 1 MiB to 1 GiB strings  a template of short strings,
 * and a clone that makes a million of its own long     clones that live for long over an
 * 84 MiB template: their most private memory in twenty looks, against what is alive at
 * the end. The bound is 4 times that and 32 MiB */
#include "template/heap/collector.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if LUA_VERSION_NUM >= 505 /* where it wants a seed */
#define lua_newstate(alloc, ud) (lua_newstate)(alloc, ud, 1)
#endif

enum kind { INCREMENTAL, GENERATIONAL, SEALED, NKINDS };
static const char *const kind_names[NKINDS] = {"newstate, incremental",
                                               "newstate, generational", "heap + seal"};

struct template {
  enum kind kind;
  struct heap *heap;
  struct collector collector;
  lua_State *L;
};

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}
static double cpu_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}
static long faults(void) {
  struct rusage use;
  getrusage(RUSAGE_SELF, &use);
  return use.ru_minflt;
}
static double private_mb(void) {
  FILE *f = fopen("/proc/self/smaps_rollup", "re");
  char line[256];
  long kib = 0, n;
  while (f && fgets(line, sizeof line, f))
    if (sscanf(line, "Private_%*[a-zA-Z]: %ld", &n) == 1)
      kib += n;
  if (f)
    fclose(f);
  return (double)kib * 1024 / 1e6;
}
static void run(lua_State *L, const char *code) {
  if (luaL_dostring(L, code) == LUA_OK)
    return;
  fprintf(stderr, "heap_bench: %s\n", lua_tostring(L, -1));
  exit(1);
}
static void template_open(struct template *t, enum kind kind, const char *code) {
  *t = (struct template){.kind = kind};
  t->heap = kind == SEALED ? heap_new(0) : NULL;
  t->L = t->heap ? lua_newstate(heap_alloc, t->heap) : luaL_newstate();
  if (!t->L)
    exit(1);
  luaL_openlibs(t->L);
  if (kind == SEALED)
    collector_init(&t->collector, t->L, t->heap, COLLECTOR_GENERATIONAL);
  run(t->L, code);
  if (kind == SEALED) {
    collector_seal(&t->collector, t->L);
    return;
  }
  run(t->L, "collectgarbage() collectgarbage()");
  if (kind == GENERATIONAL)
    run(t->L, "collectgarbage 'generational' collectgarbage 'step'");
}
static void become_clone(struct template *t) {
  if (t->kind != SEALED)
    return;
  heap_forked(t->heap);
  collector_forked(&t->collector, t->L);
}
static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}
/* Microseconds of fork + exit + wait. */
struct cost {
  double best, median;
};
static struct cost fork_cost(struct template *t, int touch) {
  enum { N = 101 };
  double us[N];
  for (int i = 0; i < N; i++) {
    double start = now_us();
    pid_t pid = fork();
    if (pid == 0) {
      if (touch) {
        become_clone(t);
        run(t->L, "local t = {} for i = 1, 100 do t[i] = {i} end");
      }
      _exit(0);
    }
    waitpid(pid, NULL, 0);
    us[i] = now_us() - start;
  }
  qsort(us, N, sizeof *us, by_value);
  return (struct cost){us[0], us[N / 2]};
}
static void clone_run(struct template *t, const char *code) {
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    become_clone(t);
    double before = private_mb(), start = now_us();
    long before_faults = faults();
    run(t->L, code);
    double seconds = (now_us() - start) / 1e6;
    printf(" %7.2f s %7.1f MB private %7ld faults\n", seconds, private_mb() - before,
           faults() - before_faults);
    fflush(stdout);
    _exit(0);
  }
  waitpid(pid, NULL, 0);
}
/* Each template in a process of its own, so that none inherits another's memory. */
static void apart(void (*f)(enum kind kind, size_t size), enum kind kind, size_t size) {
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    f(kind, size);
    fflush(NULL);
    _exit(0);
  }
  waitpid(pid, NULL, 0);
}

static const char many_tables[] = "for i = 1, 2000000 do local t = {x = i, y = i} end";

static void measure_clones(enum kind kind, size_t size) {
  (void)size;
  struct template t;
  template_open(&t, kind, "big = {} for i = 1, 524288 do big[i] = {x = i, y = i} end");
  struct cost cost = fork_cost(&t, 0);
  printf("%-24s fork+exit+wait %6.0f us (best %5.0f);", kind_names[kind], cost.median,
         cost.best);
  clone_run(&t, many_tables);
}
static void measure_growth(enum kind kind, size_t size) {
  struct template t;
  char code[200];
  snprintf(code, sizeof code, "big = {} for i = 1, %zu do big[i] = {x = i, y = i} end",
           size * 1048576 / 136);
  double start = now_us();
  template_open(&t, kind, size ? code : "");
  double built = (now_us() - start) / 1e6;
  double mib = lua_gc(t.L, LUA_GCCOUNT) / 1024.0;
  struct cost bare = fork_cost(&t, 0), lua = fork_cost(&t, 1);
  printf(
      "%-24s %7.1f MiB: %6.0f us (best %5.0f), with a little Lua %6.0f us (best %5.0f); "
      "built in %.2f s\n",
      kind_names[kind], mib, bare.median, bare.best, lua.median, lua.best, built);
}
static void measure_strings(enum kind kind, size_t size) {
  (void)size;
  struct template t;
  template_open(&t, kind, "names = {} for i = 1, 500000 do names[i] = 'name ' .. i end");
  printf("%-24s      20,000 kept:", kind_names[kind]);
  clone_run(&t, "own = {} for i = 1, 20000 do own[i] = 'own ' .. i end");
  printf("%-24s 1,000,000 dropped:", kind_names[kind]);
  clone_run(&t, "for i = 1, 1000000 do local s = 'own ' .. i end");
}

/* ---- clones that live for long ---- */

/* step(i) is called twenty times; what it keeps hangs on `own`. */
static const struct shape {
  const char *name, *code;
} shapes[] = {
    {"300,000 small tables", "function step(k) for i = 1, 400000 do "
                             "own[i % 300000 + 1] = {x = i, y = i} end end"},
    {"20,000 small tables", "function step(k) for i = 1, 1000000 do "
                            "own[i % 20000 + 1] = {x = i, y = i} end end"},
    {"100,000 in a queue", "n = 0 function step(k) for i = 1, 500000 do n = n + 1 "
                           "own[n] = {n} own[n - 100000] = nil end end"},
    {"100,000 at random", "function step(k) for i = 1, 200000 do "
                          "own[math.random(100000)] = {x = i, y = i} end end"},
    {"200,000 short strings", "function step(k) for i = 1, 300000 do "
                              "own[i % 200000 + 1] = 'own ' .. k .. ' ' .. i end end"},
    {"5,000 long strings", "function step(k) for i = 1, 10000 do "
                           "own[i % 5000 + 1] = ('x'):rep(i * 7919 % 8000 + 50) end end"},
    {"20,000 of mixed size", "function step(k) for i = 1, 40000 do local t = {k = i} "
                             "for j = 1, i * 7919 % 31 do t[j] = j end t.f = function() "
                             "return t end t.s = 'own ' .. i "
                             "own[i % 20000 + 1] = t end end"},
    {"other shapes in turn",
     "function step(k) for i = 1, 200000 do local t = {} "
     "for j = 1, k do t[j] = j end own[i % 50000 + 1] = t end end"},
    {"grows and shrinks", "function step(k) local n = k < 10 and k * 100000 or 20000 "
                          "for i = #own, n, -1 do own[i] = nil end "
                          "for i = 1, 500000 do own[i % n + 1] = {x = i, y = i} end end"},
};
static void measure_long(enum kind kind, size_t shape) {
  struct template t;
  template_open(&t, kind,
                "big = {} for i = 1, 743000 do big[i] = {x = i, y = i} end own = {}");
  fflush(NULL);
  if (fork() != 0)
    return (void)wait(NULL);
  become_clone(&t);
  run(t.L, shapes[shape].code);
  double start = cpu_us(), most = 0;
  int shrinks = strstr(shapes[shape].name, "shrinks") != NULL;
  for (int i = 1; i <= 20; i++) {
    char code[32];
    snprintf(code, sizeof code, "step(%d)", i);
    run(t.L, code);
    double now = private_mb() * 1e6 / 1048576;
    most = now > most || (shrinks && i == 20) ? now : most;
  }
  double seconds = (cpu_us() - start) / 1e6;
  lua_gc(t.L, LUA_GCCOLLECT);
  double all = lua_gc(t.L, LUA_GCCOUNT) / 1024.0;
  run(t.L, "own = nil");
  lua_gc(t.L, LUA_GCCOLLECT);
  double live = all - lua_gc(t.L, LUA_GCCOUNT) / 1024.0;
  printf(
      "%-24s %-22s CPU %5.2f s, private %6.1f MiB, live %6.1f MiB, bound %6.1f MiB%s\n",
      kind_names[kind], shapes[shape].name, seconds, most, live, live * 4 + 32,
      most > live * 4 + 32 ? " EXCEEDED" : "");
  fflush(stdout);
  _exit(0);
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "all";
  int all = strcmp(what, "all") == 0;
  if (all || strcmp(what, "clones") == 0)
    for (int round = 0; round < 2; round++)
      for (int kind = 0; kind < NKINDS; kind++)
        apart(measure_clones, (enum kind)kind, 0);
  if (all || strcmp(what, "growth") == 0)
    for (size_t mib = 0; mib <= 1024; mib = mib ? mib * 2 : 1)
      for (int kind = 0; kind < NKINDS; kind += 2)
        if (kind == SEALED || mib <= 256)
          apart(measure_growth, (enum kind)kind, mib);
  if (all || strcmp(what, "strings") == 0)
    for (int kind = 0; kind < NKINDS; kind++)
      apart(measure_strings, (enum kind)kind, 0);
  if (all || strcmp(what, "long") == 0)
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
      for (int kind = GENERATIONAL; kind <= SEALED; kind++)
        apart(measure_long, (enum kind)kind, i);
  return 0;
}
