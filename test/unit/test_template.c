/* The template program, played by transcripts: each test starts it by its boot contract,
 * sends frames over its socket and compares what comes back. No parent library takes
 * part; what is proved here is src/wire/proto.h as the template serves it: its boot, and
 * commands. */
#include "unit.h"

#include "base/buf.h"
#include "moonfork.h"
#include "os/fd.h"
#include "os/sock.h"
#include "template_kit.h"
#include "wire/build.h"
#include "wire/frame.h"
#include "wire/slot_layout.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static int remember(void **state) {
  signal(SIGPIPE, SIG_IGN);
  return 0;
}

/* ---- a blocking parent ---- */

static void put_arg_in_parts(int fd, const char *data, size_t n) {
  do {
    size_t part = n < FRAME_BODY_MAX ? n : FRAME_BODY_MAX;
    send_flags(fd, CMD_ARG, 0, part < n ? FRAME_MORE : 0, data, part, NULL, 0);
    data += part;
    n -= part;
  } while (n > 0);
}

/* ---- boot ---- */

static void test_says_hello_and_ends_with_its_socket(void **state) {
  struct template t;
  start(&t);
  finish(&t, 0);
}

static void test_ends_before_setup_when_the_socket_ends(void **state) {
  struct template t;
  boot(&t);
  finish(&t, 0);
}

static void test_refuses_other_versions_with_its_own_in_hello(void **state) {
  static struct answer a;
  struct template t;
  unsigned char body[8] = {0x4d, 0x46, 0x4b, 0x31, 99, 0, 0, 0};
  boot(&t);
  put(t.fd, CMD_SETUP, 1, body, sizeof body);
  expect(t.fd, ANS_HELLO, &a);
  assert_int_equal(a.body[4], PROTO_VERSION);
  assert_int_equal(expect_failed(t.fd, ANS_FAILED)->code, FAILURE_UNSUPPORTED);
  finish(&t, 1);
}

static void test_refuses_other_builds_with_its_own_in_hello(void **state) {
  static const struct build other[] = {{"99.9.9", MOONFORK_LUA},
                                       {MOONFORK_VERSION, "5.3.6"}};
  static struct answer a;
  for (size_t i = 0; i < 2; i++) {
    struct template t;
    struct buf b;
    struct reader r;
    struct build said;
    boot(&t);
    buf_init(&b, 4096);
    buf_put_u32(&b, PROTO_MAGIC);
    buf_put_u32(&b, PROTO_VERSION);
    buf_put_str(&b, other[i].version, strlen(other[i].version));
    buf_put_str(&b, other[i].lua, strlen(other[i].lua));
    put(t.fd, CMD_SETUP, (uint64_t)getpid(), buf_peek(&b), buf_size(&b));
    put_eval(t.fd, "os.exit(9)"); /* executed it would be seen */
    buf_deinit(&b);
    expect(t.fd, ANS_HELLO, &a);
    reader_init(&r, a.body + 16, a.f.length - 16);
    assert_int_equal(build_read(&r, &said), 0);
    assert_true(build_is_own(&said));
    assert_int_equal(expect_failed(t.fd, ANS_FAILED)->code, FAILURE_UNSUPPORTED);
    finish(&t, 1);
  }
}

static void test_a_build_is_what_the_header_says(void **state) {
  assert_string_equal(build_own.version, MF_VERSION_STRING);
}

static void test_takes_only_setup_first(void **state) {
  for (unsigned type = CMD_REQUIRE; type <= CMD_LAST; type++) {
    struct template t;
    boot(&t);
    put(t.fd, type, 0, "x", 1);
    const struct failed *f = expect_failed(t.fd, ANS_FAILED);
    assert_int_equal(f->code, FAILURE_PROTOCOL);
    assert_int_equal(f->id, 1);
    expect_eof(t.fd);
    finish(&t, 1);
  }
}

static void test_garbage_ends_it_with_a_failure(void **state) {
  struct template t;
  start(&t);
  struct iovec iov = {(void *)(uintptr_t) "\377\377\377\377 this is no frame at all", 28};
  assert_int_equal(sock_send(t.fd, &iov, 1, NULL, 0), 28);
  assert_int_equal(expect_failed(t.fd, ANS_FAILED)->code, FAILURE_PROTOCOL);
  finish(&t, 1);
}

/* ---- commands ---- */

static void test_counts_commands(void **state) {
  struct template t;
  start(&t);
  put_text(t.fd, CMD_REQUIRE, "string");
  put_eval(t.fd, "x = 1");
  static const char zeros[700000];
  put_arg_in_parts(t.fd, zeros, sizeof zeros);
  expect_done(t.fd, 4);
  static struct answer a;
  put(t.fd, CMD_WHO, 0, NULL, 0);
  expect(t.fd, ANS_HELLO, &a);
  struct reader r;
  reader_init(&r, a.body + 8, 8);
  assert_int_equal(reader_u64(&r), 4);
  expect_done(t.fd, 5);
  finish(&t, 0);
}

static void test_require_failure_names_paths_and_ends_it(void **state) {
  struct template t;
  start(&t);
  put_text(t.fd, CMD_REQUIRE, "no.such.module");
  int clone = put_fork(t.fd, 7);
  const struct failed *f = expect_failed(t.fd, ANS_FAILED);
  assert_int_equal(f->code, FAILURE_REMOTE);
  assert_int_equal(f->phase, PHASE_REQUIRE);
  assert_int_equal(f->id, 2);
  assert_non_null(strstr(f->message, "no/such/module.lua"));
  assert_non_null(strstr(f->traceback, "stack traceback"));
  expect_eof(clone); /* the fork after it never happened */
  close(clone);
  expect_eof(t.fd);
  finish(&t, 1);
}

static void test_eval_error_objects_become_texts_and_values(void **state) {
  static const struct {
    const char *code, *message, *value; /* packed */
  } rows[] = {
      {"error('plain', 0)", "plain"},
      {"error()", "(error object is a nil value)"},
      {"error({})", "(error object is a table value)", "\x91\x90"},
      {"error({{true}})", "(error object is a table value)", "\x91\x91\x91\xc3"},
      {"error({print})", "(error object is a table value)"},
      {"error(print)", "(error object is a function value)"},
      {"error(setmetatable({}, {__tostring = function() return 'told' end}))", "told",
       "\x91\x90"},
      {"error(setmetatable({}, {__tostring = function() error('no') end}))",
       "(error object is a table value)", "\x91\x90"},
      {"error(42)", "42", "\x91\x2a"},
      {"x = = 1", "(eval):1: unexpected symbol near '='"},
      {"-- =set-up\nx = = 1", "set-up:2: unexpected symbol near '='"},
      {"string.rep('x', 1 << 40)", "resulting string too large"},
      {"local function f() return f() + 1 end f()", "stack overflow"},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    struct template t;
    start(&t);
    put_eval(t.fd, rows[i].code);
    const struct failed *f = expect_failed(t.fd, ANS_FAILED);
    assert_int_equal(f->phase, PHASE_EVAL);
    if (!strstr(f->message, rows[i].message))
      fail_msg("%s gave %s", rows[i].code, f->message);
    assert_int_equal(f->nvalue, rows[i].value ? strlen(rows[i].value) : 0);
    assert_memory_equal(f->value, rows[i].value ? rows[i].value : "", f->nvalue);
    finish(&t, 1);
  }
}

static void test_long_error_is_cut_with_a_note(void **state) {
  struct template t;
  start(&t);
  put_eval(t.fd, "error(('x'):rep(10000000))");
  const struct failed *f = expect_failed(t.fd, ANS_FAILED);
  assert_int_equal(strlen(f->message), FAILURE_TEXT_MAX);
  assert_non_null(strstr(f->message, "(cut)"));
  finish(&t, 1);
}

static void test_os_exit_in_eval_gives_its_code(void **state) {
  struct template t;
  start(&t);
  put_eval(t.fd, "os.exit(3)");
  expect_eof(t.fd);
  finish(&t, 3);
}

static void test_environment_of_lua_is_not_used(void **state) {
  struct template t;
  setenv("LUA_INIT", "os.exit(99)", 1);
  setenv("LUA_PATH", "/hijack/?.lua", 1);
  start(&t);
  unsetenv("LUA_INIT");
  unsetenv("LUA_PATH");
  put_eval(t.fd, "assert(not package.path:find 'hijack')");
  expect_done(t.fd, 2);
  finish(&t, 0);
}

static void test_runs_with_socket_handles_and_strings_in_order(void **state) {
  static struct answer a;
  struct template t;
  int fds[2], files[2] = {open("/dev/null", O_RDWR), open("/dev/zero", O_RDWR)};
  assert_int_equal(sock_pair(fds, 0), 0);
  start(&t);
  put_eval(t.fd, "function echo(s, ...) local out = {} for i, v in ipairs{...} do "
                 "out[i] = type(v) == 'string' and v or 'h' .. v:read(1):byte() end "
                 "s:write(table.concat(out, ',')) end "
                 "local f = io.open; function nul(s, a, h, b) s:write(a, "
                 "tostring(h:read(1)), b) end");
  put_text(t.fd, CMD_ARG, "one");
  send_flags(t.fd, CMD_FD, 0, 0, NULL, 0, files + 1, 1);
  put_text(t.fd, CMD_ARG, "");
  put_text(t.fd, CMD_ARG, "three");
  put_text(t.fd, CMD_RUN, "echo");
  expect(t.fd, ANS_RUNNING, &a);
  assert_int_equal(a.f.id, t.pid);
  assert_text(t.fd, "one,h0,,three");
  finish(&t, 0);
  for (int i = 0; i < 2; i++) {
    close(fds[i]);
    close(files[i]);
  }
}

static void test_missing_functions_fail_before_running(void **state) {
  static const struct {
    const char *name, *message;
  } rows[] = {
      {"nope", "no function 'nope'"},
      {"string.nope", "no function 'string.nope'"},
      {"string.rep.deep", "no function 'string.rep.deep'"},
      {"string:nope", "module 'string' has no function 'nope'"},
      {"nomodule:f", "module 'nomodule' not found"},
      {"_VERSION", "no function"},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    struct template t;
    start(&t);
    put_text(t.fd, CMD_RUN, rows[i].name);
    const struct failed *f = expect_failed(t.fd, ANS_FAILED);
    assert_int_equal(f->phase, PHASE_FUNCTION);
    if (!strstr(f->message, rows[i].message))
      fail_msg("%s gave %s", rows[i].name, f->message);
    finish(&t, 1);
  }
}

static void test_large_arguments_arrive_whole(void **state) {
  static struct answer a;
  static const size_t sizes[] = {0, 1, 131071, 131072, 262143, 262144, 262145, 64 << 20};
  struct template t;
  char *data = malloc(64 << 20), expected[512] = "";
  for (size_t i = 0; i < 64 << 20; i++)
    data[i] = (char)(i * 31 >> 3);
  start(&t);
  put_eval(t.fd, "function sum(s, ...) for _, v in ipairs{...} do local n, l = 0, #v "
                 "for i = 1, l, l // 1000 + 1 do n = n * 31 + v:byte(i) & 0xffffff end "
                 "s:write(l, ':', n, ' ') end end");
  for (size_t k = 0; k < COUNT(sizes); k++) {
    unsigned long n = 0, l = sizes[k];
    put_arg_in_parts(t.fd, data, l);
    for (unsigned long i = 0; i < l; i += l / 1000 + 1)
      n = (n * 31 + (unsigned char)data[i]) & 0xffffff;
    sprintf(expected + strlen(expected), "%lu:%lu ", l, n);
  }
  put_text(t.fd, CMD_RUN, "sum");
  expect(t.fd, ANS_RUNNING, &a);
  assert_text(t.fd, expected);
  free(data);
  finish(&t, 0);
}

static void test_takes_back_arguments(void **state) {
  static struct answer a;
  struct template t;
  int pair[2];
  char byte;
  assert_int_equal(sock_pair(pair, 0), 0);
  start(&t);
  send_flags(t.fd, CMD_FD, 0, 0, NULL, 0, &pair[1], 1);
  close(pair[1]);
  put_text(t.fd, CMD_ARG, "gone");
  put(t.fd, CMD_TAKE_ARGS, 0, NULL, 0);
  put_text(t.fd, CMD_ARG, "kept");
  expect_done(t.fd, 5);
  assert_int_equal(read(pair[0], &byte, 1), 0); /* the handle was closed */
  put_eval(t.fd, "local a, b = require 'moonfork.clone'.run_args() "
                 "assert(a == 'kept' and b == nil) "
                 "assert(select('#', require 'moonfork.clone'.run_args()) == 0) "
                 "function f(s, ...) s:write(select('#', ...)) end");
  put_text(t.fd, CMD_RUN, "f");
  expect(t.fd, ANS_RUNNING, &a);
  assert_text(t.fd, "0");
  close(pair[0]);
  finish(&t, 0);
}

static void test_changes_directory_environment_and_limits(void **state) {
  struct template t;
  struct buf b;
  buf_init(&b, 4096);
  start(&t);
  put_text(t.fd, CMD_CHDIR, "/dev");
  buf_put_str(&b, "MF_TEST", 7);
  buf_put_str(&b, "a=b", 3);
  put(t.fd, CMD_SETENV, 0, buf_peek(&b), buf_size(&b));
  buf_consume(&b, buf_size(&b));
  buf_put_str(&b, "CONTEXT", 4);
  buf_put_str(&b, NULL, 0);
  put(t.fd, CMD_SETENV, 0, buf_peek(&b), buf_size(&b));
  buf_consume(&b, buf_size(&b));
  buf_put_u32(&b, LIMIT_NOFILE);
  buf_put_u32(&b, 0);
  buf_put_u64(&b, 100);
  put(t.fd, CMD_LIMIT, 0, buf_peek(&b), buf_size(&b));
  put_eval(t.fd, "assert(io.open 'null') assert(os.getenv 'MF_TEST' == 'a=b') "
                 "assert(not os.getenv 'CONTEXT') local files = {} for i = 1, 100 do "
                 "files[i] = io.open 'null' end assert(#files < 100)");
  expect_done(t.fd, 6);
  put_text(t.fd, CMD_CHDIR, "/no/such/folder");
  const struct failed *f = expect_failed(t.fd, ANS_FAILED);
  assert_int_equal(f->phase, PHASE_CHDIR);
  assert_int_equal(f->error, ENOENT);
  buf_deinit(&b);
  finish(&t, 1);
}

static void put_set(int fd, const char *name, const void *message, size_t n) {
  struct buf b;
  buf_init(&b, 4096);
  buf_put_str(&b, name, strlen(name));
  buf_put(&b, message, n);
  put(fd, CMD_SET, 0, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
}

static void test_sets_globals_and_fields(void **state) {
  struct template t;
  start(&t);
  put_set(t.fd, "x",
          "\x91\x82\xa1"
          "a\x01\xa1"
          "b\x90",
          8);
  put_set(t.fd, "x.b.c", "\x91\xa2hi", 4);
  put_eval(t.fd, "assert(x.a == 1 and x.b.c == 'hi')");
  expect_done(t.fd, 4);
  put_set(t.fd, "x.a.b", "\x91\x01", 2);
  const struct failed *f = expect_failed(t.fd, ANS_FAILED);
  assert_int_equal(f->code, FAILURE_REMOTE);
  assert_int_equal(f->phase, PHASE_SET);
  assert_string_equal(f->message, "can't set 'x.a.b': 'x.a' is a number value");
  finish(&t, 1);
}

/* What a parent sends that packs by itself (mf_set), or is broken. */
static void test_values_that_cannot_be_read(void **state) {
  static const struct {
    const char *message;
    size_t n;
    int code;
  } cases[] = {
      {"", 0, FAILURE_INVAL},
      {"\x90", 1, FAILURE_INVAL},
      {"\x92\x01\x02", 3, FAILURE_INVAL},
      {"\x91\xc1", 2, FAILURE_INVAL},
      {"\x91\xdb\xff\xff\xff\xff", 6, FAILURE_INVAL},
      {"\x91\x01\x01", 3, FAILURE_INVAL},
      {"\x91\xd5\x01\x00\x00", 5, FAILURE_INVAL},  /* a handle that did not come */
      {"\x91\xc7\x02\x07\xa1p", 6, FAILURE_INVAL}, /* of an unknown kind */
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct template t;
    start(&t);
    put_set(t.fd, "x", cases[i].message, cases[i].n);
    const struct failed *f = expect_failed(t.fd, ANS_FAILED);
    assert_int_equal(f->code, cases[i].code);
    assert_non_null(strstr(f->message, "the value for 'x' can't be read: "));
    finish(&t, 1);
  }
  static const char *const names[] = {"", ".", "a.", ".a", "a..b"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    struct template t;
    start(&t);
    put_set(t.fd, names[i], "\x91\x01", 2);
    assert_int_equal(expect_failed(t.fd, ANS_FAILED)->code, FAILURE_PROTOCOL);
    finish(&t, 1);
  }
}

static void test_limit_of_memory_counts_what_is_used(void **state) {
#ifdef __SANITIZE_ADDRESS__
  skip(); /* its shadow is past any limit */
#endif
  struct template t;
  struct buf b;
  buf_init(&b, 64);
  start(&t);
  buf_put_u32(&b, LIMIT_AS);
  buf_put_u32(&b, 0);
  buf_put_u64(&b, 100 << 20);
  put(t.fd, CMD_LIMIT, 0, buf_peek(&b), buf_size(&b));
  put_eval(t.fd, "local t = {} for i = 1, 500000 do t[i] = {} end "
                 "assert(not pcall(string.rep, 'x', 150 << 20)) "
                 "assert(#string.rep('x', 20 << 20) == 20 << 20) "
                 "local ok, err = pcall(function() for i = 1, 1e7 do t[i] = {i} end end) "
                 "t = nil assert(not ok and err == 'not enough memory')");
  expect_done(t.fd, 3);
  buf_deinit(&b);
  finish(&t, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_says_hello_and_ends_with_its_socket),
      census_test(test_ends_before_setup_when_the_socket_ends),
      census_test(test_refuses_other_versions_with_its_own_in_hello),
      census_test(test_refuses_other_builds_with_its_own_in_hello),
      cmocka_unit_test(test_a_build_is_what_the_header_says),
      census_test(test_takes_only_setup_first),
      census_test(test_garbage_ends_it_with_a_failure),
      census_test(test_counts_commands),
      census_test(test_require_failure_names_paths_and_ends_it),
      census_test(test_eval_error_objects_become_texts_and_values),
      census_test(test_long_error_is_cut_with_a_note),
      census_test(test_os_exit_in_eval_gives_its_code),
      census_test(test_environment_of_lua_is_not_used),
      census_test(test_runs_with_socket_handles_and_strings_in_order),
      census_test(test_missing_functions_fail_before_running),
      census_test(test_large_arguments_arrive_whole),
      census_test(test_takes_back_arguments),
      census_test(test_changes_directory_environment_and_limits),
      census_test(test_sets_globals_and_fields),
      census_test(test_values_that_cannot_be_read),
      census_test(test_limit_of_memory_counts_what_is_used),
  };
  return cmocka_run_group_tests(tests, remember, NULL);
}
