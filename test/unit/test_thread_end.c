/* The signal that ends a clone in a thread (template/lua/thread_end.h): when it touches the
 * interpreter's memory, and when it may not. */
#include "template/lua/thread_end.h"

#include "unit/unit.h"
#include "wire/life.h"

#include <lauxlib.h>
#include <signal.h>
#include <unistd.h>

enum { NUMBER = 7 };

static jmp_buf left;
static lua_State *states[8]; /* some are left in the middle, and can't be closed */
static int nstates;

static void leave(void) {
  thread_end_over();
  longjmp(left, 1);
}

static void send_end(int number) {
  union sigval value = {.sival_int = number};
  assert_int_equal(sigqueue(getpid(), THREAD_END_SIGNAL, value), 0);
}

static lua_State *begin(void) {
  lua_State *L = luaL_newstate();
  assert_non_null(L);
  states[nstates++] = L;
  thread_end_prepare();
  thread_end_begin(L, NUMBER, leave);
  return L;
}

static int is_left(lua_State *L) {
  if (setjmp(left) == 0) {
    (void)luaL_dostring(L, "local n = 0 for i = 1, 10 do n = n + i end");
    return 0;
  }
  return 1;
}

static void test_at_once(void **state) {
  lua_State *L = begin();
  (void)state;
  send_end(NUMBER + 1); /* another's */
  assert_null(lua_gethook(L));
  assert_false(is_left(L));
  send_end(NUMBER);
  assert_non_null(lua_gethook(L));
  assert_true(is_left(L));
}

static void test_held(void **state) {
  lua_State *L = begin();
  (void)state;
  thread_end_hold();
  send_end(NUMBER);
  assert_null(lua_gethook(L));
  thread_end_let();
  assert_non_null(lua_gethook(L));
  assert_true(is_left(L));
}

static void test_nothing_held(void **state) {
  lua_State *L = begin();
  (void)state;
  thread_end_hold();
  thread_end_let();
  assert_null(lua_gethook(L));
  assert_false(is_left(L));
  thread_end_over();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_nothing_held),
      cmocka_unit_test(test_at_once),
      cmocka_unit_test(test_held),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
