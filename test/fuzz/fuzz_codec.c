/* libFuzzer: arbitrary bytes as a message. One process, one Lua state that is renewed now
 * and then. What must hold: no crash, the stack as promised, memory within the budget,
 * and what was read can be packed and is then read as the same number of values. Two
 * classes are registered: "p", and "e", whose objects can't be read. */
#undef NDEBUG /* its asserts are the test */
#include "codec/classes.h"
#include "codec/serialiser.h"
#include <assert.h>
#include <lauxlib.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MEMORY_MAX = 64 << 20, ROUNDS = 10000 };

static size_t used;

static void *bounded_alloc(void *ud, void *block, size_t osize, size_t nsize) {
  (void)ud;
  used -= block ? osize : 0;
  used += nsize;
  assert(used < MEMORY_MAX);
  if (nsize == 0) {
    free(block);
    return NULL;
  }
  return realloc(block, nsize);
}

static int pack_object(lua_State *L) { /* 1: the object */
  lua_rawgeti(L, 1, 1);
  return 1;
}

static int unpack_object(lua_State *L) { /* 1: the value; upvalue: the class */
  lua_createtable(L, 1, 0);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_setmetatable(L, -2);
  return 1;
}

static int raise(lua_State *L) {
  return luaL_error(L, "not this one");
}

static void register_class(lua_State *L, const char *name, int is_readable) {
  lua_pushcfunction(L, classes_register);
  lua_pushstring(L, name);
  lua_newtable(L);
  lua_pushcfunction(L, pack_object);
  lua_pushvalue(L, -2);
  lua_pushcclosure(L, is_readable ? unpack_object : raise, 1);
  lua_call(L, 4, 0);
}

static lua_State *state(void) {
  static lua_State *L;
  static int rounds;
  if (L && ++rounds % ROUNDS == 0) {
    lua_close(L);
    L = NULL;
  }
  if (!L) {
    L = lua_newstate(bounded_alloc, NULL);
    assert(L);
    register_class(L, "p", 1);
    register_class(L, "e", 0);
  }
  return L;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const struct codec_limits limits = {.nodes = 1 << 16, .bytes = 8 << 20};
  lua_State *L = state();
  struct codec_error e;
  struct buf again;
  int n = codec_unpack(L, data, size, NULL, 0, &limits, &e);
  assert(lua_gettop(L) == (n > 0 ? n : 0));
  /* In steps it is the same, but that these limits are not the fuzzer's. */
  struct decoding d;
  struct serialiser msgpack;
  int top = lua_gettop(L), rc_steps;
  if (n >= 0) {
    serialiser_open(L, "msgpack", &msgpack);
    decoding_begin(L, &d, &msgpack, data, size, NULL, 0);
    while ((rc_steps = decoding_step(L, &d, 3)) == 1)
      ;
    assert(rc_steps == 0 && d.nvalues == n);
    lua_settop(L, top);
    buf_init(&again, (size_t)64 << 20);
    int rc = codec_pack(L, 1, n, "value", &again, NULL, &e);
    assert(rc == 0);
    lua_settop(L, 0);
    assert(codec_unpack(L, buf_peek(&again), buf_size(&again), NULL, 0, NULL, &e) == n);
    buf_deinit(&again);
  }
  lua_settop(L, 0);
  return 0;
}
