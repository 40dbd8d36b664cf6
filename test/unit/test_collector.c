/* The seal: what collectgarbage says before and after it, what stays shared in clones,
 * and that clones which live long stay bounded. Clones are real: each test forks. */
#include "template/heap/collector.h"

#include "unit/sanitized.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if LUA_VERSION_NUM >= 505 /* where it wants a seed */
#define lua_newstate(alloc, ud) (lua_newstate)(alloc, ud, 1)
#endif

#define MIB ((uint64_t)1 << 20)

struct world {
  struct heap *heap;
  struct collector collector;
  lua_State *L;
};

static void *malloc_alloc(void *ud, void *block, size_t osize, size_t nsize) {
  (void)ud, (void)osize;
  if (nsize)
    return realloc(block, nsize);
  free(block);
  return NULL;
}
/* Bytes that this process has for itself; 0 where there is no /proc. */
static uint64_t private_bytes(void) {
  FILE *f = fopen("/proc/self/smaps_rollup", "re");
  char line[256];
  unsigned long kib = 0, n;
  if (!f)
    return 0;
  while (fgets(line, sizeof line, f))
    if (sscanf(line, "Private_Dirty: %lu", &n) == 1)
      kib = n;
  fclose(f);
  return (uint64_t)kib * 1024;
}
static int lua_private(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)private_bytes());
  return 1;
}
static int lua_major(lua_State *L) { /* what clone.collect does */
  collector_collect_all(lua_touserdata(L, lua_upvalueindex(1)), L);
  return 0;
}
static void run(struct world *w, const char *code) {
  if (luaL_dostring(w->L, code) != LUA_OK)
    fail_msg("%s", lua_tostring(w->L, -1));
  collector_touch(&w->collector);
}
static struct world *world_new(int with_heap, int gc) {
  struct world *w = calloc(1, sizeof *w);
  w->heap = with_heap ? heap_new(0) : NULL;
  w->L = lua_newstate(with_heap ? heap_alloc : malloc_alloc, w->heap);
  assert_non_null(w->L);
  luaL_openlibs(w->L);
  run(w, "original = collectgarbage");
  collector_init(&w->collector, w->L, w->heap, gc);
  lua_register(w->L, "private", lua_private);
  lua_pushlightuserdata(w->L, &w->collector);
  lua_pushcclosure(w->L, lua_major, 1);
  lua_setglobal(w->L, "major");
  return w;
}
static void world_free(struct world *w) {
  lua_close(w->L);
  heap_free(w->heap);
  free(w);
}
static void become_clone(struct world *w) {
  if (w->heap)
    heap_forked(w->heap);
  collector_forked(&w->collector, w->L);
}
/* Runs code in a clone; the test fails with its error. */
static void in_clone(struct world *w, const char *code) {
  assert_int_equal(collector_seal(&w->collector, w->L), 0);
  fflush(NULL);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    become_clone(w);
    int bad = luaL_dostring(w->L, code) != LUA_OK;
    if (bad)
      fprintf(stderr, "clone: %s\n", lua_tostring(w->L, -1));
    _exit(bad);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

static const char build_40_mib[] =
    "big = {} for i = 1, 300000 do big[i] = {x = i, y = i} end";

/* --- collectgarbage before the seal ---------------------------------------------------
 */

static void test_collector_leaves_collectgarbage_as_it_was(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  run(w,
      "assert(collectgarbage ~= original)\n"
      "local function both(...)\n"
      "  local a, b = table.pack(pcall(original, ...)), table.pack(pcall(collectgarbage, "
      "...))\n"
      "  assert(a.n == b.n and a[1] == b[1], tostring((...)))\n"
      "  if type(a[2]) ~= 'string' then assert(a[2] == b[2], tostring((...))) end\n"
      "end\n"
      "for _, name in ipairs {'collect', 'stop', 'isrunning', 'restart', 'isrunning',\n"
      "    'incremental', 'generational', 'generational', 'incremental'} do both(name) "
      "end\n"
      "both() both(nil) both('nonsense') both({}) both('step', {}) both('collect', {})\n"
      "assert(math.type(collectgarbage 'count') == 'float')\n"
      "assert(collectgarbage 'count' == original 'count')\n"
      "local ok, message = pcall(collectgarbage, 'nonsense')\n"
      "assert(not ok and message:find(\"invalid option 'nonsense'\", 1, true))\n"
      "if _VERSION == 'Lua 5.4' then\n"
      "  assert(collectgarbage('setpause', 160) == 200 and original('setpause', 200) == "
      "160)\n"
      "  assert(collectgarbage('setstepmul', 200) == 100)\n"
      "  assert(original('setstepmul', 100) == 200)\n"
      "end\n"
      "repeat until collectgarbage('step', 100)\n"
      "local weak = setmetatable({{}}, {__mode = 'v'})\n"
      "collectgarbage() assert(weak[1] == nil)\n");
  world_free(w);
}
static void test_collector_says_where_an_option_is_wrong(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  run(w, "local ok, message = pcall(load('collectgarbage(\"step\", {})', '=here'))\n"
         "assert(not ok and message:match '^here:1: bad argument #2', message)\n");
  world_free(w);
}
static void test_collector_refuses_inside_finalisers_as_lua_does(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  in_clone(
      w,
      "local said\n"
      "setmetatable({}, {__gc = function() said = {collectgarbage(), original()} end})\n"
      "collectgarbage()\n"
      "assert(said and said[1] == said[2])\n");
  world_free(w);
}

/* --- in clones ------------------------------------------------------------------------
 */

static const char drops_are_noticed[] =
    "local finalised = 0\n"
    "local weak, keys = setmetatable({}, {__mode = 'v'}), setmetatable({}, {__mode = "
    "'k'})\n"
    "do\n"
    "  local t = setmetatable({}, {__gc = function() finalised = finalised + 1 end})\n"
    "  weak[1], keys[{}] = t, true\n"
    "  weak[2], weak[3] = {}, function() return t end\n"
    "end\n"
    "collectgarbage()\n"
    "assert(finalised == 1)\n"
    "assert(next(weak) == nil and next(keys) == nil)\n"
    "for i = 1, 100 do\n"
    "  template_weak[1] = setmetatable({}, {__gc = function() finalised = finalised + 1 "
    "end})\n"
    "  assert(collectgarbage('collect') == 0 and finalised == i + 1 and not "
    "template_weak[1])\n"
    "end\n";

static void test_collector_collects_what_was_just_dropped(void **state) {
  (void)state;
  for (int gc = COLLECTOR_GENERATIONAL; gc <= COLLECTOR_STOP; gc++) {
    for (int with_heap = 0; with_heap < 2; with_heap++) {
      struct world *w = world_new(with_heap, gc);
      run(w, "template_weak = setmetatable({}, {__mode = 'v'})");
      in_clone(w, drops_are_noticed);
      world_free(w);
    }
  }
}
static void test_collector_shares_through_two_million_tables(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  run(w, build_40_mib);
  in_clone(w, "local before = private()\n"
              "for i = 1, 2000000 do local t = {x = i, y = i} end\n"
              "collectgarbage() collectgarbage()\n"
              "local more = private() - before\n"
              "assert(more < 4 << 20, more)\n");
  world_free(w);
}
static void test_collector_shares_strings(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  run(w, "names = {} for i = 1, 125000 do names[i] = 'name ' .. i end"); /* table 95 %
                                                                            full */
  in_clone(w, "local before, kept = private(), {}\n"
              "for i = 1, 20000 do kept[i] = 'own ' .. i end\n"
              "collectgarbage()\n"
              "local more = private() - before\n"
              "assert(more < 5 << 20, more)\n"); /* buckets, not strings */
  world_free(w);
}
static void test_collector_frees_older_garbage_when_forced(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  run(w, "old = setmetatable({}, {__gc = function() gone = true end}) old = old");
  in_clone(w, "old = nil collectgarbage() assert(not gone) major() assert(gone)");
  world_free(w);
}
static void test_collector_answers_the_other_options(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  in_clone(w,
           "assert(collectgarbage 'isrunning' == true)\n"
           "assert(collectgarbage 'stop' == 0 and collectgarbage 'isrunning' == false)\n"
           "local n = collectgarbage 'count'\n"
           "for i = 1, 100000 do local t = {i} end\n"
           "assert(collectgarbage 'count' > n + 4000)\n"
           "collectgarbage() assert(collectgarbage 'count' < n + 1000)\n"
           "assert(collectgarbage 'restart' == 0 and collectgarbage 'isrunning')\n"
           "assert(collectgarbage 'count' == original 'count')\n"
           "repeat local t = {} until collectgarbage 'step'\n"
           "repeat local t = {} until collectgarbage('step', 100)\n"
           "assert(collectgarbage 'generational' == 'generational')\n"
           "assert(collectgarbage('generational', 30, 200) == 'generational')\n"
           "assert(collectgarbage 'incremental' == 'generational')\n"
           "local weak = setmetatable({{}}, {__mode = 'v'})\n"
           "for i = 1, 10 do collectgarbage 'step' end\n"
           "collectgarbage() assert(not weak[1])\n"
           "assert(collectgarbage 'generational' == 'incremental')\n"
           "for i = 1, 300000 do local t = {i} end\n");
  world_free(w);
}
static void test_collector_stop_stays_stopped(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_STOP);
  in_clone(w, "assert(not collectgarbage 'isrunning')\n"
              "local n = collectgarbage 'count'\n"
              "for i = 1, 100000 do local t = {i} end\n"
              "assert(collectgarbage 'count' > n + 4000)\n"
              "collectgarbage 'restart'\n"
              "for i = 1, 100000 do local t = {i} end\n"
              "assert(collectgarbage 'count' < n + 4000)\n");
  w->collector.gc = COLLECTOR_GENERATIONAL; /* p:seal{gc=} thought better of it */
  collector_touch(&w->collector);
  in_clone(w, "assert(collectgarbage 'isrunning')");
  run(w, "collectgarbage 'stop'"); /* a script's own wish is left alone */
  in_clone(w, "assert(not collectgarbage 'isrunning')");
  world_free(w);
}

/* What was sealed once kept its mode, whatever p:seal{gc=} said: only the first seal, and
 * one after much was added, set it. */
static void test_collector_takes_another_mode_at_a_later_seal(void **state) {
  (void)state;
  static const char mode_is[] =
      "local mode = collectgarbage 'incremental' collectgarbage(mode)\n"
      "assert(mode == '%s', mode)";
  static const struct {
    int gc;
    const char *name;
  } turns[] = {{COLLECTOR_GENERATIONAL, "generational"},
               {COLLECTOR_INCREMENTAL, "incremental"},
               {COLLECTOR_STOP, "generational"},
               {COLLECTOR_INCREMENTAL, "incremental"},
               {COLLECTOR_GENERATIONAL, "generational"}};
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  for (size_t i = 0; i < sizeof turns / sizeof *turns; i++) {
    char code[200];
    w->collector.gc = turns[i].gc;
    collector_touch(&w->collector);
    snprintf(code, sizeof code, mode_is, turns[i].name);
    in_clone(w, code);
  }
  world_free(w);
}

/* --- clones that live long ------------------------------------------------------------
 */

/* Each table lives through two young collections and is garbage afterwards: what young
 * collections never find. */
static const char churn[] =
    "local queue, first, last, most = {}, 1, 0, 0\n"
    "local start = collectgarbage 'count'\n"
    "for i = 1, 6000000 do\n"
    "  last = last + 1 queue[last] = {i, i}\n"
    "  if last - first > 60000 then queue[first] = nil first = first + 1 end\n"
    "  if i % 10000 == 0 then most = math.max(most, collectgarbage 'count' - start) end\n"
    "end\n"
    "most = most / 1024\n";

static void test_collector_bounds_a_worker_that_churns(void **state) {
  (void)state;
  for (int with_heap = 0; with_heap < 2; with_heap++) {
    struct world *w = world_new(with_heap, COLLECTOR_GENERATIONAL);
    run(w, build_40_mib);
    char code[1024];
    snprintf(code, sizeof code, "%s assert(most < 60, most)", churn);
    in_clone(w, code);
    /* In a coroutine, and with work done inside C. */
    snprintf(code, sizeof code,
             "coroutine.wrap(function() %s assert(most < 60, most) end)()", churn);
    in_clone(w, code);
    world_free(w);
  }
}
/* A collection of everything marks all objects of the template, and leaves them with the
 * marks that they had: their pages are shared again afterwards. */
static void test_collector_shares_after_a_collection_of_everything(void **state) {
  (void)state;
  if (SANITIZED) /* whose shadow counts, too */
    return;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  run(w, build_40_mib);
  assert_int_equal(collector_seal(&w->collector, w->L), 0);
  if (!heap_is_frozen(w->heap))
    skip(); /* a kernel without MADV_COLLAPSE */
  in_clone(w, "local before = private() for i = 1, 3 do\n"
              "  big[i * 1000].x = i major() assert(big[i * 1000].x == i)\n"
              "  local own = (private() - before) / 2 ^ 20 assert(own < 8, own)\n"
              "end");
  world_free(w);
}
/* Four times what is alive and 32 MiB, whatever was alive before and whatever its shape.
 * All three were beyond it: garbage in the old generation, free memory of other sizes,
 * and what had died before the clone stopped growing. */
static void test_collector_bounds_a_clone_that_lives_for_long(void **state) {
  static const char *const shapes[] = {
      "for i = 1, 3e6 do own[i % 40000 + 1] = {x = i, y = i} end",
      "for k = 1, 20 do for i = 1, 60000 do local t = {} for j = 1, k do t[j] = j end\n"
      "  own[i % 20000 + 1] = t end end",
      "for i = 1, 5e5 do own[i] = {x = i, y = i} end for i = 1, 5e5 do own[i] = nil end\n"
      "for i = 1, 4e6 do own[i % 10000 + 1] = {x = i, y = i} end",
  };
  (void)state;
  if (SANITIZED)
    return;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  run(w, build_40_mib);
  assert_int_equal(collector_seal(&w->collector, w->L), 0);
  if (!heap_is_frozen(w->heap))
    skip();
  for (int i = 0; i < 3; i++) {
    char code[1024];
    snprintf(code, sizeof code,
             "local before = private() own = {} %s local used = private() - before\n"
             "major() local all = original 'count' own = nil major()\n"
             "local live = (all - original 'count') * 1024 used = used / 2 ^ 20\n"
             "assert(used < 4 * live / 2 ^ 20 + 32, used .. ' MiB for ' .. live)",
             shapes[i]);
    in_clone(w, code);
  }
  world_free(w);
}
static void test_collector_bounds_a_worker_with_a_debug_hook(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  run(w, build_40_mib);
  char code[1024];
  snprintf(code, sizeof code,
           "local n = 0 local function hook() n = n + 1 end\n"
           "debug.sethook(hook, '', 1000) %s\n"
           "local f, mask, count = debug.gethook()\n"
           "assert(f == hook and count == 1000 and n > 1000)\n"
           "assert(most < 200, most)",
           churn);
  in_clone(w, code);
  world_free(w);
}
static void test_collector_bounds_a_clone_of_a_small_template(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  char code[1024];
  snprintf(code, sizeof code, "%s assert(most < 40, most)", churn);
  in_clone(w, code);
  in_clone(w, "local n = collectgarbage 'count'\n"
              "for i = 1, 1000000 do local s = 'x' .. i end\n"
              "assert(collectgarbage 'count' - n < 4096)");
  world_free(w);
}
static void test_collector_leaves_no_hook_behind(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  in_clone(w, "for i = 1, 1000000 do local t = {i} end\n"
              "assert(debug.gethook() == nil)\n"
              "local co = coroutine.wrap(function()\n"
              "  for i = 1, 1000000 do\n"
              "    local t = {i} if i % 1000 == 0 then coroutine.yield() end\n"
              "  end\n"
              "  assert(debug.gethook() == nil) return true end)\n"
              "repeat until co()\n"
              "assert(debug.gethook() == nil)\n");
  world_free(w);
}

/* --- seals again ----------------------------------------------------------------------
 */

static void test_collector_again_and_again_is_bounded(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  run(w, "big = {} for i = 1, 50000 do big[i] = {i} end");
  assert_int_equal(collector_seal(&w->collector, w->L), 0);
  struct heap_stats before, after;
  heap_stats(w->heap, &before);
  for (int i = 0; i < 3000; i++) {
    run(w,
        "n = (n or 0) + 1 thing = {name = 'thing ' .. n, f = function() return n end}");
    assert_int_equal(collector_seal(&w->collector, w->L), 0);
  }
  heap_stats(w->heap, &after);
  assert_true(after.live < before.live + 256 * 1024);
  assert_true(after.touched < before.touched + 8 * MIB);
  in_clone(w, "assert(n == 3000 and thing.f() == 3000 and thing.name == 'thing 3000')");
  world_free(w);
}
static void test_collector_does_nothing_for_a_quiet_state(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  assert_int_equal(collector_seal(&w->collector, w->L), 0);
  struct heap_stats before, after;
  heap_stats(w->heap, &before);
  assert_int_equal(collector_seal(&w->collector, w->L), 0);
  heap_stats(w->heap, &after);
  assert_memory_equal(&before, &after, sizeof before);
  world_free(w);
}
static void test_collector_works_in_nested_templates(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  run(w, build_40_mib);
  assert_int_equal(collector_seal(&w->collector, w->L), 0);
  fflush(NULL);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    become_clone(w);
    uint64_t before = private_bytes();
    run(w, "more = {} for i = 1, 20000 do more[i] = {x = i} end");
    in_clone(w, "for i = 1, 500000 do local t = {i} end assert(#more == 20000)");
    run(w, "more[20001] = 1");
    in_clone(w, "assert(more[20001] == 1 and more[20000].x == 20000 and big[300000].x == "
                "300000)");
    uint64_t own = private_bytes() - before;
    if (own > 8 * MIB)
      fprintf(stderr, "a nested template copied %llu\n", (unsigned long long)own);
    _exit(own > 8 * MIB && !SANITIZED);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  world_free(w);
}
static void test_collector_runs_finalisers_before_it_settles(void **state) {
  (void)state;
  struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
  run(w, "setmetatable({}, {__gc = function() gone = true end})");
  assert_int_equal(collector_seal(&w->collector, w->L), 0);
  run(w, "assert(gone)");
  world_free(w);
}
static void test_collector_leaves_the_string_table_alone(void **state) {
  (void)state;
  /* Wherever the number of strings lies between two doublings, a clone makes a thousand.
   */
  for (int n = 30000; n < 66000; n += 3000) {
    struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
    char code[256];
    snprintf(code, sizeof code, "names = {} for i = 1, %d do names[i] = 'name ' .. i end",
             n);
    run(w, code);
    in_clone(w, "local before, kept = private(), {}\n"
                "for i = 1, 300 do kept[i] = 'own ' .. i end collectgarbage()\n"
                "assert(private() - before < 1300000, private() - before)\n");
    world_free(w);
  }
}

/* --- no memory ------------------------------------------------------------------------
 */

static long allocations_left = -1;
static void *failing_alloc(void *ud, void *block, size_t osize, size_t nsize) {
  if (nsize > osize && allocations_left >= 0 && allocations_left-- == 0) {
    allocations_left = 0;
    return NULL;
  }
  return heap_alloc(ud, block, block ? osize : osize, nsize);
}
static void test_collector_reports_lack_of_memory(void **state) {
  (void)state;
  for (long n = 0; n < 100; n++) {
    struct world *w = world_new(1, COLLECTOR_GENERATIONAL);
    run(w, "t = setmetatable({}, {__gc = function() local x = {} end}) t = nil");
    lua_setallocf(w->L, failing_alloc, w->heap);
    allocations_left = n;
    int r = collector_seal(&w->collector, w->L);
    allocations_left = -1;
    assert_true(r == 0 || r == -ENOMEM);
    assert_int_equal(lua_gettop(w->L), 0);
    in_clone(w,
             "assert(collectgarbage 'isrunning') for i = 1, 10000 do local t = {i} end");
    world_free(w);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_collector_leaves_collectgarbage_as_it_was),
      cmocka_unit_test(test_collector_says_where_an_option_is_wrong),
      cmocka_unit_test(test_collector_refuses_inside_finalisers_as_lua_does),
      cmocka_unit_test(test_collector_collects_what_was_just_dropped),
      cmocka_unit_test(test_collector_shares_through_two_million_tables),
      cmocka_unit_test(test_collector_shares_strings),
      cmocka_unit_test(test_collector_frees_older_garbage_when_forced),
      cmocka_unit_test(test_collector_answers_the_other_options),
      cmocka_unit_test(test_collector_stop_stays_stopped),
      cmocka_unit_test(test_collector_takes_another_mode_at_a_later_seal),
      cmocka_unit_test(test_collector_bounds_a_worker_that_churns),
      cmocka_unit_test(test_collector_shares_after_a_collection_of_everything),
      cmocka_unit_test(test_collector_bounds_a_clone_that_lives_for_long),
      cmocka_unit_test(test_collector_bounds_a_worker_with_a_debug_hook),
      cmocka_unit_test(test_collector_bounds_a_clone_of_a_small_template),
      cmocka_unit_test(test_collector_leaves_no_hook_behind),
      cmocka_unit_test(test_collector_again_and_again_is_bounded),
      cmocka_unit_test(test_collector_does_nothing_for_a_quiet_state),
      cmocka_unit_test(test_collector_works_in_nested_templates),
      cmocka_unit_test(test_collector_runs_finalisers_before_it_settles),
      cmocka_unit_test(test_collector_leaves_the_string_table_alone),
      cmocka_unit_test(test_collector_reports_lack_of_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
