/* nats/json.c: what a server answers, and what it would never; torn at every byte. */
#include "nats/json.h"

#include "unit.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct json read_text(const char *text) {
  struct json v;
  assert_int_equal(json_read(text, strlen(text), &v), 0);
  return v;
}

static const char ACK[] = "{\"stream\":\"JOBS\", \"seq\":7,\"duplicate\": true}";
static const char REFUSAL[] =
    " {\"type\":\"io.nats\",\"error\":{\"code\":404,\"err_code\":10059,"
    "\"description\":\"stream \\\"x\\\" not found\\u0021\"}}\r\n";

static void test_members(void **state) {
  struct json v = read_text(ACK), member;
  char room[16];
  int64_t n;
  (void)state;
  assert_int_equal(json_get(v, "stream", &member), 0);
  assert_int_equal(json_text(member, room, sizeof room), 0);
  assert_string_equal(room, "JOBS");
  assert_int_equal(json_integer(member, &n), -EDOM);
  assert_int_equal(json_get(v, "seq", &member), 0);
  assert_int_equal(json_integer(member, &n), 0);
  assert_int_equal(n, 7);
  assert_int_equal(json_text(member, room, sizeof room), -EDOM);
  assert_int_equal(json_get(v, "duplicate", &member), 0);
  assert_int_equal(member.length, 4);
  assert_memory_equal(member.at, "true", 4);
  assert_int_equal(json_get(v, "se", &member), -ENOENT);
  assert_int_equal(json_get(v, "seqs", &member), -ENOENT);
  assert_int_equal(json_get(member, "seq", &member), -ENOENT);
}

static void test_members_of_members(void **state) {
  struct json v = read_text(REFUSAL), member;
  char room[64];
  int64_t n;
  (void)state;
  assert_int_equal(json_get2(v, "error", "err_code", &member), 0);
  assert_int_equal(json_integer(member, &n), 0);
  assert_int_equal(n, 10059);
  assert_int_equal(json_get2(v, "error", "description", &member), 0);
  assert_int_equal(json_text(member, room, sizeof room), 0);
  assert_string_equal(room, "stream \"x\" not found!");
  assert_int_equal(json_text(member, room, 21), -ENOSPC);
  assert_int_equal(json_text(member, room, 22), 0);
  assert_int_equal(json_text(member, room, 0), -ENOSPC);
  assert_int_equal(json_get2(v, "error", "error", &member), -ENOENT);
  assert_int_equal(json_get2(v, "type", "error", &member), -ENOENT);
}

static void test_lists(void **state) {
  struct json v = read_text("[ 1 , \"a,]\" ,[2,{}],{\"b\":[]} ]"), item = {NULL, 0};
  const size_t lengths[] = {1, 5, 6, 8};
  size_t n = 0;
  (void)state;
  while (json_next(v, &item) == 0)
    assert_int_equal(item.length, lengths[n++]);
  assert_int_equal(n, 4);
  item = (struct json){NULL, 0};
  assert_int_equal(json_next(read_text("[]"), &item), -ENOENT);
  assert_int_equal(json_next(read_text("{}"), &item), -ENOENT);
}

static void test_all_members(void **state) {
  struct json v = read_text("{ \"a.b\" : 1, \"c\":{\"d\":[]},\"\":null }");
  struct json key = {NULL, 0}, value = {NULL, 0};
  const char *const names[] = {"a.b", "c", ""};
  const size_t lengths[] = {1, 8, 4};
  char room[8];
  size_t n = 0;
  (void)state;
  while (json_next_member(v, &key, &value) == 0) {
    assert_int_equal(json_text(key, room, sizeof room), 0);
    assert_string_equal(room, names[n]);
    assert_int_equal(value.length, lengths[n++]);
  }
  assert_int_equal(n, 3);
  key = (struct json){NULL, 0};
  assert_int_equal(json_next_member(read_text("{}"), &key, &value), -ENOENT);
  assert_int_equal(json_next_member(read_text("[]"), &key, &value), -ENOENT);
}

static void test_integers(void **state) {
  static const struct {
    const char *text;
    int r;
    int64_t n;
  } cases[] = {
      {"0", 0, 0},
      {"-0", 0, 0},
      {"-12", 0, -12},
      {"9223372036854775807", 0, INT64_MAX},
      {"-9223372036854775808", 0, INT64_MIN},
      {"9223372036854775808", -EDOM, 0},
      {"-9223372036854775809", -EDOM, 0},
      {"99999999999999999999", -EDOM, 0},
      {"1.0", -EDOM, 0},
      {"1e3", -EDOM, 0},
      {"true", -EDOM, 0},
      {"null", -EDOM, 0},
  };
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    int64_t n = 0;
    assert_int_equal(json_integer(read_text(cases[i].text), &n), cases[i].r);
    assert_int_equal(n, cases[i].n);
  }
}

/* In memory of exactly that size, for the sanitizers. */
static int read_copy(const char *text, size_t length) {
  char *copy = malloc(length + 1);
  struct json v;
  assert_non_null(copy);
  memcpy(copy + 1, text, length);
  int r = json_read(copy + 1, length, &v);
  free(copy);
  return r;
}

static void test_torn(void **state) {
  (void)state;
  for (size_t n = 0; n < strlen(ACK); n++)
    assert_int_equal(read_copy(ACK, n), -EPROTO);
  for (size_t n = 0; n < strlen(REFUSAL) - 2; n++) /* blanks may follow */
    assert_int_equal(read_copy(REFUSAL, n), -EPROTO);
}

static void test_none(void **state) {
  static const char *const cases[] = {
      "",          " ",    "{",          "}",       "[",         "]",
      "{}}",       "{,}",  "[,]",        "[1,]",    "{\"a\"}",   "{\"a\":}",
      "{a:1}",     "\"",   "\"\\\"",     "\"\\x\"", "\"\\u12\"", "\"\n\"",
      "-",         "+1",   "1.",         "1e",      ".5",        "tru",
      "truefalse", "1 2",  "{\"a\":1,}", "[1 2]",   "'a'",       "\"\\u12x4\"",
      "nul",       "-true"};
  char deep[64];
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
    assert_int_equal(read_copy(cases[i], strlen(cases[i])), -EPROTO);
  assert_int_equal(read_copy("\"a\0b\"", 5), -EPROTO);
  memset(deep, '[', sizeof deep);
  memset(deep + JSON_DEPTH, ']', sizeof deep - JSON_DEPTH);
  assert_int_equal(read_copy(deep, 2 * JSON_DEPTH), 0);
  memset(deep, '[', JSON_DEPTH + 1);
  assert_int_equal(read_copy(deep, 2 * JSON_DEPTH + 2), -EPROTO);
}

static void test_text_with_nul(void **state) {
  char room[16];
  (void)state;
  assert_int_equal(json_text(read_text("\"a\\u0000b\""), room, sizeof room), -ENOSPC);
  assert_int_equal(json_text(read_text("\"\\u00e9\\n\\/\""), room, sizeof room), 0);
  assert_string_equal(room, "?\n/");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_members),       cmocka_unit_test(test_members_of_members),
      cmocka_unit_test(test_lists),         cmocka_unit_test(test_integers),
      cmocka_unit_test(test_torn),          cmocka_unit_test(test_none),
      cmocka_unit_test(test_text_with_nul), cmocka_unit_test(test_all_members),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
