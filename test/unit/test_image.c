/* Images: the self-check and what it refuses, records, copies. That moved programs go on
 * is for test/image/hop.c to see. */
#include "image/pointers.h"
#include "image/relocate.h"
#include "image/selfcheck.h"

#include "arena.h"
#include "unit/sanitized.h"
#include "unit/unit.h"
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { SLOW = SANITIZED ? 50 : 1 };

static struct arena *arena;

static lua_State *state_with(const char *chunk) {
  arena = arena_new(7);
  lua_State *L = lua_newstate(arena_allocate, arena);
  assert_non_null(L);
  luaL_openlibs(L);
  if (luaL_dostring(L, chunk))
    fail_msg("%s", lua_tostring(L, -1));
  lua_settop(L, 0);
  return L;
}
static void state_end(lua_State *L) {
  lua_close(L);
  assert_int_equal(arena_nblocks(arena), 0);
  arena_free(arena);
}

static double cpu_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void test_this_lua_is_laid_out_as_described(void **state) {
  const char *reason = selfcheck_reason();
  if (sizeof(void *) < 8) {
    assert_non_null(reason);
    assert_non_null(strstr(reason, "64 bits"));
    return;
  }
  if (reason)
    fail_msg("%s", reason);
}

static void test_the_selfcheck_takes_less_than_a_millisecond(void **state) {
  double best = 1e9;
  for (int i = 0; i < 50; i++) {
    double before = cpu_ms();
    selfcheck_run(lua_newstate);
    double took = cpu_ms() - before;
    best = took < best ? took : best;
  }
  assert_true(best < 1.0 * SLOW);
}

/* ---- layouts that are not this one ---- */

static lua_Alloc given;
static size_t added, from_size, until_size;

static void *other_sizes(void *data, void *p, size_t old, size_t n) {
  if (n >= from_size && n < until_size)
    n += added;
  return given(data, p, old, n);
}
static lua_State *other_state(lua_Alloc allocate, void *data) {
  given = allocate;
  return lua_newstate(other_sizes, data);
}
/* A whole Lua whose extra space begins earlier, by having its state moved by a word. */
static void *shifted(void *data, void *p, size_t old, size_t n) {
  char *q = given(data, p ? (char *)p - 8 : NULL, old + 8, n ? n + 8 : 0);
  return q ? q + 8 : NULL;
}
static lua_State *shifted_state(lua_Alloc allocate, void *data) {
  given = allocate;
  return lua_newstate(shifted, data);
}

static void test_blocks_of_other_sizes_are_refused(void **state) {
  static const struct {
    size_t from, until, added;
    const char *reason;
  } cases[] = {
      {1000, 3000, 8, "main thread's block has another size"},
      {56, 57, 8, "a block has another size"},      /* tables */
      {40, 41, 8, "a block has another size"},      /* upvalues, short strings */
      {208, 209, 16, "a block has another size"},   /* threads */
      {64, 65, 8, "a block has another size"},      /* frames */
      {25, SIZE_MAX / 2, 1, "main thread's block"}, /* all */
  };
  if (sizeof(void *) < 8)
    return;
  for (size_t i = 0; i < COUNT(cases); i++) {
    from_size = cases[i].from, until_size = cases[i].until, added = cases[i].added;
    const char *reason = selfcheck_run(other_state);
    assert_non_null(reason);
    assert_non_null(strstr(reason, cases[i].reason));
  }
  const char *reason = selfcheck_run(shifted_state);
  assert_non_null(reason);
  assert_non_null(strstr(reason, "main thread does not begin"));
}

static size_t budget;
static void *within_budget(void *data, void *p, size_t old, size_t n) {
  if (n > budget)
    return NULL;
  budget -= n;
  return given(data, p, old, n);
}
static lua_State *poor_state(lua_Alloc allocate, void *data) {
  given = allocate;
  return lua_newstate(within_budget, data);
}
static void test_a_selfcheck_without_memory_says_so(void **state) {
  if (sizeof(void *) < 8)
    return;
  for (size_t bytes = 0; bytes < 120000; bytes += 977) {
    budget = bytes;
    const char *reason = selfcheck_run(poor_state);
    assert_true(!reason || strstr(reason, "memory") || strstr(reason, "be built") ||
                strstr(reason, "is not what it was"));
  }
}

static uint64_t random_word(unsigned *seed) {
  uint64_t word = 0;
  for (int i = 0; i < 4; i++) {
    *seed = *seed * 1664525 + 1013904223;
    word = word << 16 | *seed >> 16;
  }
  return word;
}

/* The walk of a state of another layout sees any numbers anywhere. */
static void test_the_check_survives_any_memory(void **state) {
  lua_State *L = state_with("t = {{}, 1.5, 'x', function() return t end, [print] = 1}\n"
                            "co = coroutine.wrap(function() coroutine.yield() end) co()");
  size_t nbytes;
  char *base = arena_base(arena, &nbytes);
  unsigned seed = 3, nfound = 0;
  assert_null(arena_check(arena, L));
  for (int i = 0; i < 20000; i++) {
    uint64_t *word = (uint64_t *)(void *)(base + random_word(&seed) % (nbytes / 8) * 8),
             old;
    struct compare_block b;
    if (!arena_find(arena, word, &b) || (size_t)((char *)word - b.start) + 8 > b.nbytes)
      continue;
    old = *word;
    switch (random_word(&seed) % 4) {
    case 0:
      *word = random_word(&seed);
      break;
    case 1:
      *word = (uint64_t)(uintptr_t)base + random_word(&seed) % nbytes;
      break;
    case 2:
      *word ^= (uint64_t)1 << random_word(&seed) % 64;
      break;
    case 3:
      *word = random_word(&seed) % 300;
      break;
    }
    nfound += arena_check(arena, L) != NULL;
    *word = old;
  }
  assert_true(nfound > 100);
  assert_null(arena_check(arena, L));
  state_end(L);
}

/* ---- records ---- */

static size_t count_kind(const struct pointers *r, enum image_kind kind) {
  size_t n = 0;
  for (size_t i = 0; i < r->noutsides; i++)
    n += r->outsides[i].kind == kind;
  return n;
}

static void record(struct pointers *r, lua_State *L) {
  size_t nbytes;
  char *base = arena_base(arena, &nbytes);
  struct pointers_range all = {base, nbytes};
  assert_int_equal(pointers_record(r, L, base, nbytes, &all, 1, 0), 0);
}

static int is_listed(const struct pointers *r, const void *table) {
  int n = 0;
  for (size_t i = 0; i < r->ntables; i++)
    n += r->base + r->tables[i] == (const char *)table;
  return n;
}

static void test_what_leads_outside_is_listed_by_kind(void **state) {
  struct pointers r;
  lua_State *L = state_with("inverted = {}\n"
                            "for k, v in pairs(string) do inverted[v] = k end\n"
                            "plain = {print, key = print, [2.5] = io.stdout}");
  lua_newtable(L);
  lua_pushlightuserdata(L, L); /* inside */
  lua_pushboolean(L, 1);
  lua_rawset(L, 1);
  lua_newtable(L);
  lua_pushlightuserdata(L, &r); /* outside, twice */
  lua_pushboolean(L, 1);
  lua_rawset(L, 2);
  lua_pushlightuserdata(L, &L);
  lua_pushboolean(L, 1);
  lua_rawset(L, 2);
  void **words = lua_newuserdatauv(L, 4 * sizeof *words, 0);
  words[0] = &r, words[1] = L, words[2] = NULL, words[3] = (void *)(uintptr_t)1000;
  record(&r, L);
  assert_true(count_kind(&r, IMAGE_C_FUNCTION) > 100);
  assert_int_equal(count_kind(&r, IMAGE_STREAM), 3);
  assert_int_equal(count_kind(&r, IMAGE_STREAM_CLOSE), 3);
  assert_int_equal(count_kind(&r, IMAGE_ALLOCATOR), 1);
  assert_int_equal(count_kind(&r, IMAGE_ALLOCATOR_DATA), 1);
  assert_int_equal(count_kind(&r, IMAGE_USERDATA), 1);
  assert_true(count_kind(&r, IMAGE_C_CLOSURE) > 0);
  size_t nlight = 0;
  for (size_t i = 0; i < r.noutsides; i++)
    nlight += r.outsides[i].kind == IMAGE_LIGHT &&
              r.outsides[i].word == (uint64_t)(uintptr_t)&r;
  assert_int_equal(nlight, 1);
  assert_int_equal(is_listed(&r, lua_topointer(L, 1)), 0);
  assert_int_equal(is_listed(&r, lua_topointer(L, 2)), 1);
  lua_getglobal(L, "inverted");
  assert_int_equal(is_listed(&r, lua_topointer(L, -1)), 1);
  lua_getglobal(L, "plain");
  assert_int_equal(is_listed(&r, lua_topointer(L, -1)), 0);
  for (int i = 0; i < IMAGE_KINDS; i++)
    assert_non_null(pointers_kind((enum image_kind)i));
  pointers_free(&r);
  lua_settop(L, 0);
  state_end(L);
}

/* A bit is set exactly where a word changes when the state is moved. */
static void test_the_record_and_the_walk_see_the_same_pointers(void **state) {
  lua_State *L = state_with("x = {{}, 'a', {b = {}}} y = coroutine.create(print)");
  struct pointers r;
  size_t nbytes;
  char *base = arena_base(arena, &nbytes);
  record(&r, L);
  uint64_t *copy = malloc(nbytes), *walked = malloc(nbytes);
  assert_non_null(copy);
  assert_non_null(walked);
  memcpy(walked, base, nbytes);
  intptr_t difference = (intptr_t)((uintptr_t)walked - (uintptr_t)base);
  relocate_state((lua_State *)(void *)((char *)walked + ((char *)L - base)), base, nbytes,
                 difference);
  relocate_copy(copy, base, nbytes, r.bits, difference);
  assert_memory_equal(copy, walked, nbytes);
  size_t nset = 0;
  for (size_t i = 0; i < nbytes / 8; i++)
    nset += r.bits[i / 64] >> i % 64 & 1;
  assert_int_equal(nset, r.npointers);
  assert_true(nset > 300);
  pointers_free(&r);
  free(copy);
  free(walked);
  state_end(L);
}

static void test_copies_of_every_length(void **state) {
  enum { WORDS = 200 };
  uint64_t from[WORDS], to[WORDS + 1], bits[WORDS / 64 + 2];
  unsigned seed = 11;
  for (size_t n = 0; n <= WORDS; n++) {
    for (size_t i = 0; i < WORDS; i++)
      from[i] = random_word(&seed);
    for (size_t i = 0; i < COUNT(bits); i++)
      bits[i] = random_word(&seed);
    to[n] = 4711;
    relocate_copy(to, from, n * 8, bits, -(intptr_t)1000);
    for (size_t i = 0; i < n; i++)
      assert_true(to[i] == from[i] - (bits[i / 64] >> i % 64 & 1) * 1000);
    assert_true(to[n] == 4711);
  }
}

/* In place, by a copy of the region that is put back. */
static void test_empty_tables_can_use_a_node_of_the_region(void **state) {
  lua_State *L = state_with("list = {} for i = 1, 100 do list[i] = {} end");
  struct pointers r;
  size_t nbytes;
  void *node = arena_allocate(arena, NULL, 0, RELOCATE_NODE);
  char *base = arena_base(arena, &nbytes);
  record(&r, L);
  size_t nempty = count_kind(&r, IMAGE_DUMMY_NODE), npointers = r.npointers;
  assert_true(nempty >= 100);
  assert_null(r.node);
  pointers_free(&r);
  struct pointers_range all = {base, nbytes};
  assert_int_equal(pointers_record(&r, L, base, nbytes, &all, 1, 1), 0);
  assert_int_equal(count_kind(&r, IMAGE_DUMMY_NODE), 0);
  assert_int_equal(r.npointers, npointers + nempty);
  assert_non_null(r.node);
  memcpy(node, r.node, RELOCATE_NODE);
  uint64_t *copy = malloc(nbytes / 8 * 8);
  assert_non_null(copy);
  relocate_copy(copy, base, nbytes / 8 * 8, r.bits, 1000);
  relocate_node(copy, nbytes / 8 * 8, r.bits, r.node, 1000,
                (uint64_t)(uintptr_t)node + 1000);
  for (size_t i = 0; i < nbytes / 8; i++)
    copy[i] -= (r.bits[i / 64] >> i % 64 & 1) * 1000;
  memcpy(base, copy, nbytes / 8 * 8);
  free(copy);
  pointers_free(&r);
  record(&r, L);
  assert_int_equal(count_kind(&r, IMAGE_DUMMY_NODE), 0);
  pointers_free(&r);
  if (luaL_dostring(
          L, "for i = 1, 100 do assert(next(list[i]) == nil and list[i].x == nil)\n"
             "list[i].x = i assert(list[i].x == i) end list = nil collectgarbage()"))
    fail_msg("%s", lua_tostring(L, -1));
  arena_allocate(arena, node, RELOCATE_NODE, 0);
  state_end(L);
}

/* ---- when a state may be moved ---- */

static const char *seen;
static int look(lua_State *L) {
  seen = relocate_obstacle(L);
  return 0;
}
static void test_a_state_in_a_c_function_says_so(void **state) {
  lua_State *L = state_with("");
  assert_null(relocate_obstacle(L));
  lua_pushcfunction(L, look);
  assert_int_equal(lua_pcall(L, 0, 0, 0), LUA_OK);
  assert_non_null(seen);
  assert_non_null(strstr(seen, "protected call"));
  lua_pushcfunction(L, look);
  lua_call(L, 0, 0);
  assert_non_null(strstr(seen, "in a function"));
  assert_null(relocate_obstacle(L));
  lua_State *co = lua_newthread(L);
  lua_pushcfunction(co, look);
  int nresults;
  assert_int_equal(lua_resume(co, L, 0, &nresults), LUA_OK);
  assert_null(
      seen); /* the main thread is not in it; who copies it then loses the coroutine */
  state_end(L);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_this_lua_is_laid_out_as_described),
      cmocka_unit_test(test_the_selfcheck_takes_less_than_a_millisecond),
      cmocka_unit_test(test_blocks_of_other_sizes_are_refused),
      cmocka_unit_test(test_a_selfcheck_without_memory_says_so),
      cmocka_unit_test(test_the_check_survives_any_memory),
      cmocka_unit_test(test_what_leads_outside_is_listed_by_kind),
      cmocka_unit_test(test_the_record_and_the_walk_see_the_same_pointers),
      cmocka_unit_test(test_copies_of_every_length),
      cmocka_unit_test(test_empty_tables_can_use_a_node_of_the_region),
      cmocka_unit_test(test_a_state_in_a_c_function_says_so),
  };
  const struct CMUnitTest with_32_bits[] = {tests[0]};
  if (sizeof(void *) < 8)
    return cmocka_run_group_tests(with_32_bits, NULL, NULL);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
