/* The policy for userdata (image/userdata.h): one table of objects, and for each what an
 * image, a thread and a pseudo-process say about it. Then the hooks. */
#include "image/objects.h"
#include "image/userdata.h"

#include "arena.h"
#include "unit/unit.h"
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>

static struct arena *arena;
static void *elsewhere; /* memory from malloc */
static int a_variable;

static int own_gc(lua_State *L) {
  (void)L;
  return 0;
}

static lua_State *state_new(void) {
  arena = arena_new(7);
  lua_State *L = lua_newstate(arena_allocate, arena);
  assert_non_null(L);
  luaL_openlibs(L);
  return L;
}
static void state_end(lua_State *L) {
  lua_close(L);
  assert_int_equal(arena_nblocks(arena), 0);
  arena_free(arena);
}

/* ---- the table ---- */

enum gc { NO_GC, GC_OF_LUA, GC_OWN };
enum word { ZERO, NUMBER, DOUBLE, OF_MALLOC, OF_THIS_PROGRAM, OF_LUA, UNMAPPED };
enum answer { YES, NO };
#define HOOK 2 /* yes, and __clone is called */

static const char finaliser[] = "it has a finaliser";
static const char memory[] = "memory outside";
static const char open_file[] = "an open file";
static const char is_open[] = "it is open";

static const struct object {
  const char *type; /* NULL: no metatable */
  enum gc gc;
  int clone;
  enum word word; /* the second one; */
  int first;      /* the first int */
  int answers[USERDATA_USES];
  const char *why;
  int nvalues;
} objects[] = {
    /*                                             image, thread, pseudo */
    {NULL, NO_GC, 0, ZERO, 0, {YES, YES, YES}, "", 0},
    {NULL, NO_GC, 0, ZERO, 0, {YES, YES, YES}, "", 3},
    {NULL, NO_GC, 0, NUMBER, 0, {YES, YES, YES}, "", 0},
    {NULL, NO_GC, 0, DOUBLE, 0, {YES, YES, YES}, "", 0},
    {NULL, NO_GC, 0, OF_LUA, 0, {YES, YES, YES}, "", 0},
    {NULL, NO_GC, 0, OF_THIS_PROGRAM, 0, {YES, YES, YES}, "", 0},
    {NULL, NO_GC, 0, UNMAPPED, 0, {YES, YES, YES}, "", 0},
    {NULL, NO_GC, 0, OF_MALLOC, 0, {NO, NO, NO}, memory, 0},
    {NULL, NO_GC, 0, OF_MALLOC, 0, {NO, NO, NO}, memory, 2},
    {"x", NO_GC, 0, ZERO, 0, {YES, YES, YES}, "", 0},
    {"x", NO_GC, 0, OF_MALLOC, 0, {NO, NO, NO}, memory, 0},
    {"x", NO_GC, 1, OF_MALLOC, 0, {HOOK, HOOK, HOOK}, "", 0},
    {"x", NO_GC, 1, ZERO, 0, {HOOK, HOOK, HOOK}, "", 0},
    {"x", NO_GC, 1, ZERO, 0, {HOOK, HOOK, HOOK}, "", 5},
    {"x", GC_OF_LUA, 0, ZERO, 0, {NO, NO, NO}, finaliser, 0},
    {"x", GC_OF_LUA, 0, OF_MALLOC, 0, {NO, NO, NO}, finaliser, 0},
    {"x", GC_OF_LUA, 1, OF_MALLOC, 0, {HOOK, HOOK, HOOK}, "", 1},
    {"x", GC_OWN, 0, ZERO, 0, {YES, YES, YES}, "", 0},
    {"x", GC_OWN, 0, OF_MALLOC, 0, {NO, NO, NO}, memory, 0},
    /* what is known: the finaliser and unset words do not matter, what is open does */
    {"lpeg-pattern", GC_OF_LUA, 0, OF_MALLOC, 0, {YES, YES, YES}, "", 0},
    {"lpeg-pattern", GC_OF_LUA, 1, ZERO, 0, {HOOK, HOOK, HOOK}, "", 1},
    {"_UBOX*", GC_OF_LUA, 0, ZERO, 0, {YES, YES, YES}, "", 0},
    {"select{able}", GC_OF_LUA, 0, ZERO, 0, {YES, YES, YES}, "", 0},
    {"tcp{master}", GC_OF_LUA, 0, OF_MALLOC, 7, {NO, YES, YES}, is_open, 0},
    {"tcp{client}", GC_OF_LUA, 0, ZERO, 0, {NO, YES, YES}, is_open, 0},
    {"tcp{client}", GC_OF_LUA, 0, OF_MALLOC, -1, {YES, YES, YES}, "", 0},
    {"tcp{server}", GC_OF_LUA, 1, ZERO, 7, {NO, HOOK, HOOK}, is_open, 0},
    {"tcp{server}", GC_OF_LUA, 1, ZERO, -1, {HOOK, HOOK, HOOK}, "", 0},
    {"udp{connected}", GC_OF_LUA, 0, ZERO, 7, {NO, YES, YES}, is_open, 0},
    {"udp{unconnected}", GC_OF_LUA, 0, ZERO, -1, {YES, YES, YES}, "", 0},
    {"unix{client}", GC_OF_LUA, 0, ZERO, 7, {NO, YES, YES}, is_open, 0},
    {"unixstream{client}", GC_OF_LUA, 0, ZERO, 7, {NO, YES, YES}, is_open, 0},
    {"unixdgram{connected}", GC_OF_LUA, 0, ZERO, 7, {NO, YES, YES}, is_open, 0},
    {"serial{client}", GC_OF_LUA, 0, ZERO, 7, {NO, YES, YES}, is_open, 0},
    {"directory metatable", GC_OF_LUA, 0, OF_MALLOC, 0, {NO, NO, NO}, is_open, 0},
    {"directory metatable", GC_OF_LUA, 0, OF_MALLOC, 1, {YES, YES, YES}, "", 0},
    {"SQLite3 environment", GC_OF_LUA, 0, ZERO, 0, {YES, YES, YES}, "", 0},
    {"SQLite3 connection", GC_OF_LUA, 0, OF_MALLOC, 0, {NO, NO, NO}, is_open, 0},
    {"SQLite3 connection", GC_OF_LUA, 0, ZERO, 1, {YES, YES, YES}, "", 0},
    {"SQLite3 cursor", GC_OF_LUA, 0, OF_MALLOC, 0, {NO, NO, NO}, is_open, 0},
};

static void *word_of(lua_State *L, enum word word) {
  const double number = -1.5;
  uint64_t bits;
  memcpy(&bits, &number, sizeof bits);
  switch (word) {
  case ZERO:
    return NULL;
  case NUMBER:
    return (void *)(uintptr_t)65535;
  case DOUBLE:
    return (void *)(uintptr_t)bits;
  case OF_MALLOC:
    return elsewhere;
  case OF_THIS_PROGRAM:
    return &a_variable;
  case OF_LUA:
    return L;
  default:
    return (void *)(uintptr_t)0x10000; /* below what the system gives anybody */
  }
}

static void set_metatable(lua_State *L, const struct object *o) {
  if (!luaL_newmetatable(L, o->type))
    fail();
  if (o->gc == GC_OWN)
    lua_pushcfunction(L, own_gc);
  else if (luaL_dostring(L, "return function() end"))
    fail();
  if (o->gc != NO_GC)
    lua_setfield(L, -2, "__gc");
  else
    lua_pop(L, 1);
  lua_pushboolean(L, 1);
  if (o->clone)
    lua_setfield(L, -2, "__clone");
  else
    lua_pop(L, 1);
  lua_setmetatable(L, -2);
}

static void *make(lua_State *L, const struct object *o) {
  struct {
    int first, second;
    void *word;
  } *u = lua_newuserdatauv(L, sizeof *u, o->nvalues);
  memset(u, 0, sizeof *u);
  u->first = o->first;
  u->word = word_of(L, o->word);
  if (o->type)
    set_metatable(L, o);
  return u;
}

struct looked {
  struct userdata_question q;
  struct userdata_list list;
  struct userdata_refusal refusal;
  int r;
};

static int l_look(lua_State *L) {
  struct looked *l = lua_touserdata(L, 1);
  l->r = userdata_look(L, &l->q, &l->list, &l->refusal);
  return 0;
}

static struct looked look(lua_State *L, enum userdata_use use) {
  struct looked l = {.q = {.use = use}};
  l.q.base = arena_base(arena, &l.q.nbytes);
  lua_pushcfunction(L, l_look);
  lua_pushlightuserdata(L, &l);
  assert_int_equal(lua_pcall(L, 1, 0, 0), LUA_OK);
  return l;
}

static void test_each_object_and_each_use_has_its_answer(void **state) {
  elsewhere = malloc(100);
  for (size_t i = 0; i < COUNT(objects); i++)
    for (int use = 0; use < USERDATA_USES; use++) {
      const struct object *o = &objects[i];
      lua_State *L = state_new();
      void *contents = make(L, o);
      struct looked l = look(L, (enum userdata_use)use);
      int answer = o->answers[use];
      if (l.r != (answer == NO ? -EPERM : 0) || l.list.nhooks != (answer == HOOK))
        fail_msg("row %zu (%s), use %d: %d", i, o->type ? o->type : "raw", use, l.r);
      if (answer == NO) {
        assert_ptr_equal(objects_contents(l.refusal.object), contents);
        assert_non_null(strstr(l.refusal.why, o->why));
      } else if (answer == HOOK) {
        assert_ptr_equal(objects_contents((char *)(uintptr_t)l.q.base + l.list.hooks[0]),
                         contents);
      }
      userdata_free(&l.list);
      lua_settop(L, 0);
      state_end(L);
    }
  free(elsewhere);
}

static void test_files_are_closed_or_the_standard_streams(void **state) {
  static const struct {
    const char *chunk;
    int answers[USERDATA_USES];
  } cases[] = {
      {"f = io.stdout", {YES, YES, YES}},
      {"f = assert(io.tmpfile()) f:close()", {YES, YES, YES}},
      {"f = assert(io.tmpfile())", {NO, NO, YES}},
      {"t = setmetatable({}, {__mode = 'k'}) f = io.tmpfile() t[f] = 1", {NO, NO, YES}}};
  for (size_t i = 0; i < COUNT(cases); i++)
    for (int use = 0; use < USERDATA_USES; use++) {
      lua_State *L = state_new();
      assert_int_equal(luaL_dostring(L, cases[i].chunk), LUA_OK);
      struct looked l = look(L, (enum userdata_use)use);
      assert_int_equal(l.r, cases[i].answers[use] == NO ? -EPERM : 0);
      if (l.r)
        assert_non_null(strstr(l.refusal.why, open_file));
      userdata_free(&l.list);
      state_end(L);
    }
}

static enum userdata_socket socket_by_first(lua_State *L, int index) {
  const int *first = lua_touserdata(L, index);
  if (luaL_getmetafield(L, index, "is_socket") == LUA_TNIL)
    return USERDATA_NO_SOCKET;
  lua_pop(L, 1);
  return *first >= 0 ? USERDATA_SOCKET_OPEN : USERDATA_SOCKET_CLOSED;
}

static void test_sockets_are_renewed_in_threads_and_closed_elsewhere(void **state) {
  for (int first = -1; first <= 7; first += 8)
    for (int use = 0; use < USERDATA_USES; use++) {
      struct object o = {.type = "s", .gc = GC_OWN, .first = first};
      lua_State *L = state_new();
      make(L, &o);
      lua_getmetatable(L, -1);
      lua_pushboolean(L, 1);
      lua_setfield(L, -2, "is_socket");
      struct looked l = {.q = {.use = (enum userdata_use)use, .socket = socket_by_first}};
      l.q.base = arena_base(arena, &l.q.nbytes);
      l.r = userdata_look(L, &l.q, &l.list, &l.refusal);
      assert_int_equal(l.r, first < 0 || use == USERDATA_THREAD ? 0 : -EPERM);
      assert_int_equal(l.list.nsockets, use == USERDATA_THREAD);
      userdata_free(&l.list);
      lua_settop(L, 0);
      state_end(L);
    }
}

/* What is garbage, or waits for its finaliser, and what a collection finds dead. */
static void
test_what_waits_for_its_finaliser_counts_and_what_is_dead_does_not(void **state) {
  struct object o = {.type = "x", .gc = GC_OF_LUA};
  lua_State *L = state_new();
  lua_gc(L, LUA_GCSTOP);
  make(L, &o);
  lua_settop(L, 0);
  struct looked l = look(L, USERDATA_IMAGE);
  assert_int_equal(l.r, -EPERM); /* garbage: it was not collected yet */
  lua_gc(L, LUA_GCCOLLECT);      /* it has been finalised, and is not free yet */
  l = look(L, USERDATA_IMAGE);
  assert_int_equal(l.r, 0);
  userdata_free(&l.list);
  for (int steps = 0; steps < 300; steps++) { /* wherever a cycle stands */
    assert_int_equal(
        luaL_dostring(L, "local t = setmetatable({}, {__mode = 'k'}) t[io.stdin] = {}"),
        LUA_OK);
    lua_newuserdatauv(L, 8, 0);
    lua_newtable(L);
    lua_setmetatable(L, -2);
    lua_settop(L, 0);
    lua_gc(L, LUA_GCSTEP, 0);
    l = look(L, USERDATA_THREAD);
    assert_int_equal(l.r, 0);
    userdata_free(&l.list);
  }
  assert_int_equal(lua_gc(L, LUA_GCISRUNNING), 0); /* as it was */
  lua_gc(L, LUA_GCRESTART);
  l = look(L, USERDATA_THREAD);
  userdata_free(&l.list);
  assert_int_equal(lua_gc(L, LUA_GCISRUNNING), 1);
  state_end(L);
}

/* ---- hooks ---- */

static const char HOOKS[] =
    "local meta = {__gc = function() end}"
    "called, n = {}, 0 "
    "meta.__clone = function(o) n = n + 1 called[o] = (called[o] or 0) + 1 "
    "  kept = nil upvalue(true) list = nil collectgarbage() collectgarbage() end "
    "local make = ... "
    "local function new() return debug.setmetatable(make(), meta) end "
    "kept = new() list = {new(), [new()] = 'key'} weak = setmetatable({new()}, {__mode = "
    "'v'})"
    "strong = weak[1] other = new() debug.setuservalue(other, new(), 1) "
    "local up = new() function upvalue(drop) if drop then up = nil end return up end "
    "co = coroutine.wrap(function() local inside = new() coroutine.yield() return inside "
    "end)"
    "co() setmetatable(called, {__mode = 'k'})";

static int l_new(lua_State *L) {
  lua_newuserdatauv(L, 16, 1);
  return 1;
}

static int l_hooks(lua_State *L) {
  struct looked *l = lua_touserdata(L, 1);
  userdata_push_hooks(L, (char *)(uintptr_t)l->q.base, l->list.hooks, l->list.nhooks);
  for (size_t i = 0; i < l->list.nhooks; i++)
    userdata_call_hook(L, 2, i);
  return 0;
}

/* Each is called once, although the first drops what others are held by. */
static void test_each_hook_is_called_once_wherever_the_object_is(void **state) {
  for (int use = 0; use < USERDATA_USES; use++) {
    lua_State *L = state_new();
    assert_int_equal(luaL_loadstring(L, HOOKS), LUA_OK);
    lua_pushcfunction(L, l_new);
    if (lua_pcall(L, 1, 0, 0))
      fail_msg("%s", lua_tostring(L, -1));
    struct looked l = look(L, (enum userdata_use)use);
    assert_int_equal(l.r, 0);
    assert_int_equal(l.list.nhooks, 8);
    lua_pushcfunction(L, l_hooks);
    lua_pushlightuserdata(L, &l);
    if (lua_pcall(L, 1, 0, 0))
      fail_msg("%s", lua_tostring(L, -1));
    assert_int_equal(
        luaL_dostring(L,
                      "assert(n == 8) for o, k in pairs(called) do assert(k == 1) end"),
        LUA_OK);
    userdata_free(&l.list);
    state_end(L);
  }
}

static void
test_a_hook_that_is_gone_is_not_called_and_one_that_raises_stops(void **state) {
  lua_State *L = state_new();
  assert_int_equal(luaL_loadstring(L,
                                   "meta, n = {}, 0 local make = ... "
                                   "a, b = make(), make() debug.setmetatable(a, meta)"
                                   "debug.setmetatable(b, meta) function meta.__clone(o)"
                                   "  n = n + 1 meta.__clone = other end"),
                   LUA_OK);
  lua_pushcfunction(L, l_new);
  assert_int_equal(lua_pcall(L, 1, 0, 0), LUA_OK);
  struct looked l = look(L, USERDATA_THREAD);
  assert_int_equal(l.list.nhooks, 2);
  lua_pushcfunction(L, l_hooks);
  lua_pushlightuserdata(L, &l);
  assert_int_equal(lua_pcall(L, 1, 0, 0), LUA_OK);
  assert_int_equal(luaL_dostring(L, "assert(n == 1) meta.__clone = 'no function'"),
                   LUA_OK);
  lua_pushcfunction(L, l_hooks);
  lua_pushlightuserdata(L, &l);
  assert_int_equal(lua_pcall(L, 1, 0, 0), LUA_ERRRUN);
  assert_non_null(strstr(lua_tostring(L, -1), "attempt to call a string value"));
  lua_settop(L, 0);
  userdata_free(&l.list);
  state_end(L);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_each_object_and_each_use_has_its_answer),
      cmocka_unit_test(test_files_are_closed_or_the_standard_streams),
      cmocka_unit_test(test_sockets_are_renewed_in_threads_and_closed_elsewhere),
      cmocka_unit_test(
          test_what_waits_for_its_finaliser_counts_and_what_is_dead_does_not),
      cmocka_unit_test(test_each_hook_is_called_once_wherever_the_object_is),
      cmocka_unit_test(test_a_hook_that_is_gone_is_not_called_and_one_that_raises_stops),
  };
  if (sizeof(void *) < 8)
    return 0;
  return cmocka_run_group_tests(tests, NULL, NULL);
}
