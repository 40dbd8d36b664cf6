/* Objects of classes between Lua and MessagePack: exact bytes, what a hostile message may
 * do, the memory of names, and strings that are lent instead of copied. */
#include "unit/unit.h"

#include "codec/classes.h"
#include "codec/codec.h"
#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>

/* Two classes: "p" is packed to the list of its x and y; "same" to its first item. */
static const char setup[] =
    "P, Same = {}, {}\n"
    "register('p', P, function(o) return {o.x, o.y} end,\n"
    "  function(v) return setmetatable({x = v[1], y = v[2]}, P) end)\n"
    "register('same', Same, function(o) return o[1] end,\n"
    "  function(v) return setmetatable({v}, Same) end)\n"
    "function p(x, y) return setmetatable({x = x, y = y}, P) end\n"
    "function same(v) return setmetatable({v}, Same) end\n";

static void open_classes(lua_State *L) {
  luaL_openlibs(L);
  lua_register(L, "register", classes_register);
  assert_int_equal(luaL_dostring(L, setup), LUA_OK);
}

static lua_State *new_state(void) {
  lua_State *L = luaL_newstate();
  assert_non_null(L);
  open_classes(L);
  return L;
}

static int values_of(lua_State *L, const char *text) {
  char chunk[512];
  lua_settop(L, 0);
  snprintf(chunk, sizeof chunk, "return %s", text);
  if (luaL_dostring(L, chunk) != LUA_OK)
    fail_msg("%s: %s", text, lua_tostring(L, -1));
  return lua_gettop(L);
}

static void test_objects_are_these_bytes(void **state) {
  static const struct {
    const char *text;
    size_t n;
    const char *bytes;
  } rows[] = {
      {"p(1, 2)", 12, "\x91\xc9\0\0\0\x05\x02\xa1p\x92\x01\x02"},
      {"same(nil)", 13, "\x91\xc9\0\0\0\x06\x02\xa4same\xc0"},
      {"{same(p(1, 2))}, 7", 25,
       "\x92\x91\xc9\0\0\0\x10\x02\xa4same\xc9\0\0\0\x05\x02\xa1p\x92\x01\x02\x07"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    lua_State *L = new_state();
    struct codec_error e;
    struct buf b;
    buf_init(&b, 1 << 20);
    int n = values_of(L, rows[i].text);
    assert_int_equal(codec_pack(L, 1, n, "argument", &b, NULL, &e), 0);
    assert_int_equal(lua_gettop(L), n);
    assert_int_equal(buf_size(&b), rows[i].n);
    assert_memory_equal(buf_peek(&b), rows[i].bytes, rows[i].n);
    buf_deinit(&b);
    lua_close(L);
  }
}

static void test_every_form_of_an_extension_is_read(void **state) {
  static const struct {
    size_t n;
    const char *bytes;
  } rows[] = {
      {9, "\x91\xc7\x05\x02\xa1p\x92\x01\x02"},
      {10, "\x91\xc8\0\x05\x02\xa1p\x92\x01\x02"},
      {12, "\x91\xc9\0\0\0\x05\x02\xa1p\x92\x01\x02"},
      {10, "\x91\xc7\x06\x02\xd9\x01p\x92\x01\x02"},
  };
  lua_State *L = new_state();
  for (size_t i = 0; i < 4; i++) {
    struct codec_error e;
    lua_settop(L, 0);
    assert_int_equal(codec_unpack(L, rows[i].bytes, rows[i].n, NULL, 0, NULL, &e), 1);
    lua_setglobal(L, "got");
    assert_int_equal(
        luaL_dostring(L, "assert(getmetatable(got) == P and got.x == 1 and got.y == 2)"),
        LUA_OK);
  }
  lua_close(L);
}

static void test_malformed_objects_are_refused(void **state) {
  static const struct {
    size_t n;
    const char *bytes;
  } rows[] = {
      {3, "\x91\xd4\x02"},                           /* nothing of it */
      {4, "\x91\xd4\x02\xc0"},                       /* a value, but no name */
      {4, "\x91\xd4\x02\xa0"},                       /* an empty name */
      {5, "\x91\xd5\x02\xd9\x00"},                   /* the same */
      {5, "\x91\xd5\x02\xa1p"},                      /* no value */
      {5, "\x91\xd5\x02\xa2p"},                      /* a name that is cut short */
      {9, "\x91\xc7\x05\x02\xda\x00\x01p\x01"},      /* a name in another form */
      {9, "\x91\xc7\x06\x02\xa1p\x92\x01\x02"},      /* longer than the message */
      {9, "\x91\xc7\x04\x02\xa1p\x92\x01\x02"},      /* shorter than its value */
      {10, "\x92\xc7\x06\x02\xa1p\x92\x01\x02\x03"}, /* longer than its value */
      {10, "\x91\xc9\xff\xff\xff\xff\x02\xa1p\x01"}, /* a claim */
      {12,
       "\x91\xc7\x08\x02\xa1p\xc7\x05\x02\xa1p\x01\x02"}, /* the inner one is longer */
      {7, "\x91\xc7\x03\x03\xa1p\x01"},                   /* another extension */
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    lua_State *L = new_state();
    struct codec_error e;
    int rc = codec_unpack(L, rows[i].bytes, rows[i].n, NULL, 0, NULL, &e);
    if (rc != -EPROTO)
      fail_msg("row %d: %d", (int)i, rc);
    assert_int_equal(lua_gettop(L), 0);
    lua_close(L);
  }
}

static void test_unknown_classes_give_their_value_or_are_refused(void **state) {
  static const char bytes[] = "\x92\x05\x81\xa1k\xc7\x07\x02\xa3new\x92\x01\x02";
  static const struct codec_limits strict = {.strict_classes = 1, .what = "result"};
  lua_State *L = new_state();
  struct codec_error e;
  assert_int_equal(codec_unpack(L, bytes, sizeof bytes - 1, NULL, 0, NULL, &e), 2);
  lua_getfield(L, 2, "k");
  assert_int_equal(lua_rawlen(L, -1), 2);
  assert_false(lua_getmetatable(L, -1));
  lua_settop(L, 0);
  assert_int_equal(codec_unpack(L, bytes, sizeof bytes - 1, NULL, 0, &strict, &e),
                   -EINVAL);
  assert_string_equal(e.text,
                      "result 2.k: the class 'new' is not registered here (option "
                      "strict_classes)");
  lua_close(L);
}

static void test_names_that_come_are_kept_nowhere(void **state) {
  lua_State *L = new_state();
  int before = 0;
  for (int round = 0; round < 4; round++) {
    for (int i = 0; i < 20000; i++) {
      char bytes[64];
      struct codec_error e;
      int n =
          snprintf(bytes, sizeof bytes, "\x91\xc7\x0c\x02\xaa%010d", round * 20000 + i);
      bytes[n++] = 1;
      assert_int_equal(codec_unpack(L, bytes, (size_t)n, NULL, 0, NULL, &e), 1);
      lua_settop(L, 0);
    }
    lua_gc(L, LUA_GCCOLLECT);
    lua_gc(L, LUA_GCCOLLECT);
    int now = lua_gc(L, LUA_GCCOUNT);
    assert_true(before == 0 || now <= before + 1);
    before = now;
  }
  lua_close(L);
}

static void test_objects_count_as_tables_do(void **state) {
  static const struct codec_limits few = {.objects = 2};
  lua_State *L = new_state();
  struct codec_error e;
  assert_int_equal(codec_unpack(L, "\x91\xd6\x02\xa1p\x91\x01", 7, NULL, 0, &few, &e), 1);
  lua_settop(L, 0);
  assert_int_equal(
      codec_unpack(L, "\x91\xc7\x05\x02\xa1p\x91\xa1x", 9, NULL, 0, &few, &e), -E2BIG);
  /* 128 deep, and one more. */
  unsigned char deep[6 * 129 + 8];
  for (int depth = 128; depth <= 129; depth++) {
    size_t n = 0;
    deep[n++] = 0x91;
    for (int i = depth; i > 0; i--) {
      size_t length = (size_t)i * 6 - 6 + 3; /* name and what is inside of it */
      deep[n++] = 0xc8;
      deep[n++] = (unsigned char)(length >> 8);
      deep[n++] = (unsigned char)length;
      deep[n++] = 2;
      deep[n++] = 0xa1;
      deep[n++] = 'q';
    }
    deep[n++] = 1;
    lua_settop(L, 0);
    assert_int_equal(codec_unpack(L, deep, n, NULL, 0, NULL, &e),
                     depth == 128 ? 1 : -E2BIG);
  }
  lua_close(L);
}

/* ---- a lack of memory ---- */

static size_t allocations_left;

static void *scarce_alloc(void *ud, void *block, size_t osize, size_t nsize) {
  (void)ud, (void)osize;
  if (nsize == 0) {
    free(block);
    return NULL;
  }
  if (!block && allocations_left-- == 0) {
    allocations_left = 0;
    return NULL;
  }
  return realloc(block, nsize);
}

static int pack_and_unpack(lua_State *L) {
  struct buf *b = lua_touserdata(L, 1);
  struct codec_error e;
  buf_consume(b, buf_size(b));
  lua_settop(L, 0);
  lua_getglobal(L, "value");
  if (codec_pack(L, 1, 1, "argument", b, NULL, &e) < 0)
    return luaL_error(L, "%s", e.text);
  lua_settop(L, 0);
  if (codec_unpack(L, buf_peek(b), buf_size(b), NULL, 0, NULL, &e) < 0)
    return luaL_error(L, "%s", e.text);
  return 0;
}

static void test_a_lack_of_memory_is_an_error(void **state) {
  allocations_left = SIZE_MAX;
  lua_State *L = lua_newstate(scarce_alloc, NULL);
  struct buf b;
  int status = LUA_ERRRUN, rounds = 0;
  buf_init(&b, 1 << 20);
  open_classes(L);
  assert_int_equal(luaL_dostring(L, "value = {p(1, p(2, same 'x')), {same {p(3, 4)}}}"),
                   LUA_OK);
  for (size_t n = 0; status != LUA_OK; n++, rounds++) {
    lua_settop(L, 0);
    assert_true(n < 1000);
    lua_pushcfunction(L, pack_and_unpack);
    lua_pushlightuserdata(L, &b);
    allocations_left = n;
    status = lua_pcall(L, 1, 0, 0);
    allocations_left = SIZE_MAX;
    assert_false(classes_at_work());
  }
  assert_true(rounds > 10);
  buf_deinit(&b);
  lua_close(L);
}

/* ---- lending ---- */

static void put_together(const struct buf *b, const struct codec_lending *l,
                         struct buf *out) {
  struct iovec pieces[16];
  assert_true(lent_pieces(l->n) <= 16);
  size_t n = lent_cut(buf_peek(b), buf_size(b), l->lent, l->n, pieces);
  for (size_t i = 0; i < n; i++) {
    assert_true(pieces[i].iov_len > 0);
    buf_put(out, pieces[i].iov_base, pieces[i].iov_len);
  }
}

/* With and without lending a message has the same bytes. */
static void test_lent_strings_are_at_their_places(void **state) {
  static const char *const texts[] = {
      "('x'):rep(100)",
      "1, ('x'):rep(100), 2",
      "('x'):rep(99), ('y'):rep(100), {('z'):rep(200), ('a'):rep(300)}",
      "{[('k'):rep(100)] = p(('x'):rep(100), same(('y'):rep(101)))}",
      "('a'):rep(100), ('b'):rep(100), ('c'):rep(100), ('d'):rep(100), ('e'):rep(100)",
  };
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    lua_State *L = new_state();
    struct lent lent[4];
    struct codec_error e;
    struct buf plain, b, whole;
    int n = values_of(L, texts[i]);
    lua_pushnil(L);
    struct codec_lending l = {.least = 100, .anchor = n + 1, .lent = lent, .max = 4};
    buf_init(&plain, 1 << 20);
    buf_init(&b, 1 << 20);
    buf_init(&whole, 1 << 20);
    assert_int_equal(codec_pack(L, 1, n, "argument", &plain, NULL, &e), 0);
    assert_int_equal(codec_pack_lending(L, 1, n, "argument", &b, NULL, &l, &e), 0);
    assert_int_equal(lua_gettop(L), n + 1);
    assert_true(l.n > 0);
    assert_int_equal(lent_bytes(l.lent, l.n), l.bytes);
    assert_int_equal(lua_rawlen(L, n + 1), l.n);
    lua_insert(L, 1); /* nothing but the anchor keeps what was packed */
    lua_settop(L, 1);
    lua_gc(L, LUA_GCCOLLECT);
    put_together(&b, &l, &whole);
    assert_int_equal(buf_size(&whole), buf_size(&plain));
    assert_memory_equal(buf_peek(&whole), buf_peek(&plain), buf_size(&plain));
    buf_deinit(&plain);
    buf_deinit(&b);
    buf_deinit(&whole);
    lua_close(L);
  }
}

static void test_the_limit_counts_what_is_lent(void **state) {
  lua_State *L = new_state();
  for (size_t max = 1; max < 230; max++) {
    struct lent lent[4];
    struct codec_error e;
    struct buf b;
    int n = values_of(L, "{('x'):rep(100), ('y'):rep(100), 1}");
    lua_pushnil(L);
    struct codec_lending l = {.least = 100, .anchor = n + 1, .lent = lent, .max = 4};
    buf_init(&b, max);
    int rc = codec_pack_lending(L, 1, n, "argument", &b, NULL, &l, &e);
    assert_int_equal(rc, max < 2 + 2 * 102 + 1 ? -E2BIG : 0);
    assert_true(buf_size(&b) + l.bytes <= max);
    buf_deinit(&b);
  }
  lua_close(L);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_objects_are_these_bytes),
      cmocka_unit_test(test_every_form_of_an_extension_is_read),
      cmocka_unit_test(test_malformed_objects_are_refused),
      cmocka_unit_test(test_unknown_classes_give_their_value_or_are_refused),
      cmocka_unit_test(test_names_that_come_are_kept_nowhere),
      cmocka_unit_test(test_objects_count_as_tables_do),
      cmocka_unit_test(test_a_lack_of_memory_is_an_error),
      cmocka_unit_test(test_lent_strings_are_at_their_places),
      cmocka_unit_test(test_the_limit_counts_what_is_lent),
  };
  return cmocka_run_group_tests_name("classes", tests, NULL, NULL);
}
