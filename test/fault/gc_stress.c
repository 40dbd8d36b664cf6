/* Plays gc_stress.lua in a template that is changed, sealed and forked, and in clones of
 * its clones, each of which changes the sealed graph in its own way. A clone that
 * crashes, or whose graph differs from its model, fails the run and names its seed.
 *
 *   gc_stress SCRIPT [SECONDS [SEED]]        three seconds and a seed of the day by
 * default */
#include "template/heap/collector.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if LUA_VERSION_NUM >= 505 /* where it wants a seed */
#define lua_newstate(alloc, ud) (lua_newstate)(alloc, ud, 1)
#endif

enum { STEPS = 2500, CLONES = 3, DEPTH = 3 };

struct stress {
  const char *script;
  struct heap *heap;
  struct collector collector;
  lua_State *L;
  unsigned seed, nclones;
};

static double now_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}
static int lua_clone_collect(lua_State *L) {
  struct stress *s = lua_touserdata(L, lua_upvalueindex(1));
  collector_collect_all(&s->collector, L);
  return 0;
}
static int traceback(lua_State *L) {
  luaL_traceback(L, L, lua_tostring(L, 1), 1);
  return 1;
}
/* 0, or 1 with the reason on standard error. */
static int play(struct stress *s, unsigned seed, int steps, const char *role) {
  lua_State *L = s->L;
  collector_touch(&s->collector);
  lua_pushcfunction(L, traceback);
  int r = luaL_loadfile(L, s->script);
  if (r == LUA_OK) {
    lua_pushinteger(L, seed);
    lua_pushinteger(L, steps);
    lua_pushstring(L, role);
    r = lua_pcall(L, 3, 0, -5);
  }
  if (r != LUA_OK)
    fprintf(stderr, "gc_stress: %s\n", lua_tostring(L, -1));
  lua_settop(L, 0);
  return r != LUA_OK;
}
static int wait_for(pid_t pid, unsigned seed) {
  int status;
  if (waitpid(pid, &status, 0) != pid)
    return 1;
  if (WIFSIGNALED(status))
    fprintf(stderr, "gc_stress: seed %u: a clone died of signal %d\n", seed,
            WTERMSIG(status));
  return status != 0;
}
static int fork_clones(struct stress *s, unsigned seed, int depth);

static int be_clone(struct stress *s, unsigned seed, int depth) {
  heap_forked(s->heap);
  collector_forked(&s->collector, s->L);
  char role[32];
  snprintf(role, sizeof role, "clone of depth %d", depth);
  int bad = play(s, seed, STEPS * 4, role);
  if (!bad && depth < DEPTH && seed % 3 == 0)
    bad = fork_clones(s, seed * 31 + 7, depth + 1);
  return bad;
}
static int fork_clones(struct stress *s, unsigned seed, int depth) {
  int bad = 0;
  if (collector_seal(&s->collector, s->L) < 0)
    return 1;
  fflush(NULL);
  for (unsigned i = 0; i < CLONES && !bad; i++) {
    pid_t pid = fork();
    if (pid < 0)
      return 1;
    if (pid == 0)
      _exit(be_clone(s, seed + i, depth));
    s->nclones++;
    bad = wait_for(pid, seed + i);
  }
  return bad;
}
static int stress_open(struct stress *s, unsigned seed) {
  static const int modes[] = {COLLECTOR_GENERATIONAL, COLLECTOR_GENERATIONAL,
                              COLLECTOR_INCREMENTAL, COLLECTOR_STOP};
  s->heap = heap_new(0);
  s->L = s->heap ? lua_newstate(heap_alloc, s->heap) : NULL;
  if (!s->L)
    return 1;
  luaL_openlibs(s->L);
  collector_init(&s->collector, s->L, s->heap, modes[seed % 4]);
  if (seed % 8 < 4)
    s->collector.freeze_worth = 1; /* however small it is */
  lua_pushlightuserdata(s->L, s);
  lua_pushcclosure(s->L, lua_clone_collect, 1);
  lua_setglobal(s->L, "clone_collect");
  return 0;
}
static int round_of(const char *script, unsigned seed, unsigned *nclones) {
  struct stress s = {.script = script, .seed = seed};
  if (stress_open(&s, seed))
    return 1;
  int bad = 0;
  for (unsigned i = 0; i < 3 && !bad; i++) {
    bad = play(&s, seed + i * 1000, STEPS, "template");
    if (!bad)
      bad = fork_clones(&s, seed + i * 100, 1);
  }
  *nclones += s.nclones;
  lua_close(s.L);
  struct heap_stats stats;
  heap_stats(s.heap, &stats);
  if (!bad && stats.live != 0) {
    fprintf(stderr, "gc_stress: seed %u: %llu bytes live after the end\n", seed,
            (unsigned long long)stats.live);
    bad = 1;
  }
  heap_free(s.heap);
  return bad;
}

int main(int argc, char **argv) {
  if (argc < 2 || argc > 4) {
    fprintf(stderr, "usage: gc_stress SCRIPT [SECONDS [SEED]]\n");
    return 2;
  }
  double end = now_seconds() + (argc > 2 ? atof(argv[2]) : 3);
  unsigned seed = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 0) : (unsigned)time(NULL);
  unsigned nrounds = 0, nclones = 0;
  printf("gc_stress: seed %u\n", seed);
  do {
    if (round_of(argv[1], seed + nrounds, &nclones)) {
      printf("gc_stress: failed in round %u: try SEED %u\n", nrounds, seed + nrounds);
      return 1;
    }
    nrounds++;
  } while (now_seconds() < end);
  printf("gc_stress: %u rounds, %u clones: all as the model says\n", nrounds, nclones);
  return 0;
}
