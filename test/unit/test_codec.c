/* The codec between the Lua stack and MessagePack: exact values, exact bytes, agreement
 * with msgpack-c's own reader and writer, and what a hostile message may cost. */
#include "unit/unit.h"

#include "codec/serialiser.h"
#include "os/fd.h"
#include "socket/socket_module.h"

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct serialiser msgpack, strings; /* have nothing of a state's */

static lua_State *new_state(void) {
  lua_State *L = luaL_newstate();
  assert_non_null(L);
  luaL_openlibs(L);
  socket_prepare(L);
  serialiser_open(L, "msgpack", &msgpack);
  serialiser_open(L, "string", &strings);
  return L;
}

/* Runs "return ..." and leaves its values: how many. */
static int values_of(lua_State *L, const char *text) {
  char chunk[512];
  lua_settop(L, 0);
  snprintf(chunk, sizeof chunk, "return %s", text);
  if (luaL_dostring(L, chunk) != LUA_OK)
    fail_msg("%s: %s", text, lua_tostring(L, -1));
  return lua_gettop(L);
}

static int pack(lua_State *L, int n, struct buf *out, struct codec_error *e) {
  buf_init(out, (size_t)1 << 30);
  return codec_pack(L, 1, n, "argument", out, NULL, e);
}

static int unpack(lua_State *L, const void *data, size_t size, struct codec_error *e) {
  return codec_unpack(L, data, size, NULL, 0, NULL, e);
}

/* The bytes of the values, as hexadecimal digits. */
static void expect_bytes(const char *text, const char *hex) {
  lua_State *L = new_state();
  struct codec_error e;
  struct buf b;
  char got[1024];
  int n = values_of(L, text);
  assert_int_equal(pack(L, n, &b, &e), 0);
  got[0] = 0;
  for (size_t i = 0; i < buf_size(&b) && i < 500; i++)
    snprintf(got + 2 * i, 3, "%02x", buf_peek(&b)[i]);
  if (strcmp(got, hex) != 0)
    fail_msg("%s: expected %s, got %s", text, hex, got);
  buf_deinit(&b);
  lua_close(L);
}

static void test_bytes_are_as_written_down(void **state) {
  static const struct {
    const char *text, *hex;
  } rows[] = {
      {"", "90"},
      {"nil", "91c0"},
      {"nil, nil", "92c0c0"},
      {"true, false", "92c3c2"},
      {"1, 1.0", "9201cb3ff0000000000000"},
      {"-0.0", "91cb8000000000000000"},
      {"1/0, -1/0", "92cb7ff0000000000000cbfff0000000000000"},
      {"127, 128, -32, -33", "947fcc80e0d0df"},
      {"math.maxinteger", "91cf7fffffffffffffff"},
      {"math.mininteger", "91d38000000000000000"},
      {"2^53 + 1, (1 << 53) + 1", "92cb4340000000000000cf0020000000000001"},
      {"'a\\0\\xff'", "91a36100ff"},
      {"''", "91a0"},
      {"{}", "9190"},
      {"{1, 2, 3}", "9193010203"},
      {"{[1] = 1, [3] = 3}", "918201010303"},
      {"{[0] = 0}", "91810000"},
      {"{[-1] = 0}", "9181ff00"},
      {"{[1.5] = true}", "9181cb3ff8000000000000c3"},
      {"{x = {}}", "9181a17890"},
      {"{[true] = false}", "9181c3c2"},
      {"{[{}] = 1}", "91819001"},
  };
  (void)state;
  for (size_t i = 0; i < COUNT(rows); i++)
    expect_bytes(rows[i].text, rows[i].hex);
}

/* Lua's own comparison of what went in and what came out. */
static const char same[] =
    "local function same(a, b)\n"
    "  if math.type(a) ~= math.type(b) or type(a) ~= type(b) then return false end\n"
    "  if a ~= a then return b ~= b end\n"
    "  if type(a) ~= 'table' then return a == b and ('%q'):format(a) == ('%q'):format(b) "
    "end\n"
    "  local n, m = 0, 0\n"
    "  for k, v in pairs(a) do n = n + 1; if type(k) ~= 'table' and not same(v, b[k]) "
    "then "
    "return false end end\n"
    "  for _ in pairs(b) do m = m + 1 end\n"
    "  return n == m\n"
    "end\n"
    "local t = table.pack(...)\n"
    "for i = 1, t.n // 2 do\n"
    "  if not same(t[i], t[i + t.n // 2]) then return false end\n"
    "end\n"
    "return t.n % 2 == 0";

static void expect_round_trip(const char *text) {
  lua_State *L = new_state();
  struct codec_error e = {0};
  struct buf b;
  int n = values_of(L, text);
  assert_int_equal(pack(L, n, &b, &e), 0);
  assert_int_equal(luaL_loadstring(L, same), LUA_OK);
  lua_insert(L, 1);
  int m = unpack(L, buf_peek(&b), buf_size(&b), &e);
  if (m != n)
    fail_msg("%s: %d values became %d: %s", text, n, m, e.text);
  assert_int_equal(lua_pcall(L, 2 * n, 1, 0), LUA_OK);
  if (!lua_toboolean(L, -1))
    fail_msg("%s: came back different", text);
  buf_deinit(&b);
  lua_close(L);
}

static const char *const lively[] = {
    "",
    "nil",
    "1, nil, nil",
    "true, false",
    "0, -1, 127, 128, 255, 256, 65535, 65536",
    "-32, -33, -128, -129, -32768, -32769, 2^31, -2^31, 1 << 31, -(1 << 31), 1 << 32",
    "math.maxinteger, math.mininteger, (1 << 53) + 1, 2^53 + 1, -0.0, 0.0, 1.0, 1",
    "0/0, 1/0, -1/0, math.pi, 5e-324, 1.7976931348623157e308",
    "'', 'a', ('x'):rep(31), ('x'):rep(32), ('x'):rep(255), ('x'):rep(256)",
    "('x'):rep(65535), ('x'):rep(65536), ('\\0\\xff\\n'):rep(1000)",
    "{}, {{}}, {1, {2, {3}}}, {a = 1, b = {c = {}}}, {1, 2, nil, 4}, {nil, nil, 3}",
    "{[1] = 1, [2] = 2, x = 3}, {[1.5] = 1, [true] = 2, [false] = 3, [-7] = 4}",
    "{[math.maxinteger] = 1, [math.mininteger] = 2, [1/0] = 3}",
    "(function() local t = {} for i = 1, 70000 do t[i] = i end return t end)()",
    "(function() local t = {} for i = 1, 70000 do t['k' .. i] = i end return t end)()",
    "(function() local t = {} for i = 70000, 1, -1 do t[i] = i end return t end)()",
    "(function() local t = {} for i = 1, 127 do t = {t} end return t end)()",
};

static void test_values_come_back_as_they_were(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(lively); i++)
    expect_round_trip(lively[i]);
}

static void test_msgpack_c_reads_what_we_pack_and_packs_it_again(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(lively); i++) {
    lua_State *L = new_state();
    struct codec_error e;
    struct buf b;
    msgpack_unpacked object;
    msgpack_sbuffer again;
    size_t used = 0;
    assert_int_equal(pack(L, values_of(L, lively[i]), &b, &e), 0);
    if (strstr(lively[i], "127 do")) { /* deeper than its reader goes */
      buf_deinit(&b);
      lua_close(L);
      continue;
    }
    msgpack_unpacked_init(&object);
    msgpack_sbuffer_init(&again);
    assert_int_equal(
        msgpack_unpack_next(&object, (const char *)buf_peek(&b), buf_size(&b), &used),
        MSGPACK_UNPACK_SUCCESS);
    assert_int_equal(used, buf_size(&b));
    msgpack_packer packer;
    msgpack_packer_init(&packer, &again, msgpack_sbuffer_write);
    msgpack_pack_object(&packer, object.data);
    assert_int_equal(again.size, buf_size(&b));
    assert_memory_equal(again.data, buf_peek(&b), again.size);
    msgpack_sbuffer_destroy(&again);
    msgpack_unpacked_destroy(&object);
    buf_deinit(&b);
    lua_close(L);
  }
}

/* Random bytes: where msgpack-c reads a list, we read as many values, or say why not. */
static void test_our_reader_agrees_with_msgpack_c(void **state) {
  (void)state;
  srand(7);
  lua_State *L = new_state();
  int read = 0;
  for (int round = 0; round < 200000; round++) {
    unsigned char bytes[24];
    size_t n = 1 + (size_t)rand() % (sizeof bytes - 1), used = 0;
    for (size_t i = 0; i < n; i++) {
      bytes[i] =
          (unsigned char)(rand() % 3 ? rand() % 0x30 + 0x90 * (rand() % 2) : rand());
      if (bytes[i] == 0xdd || bytes[i] == 0xdf)
        bytes[i] = 0xdc; /* msgpack-c allocates what these claim: gigabytes */
    }
    bytes[0] = (unsigned char)(0x90 + rand() % 5);
    struct codec_error e;
    int ours = unpack(L, bytes, n, &e);
    msgpack_unpacked object;
    msgpack_unpacked_init(&object);
    int theirs = msgpack_unpack_next(&object, (const char *)bytes, n, &used) ==
                     MSGPACK_UNPACK_SUCCESS &&
                 used == n;
    if (ours >= 0) {
      read++;
      assert_true(theirs);
      assert_int_equal(object.data.via.array.size, ours);
    } else if (theirs && !strstr(e.text, "extension") && !strstr(e.text, "table key") &&
               !strstr(e.text, "range of Lua") && !strstr(e.text, "descriptor")) {
      fail_msg("only msgpack-c reads it: %s", e.text);
    }
    msgpack_unpacked_destroy(&object);
    assert_true(lua_gettop(L) == (ours > 0 ? ours : 0));
    lua_settop(L, 0);
  }
  assert_true(read > 1000);
  lua_close(L);
}

static void test_every_beginning_is_cut_short(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(lively); i++) {
    lua_State *L = new_state();
    struct codec_error e;
    struct buf b;
    assert_int_equal(pack(L, values_of(L, lively[i]), &b, &e), 0);
    size_t step = buf_size(&b) / 300 + 1;
    for (size_t n = 0; n < buf_size(&b); n += step) {
      lua_settop(L, 0);
      assert_int_equal(unpack(L, buf_peek(&b), n, &e), -EPROTO);
      assert_int_equal(lua_gettop(L), 0);
    }
    buf_deinit(&b);
    lua_close(L);
  }
}

static void expect_refusal(const char *text, int code, const char *message) {
  lua_State *L = new_state();
  struct codec_error e;
  struct buf b;
  int n = values_of(L, text);
  assert_int_equal(pack(L, n, &b, &e), code);
  if (strcmp(e.text, message) != 0)
    fail_msg("%s: expected \"%s\", got \"%s\"", text, message, e.text);
  assert_int_equal(lua_gettop(L), n);
  buf_deinit(&b);
  lua_close(L);
}

static void test_a_refusal_names_the_path(void **state) {
  (void)state;
  expect_refusal("1, print", -EINVAL, "argument 2: a function can't be sent");
  expect_refusal("1, {t = {x = print}}", -EINVAL,
                 "argument 2.t.x: a function can't be sent");
  expect_refusal("{{1, {[7.5] = coroutine.create(print)}}}", -EINVAL,
                 "argument 1[1][2][7.5]: a thread can't be sent");
  expect_refusal("{['a b'] = {[true] = print}}", -EINVAL,
                 "argument 1[\"a b\"][boolean]: a function can't be sent");
  expect_refusal("(function() local t = {} t.x = {y = t} return t end)()", -EINVAL,
                 "argument 1.x.y: a table that contains itself can't be sent");
  expect_refusal("{[print] = 1}", -EINVAL,
                 "argument 1[function]: a function can't be sent");
  expect_refusal(
      "io.stdout", -EINVAL,
      "argument 1: a handle can't be sent (the option handles=true allows it)");
  lua_State *L = new_state();
  struct codec_error e;
  struct buf b;
  int n = values_of(
      L, "(function() local t = {} for i = 1, 128 do t = {t} end return t end)()");
  assert_int_equal(pack(L, n, &b, &e), -EINVAL);
  assert_non_null(strstr(e.text, "nested too deeply"));
  buf_deinit(&b);
  lua_close(L);
}

static void test_a_message_keeps_to_the_buffers_maximum(void **state) {
  (void)state;
  lua_State *L = new_state();
  struct codec_error e;
  struct buf b;
  buf_init(&b, 1000);
  int n = values_of(L, "('x'):rep(2000)");
  assert_int_equal(codec_pack(L, 1, n, "result", &b, NULL, &e), -E2BIG);
  assert_string_equal(e.text, "result 1: the message is too long");
  buf_deinit(&b);
  lua_close(L);
}

static void test_what_lua_does_not_have_is_refused(void **state) {
  static const struct {
    const char *bytes;
    size_t n;
  } rows[] = {
      {"\x91\xc1", 2},                              /* never used */
      {"\x91\xcf\x80\0\0\0\0\0\0\0", 10},           /* 2^63 */
      {"\x91\x81\xc0\x01", 4},                      /* nil as a key */
      {"\x91\x81\xcb\x7f\xf8\0\0\0\0\0\0\x01", 12}, /* nan as a key */
      {"\x91\xd4\x05\x00", 4},                      /* some extension */
      {"\x91\xd4\x01\x00", 4},                      /* no such descriptor */
      {"\x91\xd5\x01\x00\x00", 5},
      {"\x91\xc7\x03\x01\x00\x00\x00", 7}, /* a handle of three bytes */
      {"\x91\x01\x01", 3},                 /* something behind it */
      {"\x01", 1},                         /* no list */
      {"\x81\x01\x01", 3},
      {"", 0},
      {"\xdd\xff\xff\xff\xff", 5},
      {"\x91\xdd\xff\xff\xff\xff", 6},
      {"\x91\xdf\xff\xff\xff\xff", 6},
      {"\x91\xdb\xff\xff\xff\xff", 6},
      {"\x91\xc9\xff\xff\xff\xff\x01", 7},
  };
  lua_State *L = new_state();
  (void)state;
  for (size_t i = 0; i < COUNT(rows); i++) {
    struct codec_error e;
    assert_int_equal(unpack(L, rows[i].bytes, rows[i].n, &e), -EPROTO);
    assert_true(strlen(e.text) > 0);
    assert_int_equal(lua_gettop(L), 0);
  }
  lua_close(L);
}

static void test_other_encoders_forms_are_read(void **state) {
  static const unsigned char bytes[] = {
      0x96, 0xc4, 1, 'a', 0xca, 0x3f, 0x80, 0, 0, 0xd3, 0, 0, 0, 0, 0, 0, 0, 5,
      0xdc, 0,    1, 1,   0xde, 0,    1,    1, 2, 0xcf, 0, 0, 0, 0, 0, 0, 0, 9};
  lua_State *L = new_state();
  struct codec_error e;
  (void)state;
  assert_int_equal(unpack(L, bytes, sizeof bytes, &e), 6);
  assert_string_equal(lua_tostring(L, 1), "a");
  assert_false(lua_isinteger(L, 2));
  assert_true(lua_tonumber(L, 2) == 1.0);
  assert_int_equal(lua_tointeger(L, 3), 5);
  assert_int_equal(lua_tointeger(L, 6), 9);
  lua_close(L);
}

static void test_nesting_is_bounded(void **state) {
  unsigned char bytes[4096];
  lua_State *L = new_state();
  struct codec_error e;
  (void)state;
  memset(bytes, 0x91, sizeof bytes);
  assert_int_equal(unpack(L, bytes, sizeof bytes, &e), -E2BIG);
  bytes[129] = 0x90;
  assert_int_equal(unpack(L, bytes, 130, &e), -E2BIG);
  bytes[128] = 0x90;
  assert_int_equal(unpack(L, bytes, 129, &e), 1);
  lua_close(L);
}

static void test_values_and_memory_are_bounded(void **state) {
  enum { N = 100000 };
  static unsigned char bytes[N + 5];
  static const struct codec_limits few = {.nodes = 1000}, small = {.bytes = 1 << 20};
  lua_State *L = new_state();
  struct codec_error e;
  (void)state;
  bytes[0] = 0x91;
  bytes[1] = 0xdc, bytes[2] = 0xff, bytes[3] = 0xff;
  memset(bytes + 4, 0x90, 0xffff); /* 65,535 empty tables */
  assert_int_equal(codec_unpack(L, bytes, 0xffff + 4, NULL, 0, &few, &e), -E2BIG);
  assert_int_equal(codec_unpack(L, bytes, 0xffff + 4, NULL, 0, &small, &e), -E2BIG);
  assert_int_equal(codec_unpack(L, bytes, 0xffff + 4, NULL, 0, NULL, &e), 1);
  lua_close(L);
}

static void test_objects_are_bounded(void **state) {
  static const struct codec_limits few = {.objects = 3};
  lua_State *L = new_state();
  struct codec_error e;
  (void)state;
  /* two tables and a string, then one more table; numbers don't count */
  assert_int_equal(codec_unpack(L, "\x92\x93\x90\xa1x\x01\x02", 7, NULL, 0, &few, &e), 2);
  lua_settop(L, 0);
  assert_int_equal(codec_unpack(L, "\x92\x93\x90\xa1x\x01\x90", 7, NULL, 0, &few, &e),
                   -E2BIG);
  assert_string_equal(e.text, "the message has too many tables and strings");
  assert_int_equal(lua_gettop(L), 0);
  lua_close(L);
}

static void expect_not_packed(const char *text, const char *message) {
  lua_State *L = new_state();
  struct codec_error e;
  struct buf b;
  int n = values_of(L, text);
  assert_int_equal(pack(L, n, &b, &e), -E2BIG);
  assert_string_equal(e.text, message);
  buf_deinit(&b);
  lua_close(L);
}

static void test_what_the_other_side_would_refuse_is_not_packed(void **state) {
  (void)state;
  expect_not_packed(
      "(function() local t = {} for i = 1, 1 << 22 do t[i] = i end return t end)()",
      "argument 1[4194304]: the message has more than 4194304 values");
  expect_not_packed(
      "(function() local t, e = {}, {} for i = 1, 1 << 20 do t[i] = e end return t "
      "end)()",
      "argument 1[1048576]: the message has more than 1048576 tables and strings");
}

/* ---- in steps ---- */

/* Reads in steps of that effort; the values come to L. How many, or a code. */
static int read_in_steps(lua_State *L, const struct serialiser *s, const void *data,
                         size_t size, size_t effort, int *ret_nsteps,
                         struct codec_error *e) {
  struct decoding d;
  int rc, n = 1, top = lua_gettop(L);
  decoding_begin(L, &d, s, data, size, NULL, 0);
  while ((rc = decoding_step(L, &d, effort)) == 1)
    n++;
  if (ret_nsteps)
    *ret_nsteps = n;
  *e = d.e;
  if (rc == 0) {
    assert_true(lua_checkstack(L, d.nvalues + 2));
    lua_xmove(d.thread, L, d.nvalues);
    lua_remove(L, top + 1);
    return d.nvalues;
  }
  lua_settop(L, top);
  return rc;
}

static const char *const shapes[] = {
    "1, 'two', {3, {4}, {five = {6, seven = {[{}] = {[8] = {}}}}}}, nil, nil",
    "{{{{{{{{}}}}}}}}, {}, {{}, {}}",
    "(function() local t = {} for i = 1, 2000 do t[i] = {i, tostring(i)} end return t "
    "end)()",
    "(function() local t = {} for i = 1, 1500 do t['k' .. i] = {[i] = i / 3} end return "
    "t end)()",
    "(function() local t = {} for i = 1, 1000 do t[i * 7] = i end return t end)()",
    "",
    "nil",
    "'', 0.5, true, false, {{}}",
};

static void test_steps_read_the_same_as_one(void **state) {
  static const size_t efforts[] = {0, 1, 7, 100, 4096};
  (void)state;
  for (size_t i = 0; i < COUNT(shapes) * COUNT(efforts); i++) {
    lua_State *L = new_state();
    struct codec_error e;
    struct buf once, again;
    int nsteps, n = values_of(L, shapes[i / COUNT(efforts)]);
    assert_int_equal(pack(L, n, &once, &e), 0);
    lua_settop(L, 0);
    assert_int_equal(read_in_steps(L, &msgpack, buf_peek(&once), buf_size(&once),
                                   efforts[i % COUNT(efforts)], &nsteps, &e),
                     n);
    assert_int_equal(lua_gettop(L), n);
    if (efforts[i % COUNT(efforts)] == 0 && buf_size(&once) > 10)
      assert_true(nsteps > 3);
    /* Maps come in another order; what is packed of them is as long. */
    assert_int_equal(pack(L, n, &again, &e), 0);
    assert_int_equal(buf_size(&once), buf_size(&again));
    buf_deinit(&once);
    buf_deinit(&again);
    lua_close(L);
  }
}

static void test_steps_refuse_the_same_as_one(void **state) {
  lua_State *L = new_state();
  struct codec_error at_once, e;
  struct buf b;
  (void)state;
  int n = values_of(L, shapes[0]);
  assert_int_equal(pack(L, n, &b, &e), 0);
  lua_settop(L, 0);
  for (size_t size = 0; size < buf_size(&b); size++) {
    unsigned char copy[256];
    for (int changed = 0; changed < 2; changed++) {
      memcpy(copy, buf_peek(&b), buf_size(&b));
      if (changed)
        copy[size] ^= 0xd5;
      size_t length = changed ? buf_size(&b) : size;
      int rc = unpack(L, copy, length, &at_once);
      lua_settop(L, 0);
      assert_int_equal(read_in_steps(L, &msgpack, copy, length, 0, NULL, &e), rc);
      if (rc < 0)
        assert_string_equal(e.text, at_once.text);
      lua_settop(L, 0);
    }
  }
  buf_deinit(&b);
  lua_close(L);
}

static void test_strings_are_read_in_steps(void **state) {
  lua_State *L = new_state();
  struct codec_error e;
  struct buf b;
  int nsteps;
  (void)state;
  buf_init(&b, 1000000);
  for (int i = 0; i < 1000; i++)
    buf_put_str(&b, "text", (size_t)i % 5);
  assert_int_equal(
      read_in_steps(L, &strings, buf_peek(&b), buf_size(&b), 80, &nsteps, &e), 1000);
  assert_true(nsteps >= 80);
  assert_string_equal(lua_tostring(L, 1000), "text");
  lua_settop(L, 0);
  assert_int_equal(
      read_in_steps(L, &strings, buf_peek(&b), buf_size(&b) - 1, 80, NULL, &e), -EPROTO);
  buf_deinit(&b);
  lua_close(L);
}

static int nallocs_left;

static void *failing_alloc(void *ud, void *block, size_t osize, size_t nsize) {
  (void)ud, (void)osize;
  if (nsize == 0) {
    free(block);
    return NULL;
  }
  return nallocs_left-- > 0 || (block && nsize <= osize) ? realloc(block, nsize) : NULL;
}

static void test_steps_survive_a_lack_of_memory(void **state) {
  struct codec_error e;
  struct buf b;
  lua_State *L = new_state();
  int rc = -ENOMEM;
  (void)state;
  int n = values_of(L, shapes[2]);
  assert_int_equal(pack(L, n, &b, &e), 0);
  lua_close(L);
  for (int nallocs = 0; rc == -ENOMEM; nallocs = nallocs * 5 / 4 + 1) {
    nallocs_left = 1 << 30;
    L = lua_newstate(failing_alloc, NULL);
    struct decoding d;
    decoding_begin(L, &d, &msgpack, buf_peek(&b), buf_size(&b), NULL, 0);
    nallocs_left = nallocs;
    while ((rc = decoding_step(L, &d, 50)) == 1)
      ;
    nallocs_left = 1 << 30;
    assert_true(rc == 0 || rc == -ENOMEM);
    lua_close(L);
  }
  buf_deinit(&b);
}

static void put_number(struct buf *b, uint64_t value, int nbytes) {
  for (int i = nbytes - 1; i >= 0; i--)
    buf_put_u8(b, (unsigned)(value >> (8 * i)) & 0xff);
}

static void test_colliding_keys_are_refused_in_time(void **state) {
  enum { N = 100000 };
  lua_State *L = new_state();
  struct codec_error e;
  struct buf b;
  (void)state;
  buf_init(&b, (size_t)1 << 24);
  buf_put_u8(&b, 0x91);
  buf_put_u8(&b, 0xdf);
  put_number(&b, N, 4);
  for (uint64_t i = 0; i < N; i++) {
    buf_put_u8(&b, 0xcf);
    put_number(&b, i * 131071, 8); /* the places of a table of 131,072 */
    buf_put_u8(&b, 1);
  }
  assert_int_equal(unpack(L, buf_peek(&b), buf_size(&b), &e), -E2BIG);
  assert_string_equal(e.text, "too many keys of a table collide");
  buf_deinit(&b);
  lua_close(L);
}

static void test_usual_keys_do_not_collide(void **state) {
  static const unsigned steps[] = {1, 2, 10, 16, 100, 256, 1000, 1024, 4096, 65536};
  (void)state;
  for (size_t i = 0; i < COUNT(steps); i++) {
    char text[200];
    snprintf(text, sizeof text,
             "(function() local t = {} for i = -30000, 30000 do t[i * %u] = i end "
             "return t end)()",
             steps[i]);
    expect_round_trip(text);
  }
  expect_round_trip("(function() local t = {} for i = 1, 30000 do t[i / 7] = i end "
                    "return t end)()");
}

static void test_handles_travel_beside_the_message(void **state) {
  lua_State *L = new_state();
  struct codec_error e;
  static struct codec_fds fds;
  struct buf b;
  (void)state;
  buf_init(&b, 1000);
  int n = values_of(L, "io.tmpfile(), 'x', {h = io.stdout}");
  assert_int_equal(codec_pack(L, 1, n, "argument", &b, &fds, &e), 0);
  assert_int_equal(fds.n, 2);
  lua_settop(L, 0);
  assert_int_equal(codec_unpack(L, buf_peek(&b), buf_size(&b), fds.fd, fds.n, NULL, &e),
                   3);
  assert_int_equal(fds.fd[0], -1);
  assert_int_equal(fds.fd[1], -1);
  assert_int_equal(lua_type(L, 1), LUA_TUSERDATA);
  codec_fds_close(&fds);

  /* one place named twice, and a closed handle */
  fds.fd[fds.n++] = fd_open_null();
  assert_int_equal(
      codec_unpack(L, "\x92\xd5\x01\x00\x00\xd5\x01\x00\x00", 9, fds.fd, fds.n, NULL, &e),
      -EPROTO);
  codec_fds_close(&fds);
  n = values_of(L, "(function() local f = io.tmpfile() f:close() return f end)()");
  assert_int_equal(codec_pack(L, 1, n, "argument", &b, &fds, &e), -EINVAL);
  assert_int_equal(fds.n, 0);
  buf_deinit(&b);
  lua_close(L);
}

/* At every length where the head of a string becomes another one. */
static void test_a_string_that_is_not_luas_is_packed_the_same(void **state) {
  static const size_t sizes[] = {0, 1, 31, 32, 255, 256, 65535, 65536, 70000};
  static char text[70000];
  lua_State *L = new_state();
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    struct codec_error e;
    struct buf by_lua, direct;
    memset(text, 'a' + (int)i, sizes[i]);
    lua_settop(L, 0);
    lua_pushlstring(L, text, sizes[i]);
    assert_int_equal(pack(L, 1, &by_lua, &e), 0);
    buf_init(&direct, sizes[i] + 6);
    assert_int_equal(codec_pack_string(&direct, text, sizes[i]), 0);
    assert_int_equal(buf_size(&direct), buf_size(&by_lua));
    assert_memory_equal(buf_peek(&direct), buf_peek(&by_lua), buf_size(&by_lua));
    buf_deinit(&direct);
    buf_init(&direct, sizes[i] + 1); /* one byte less than it needs */
    assert_int_equal(codec_pack_string(&direct, text, sizes[i]), -E2BIG);
    assert_int_equal(buf_size(&direct), 0);
    buf_deinit(&direct);
    buf_deinit(&by_lua);
  }
  lua_close(L);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bytes_are_as_written_down),
      cmocka_unit_test(test_a_string_that_is_not_luas_is_packed_the_same),
      cmocka_unit_test(test_values_come_back_as_they_were),
      cmocka_unit_test(test_msgpack_c_reads_what_we_pack_and_packs_it_again),
      cmocka_unit_test(test_our_reader_agrees_with_msgpack_c),
      cmocka_unit_test(test_every_beginning_is_cut_short),
      cmocka_unit_test(test_a_refusal_names_the_path),
      cmocka_unit_test(test_a_message_keeps_to_the_buffers_maximum),
      cmocka_unit_test(test_what_lua_does_not_have_is_refused),
      cmocka_unit_test(test_other_encoders_forms_are_read),
      cmocka_unit_test(test_nesting_is_bounded),
      cmocka_unit_test(test_values_and_memory_are_bounded),
      cmocka_unit_test(test_objects_are_bounded),
      cmocka_unit_test(test_what_the_other_side_would_refuse_is_not_packed),
      cmocka_unit_test(test_steps_read_the_same_as_one),
      cmocka_unit_test(test_steps_refuse_the_same_as_one),
      cmocka_unit_test(test_strings_are_read_in_steps),
      cmocka_unit_test(test_steps_survive_a_lack_of_memory),
      cmocka_unit_test(test_colliding_keys_are_refused_in_time),
      cmocka_unit_test(test_usual_keys_do_not_collide),
      census_test(test_handles_travel_beside_the_message),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
