/* The template program, played by transcripts: each test starts it by its boot contract,
 * sends frames over its socket and compares what comes back. No parent library takes
 * part; what is proved here is src/wire/proto.h as the template serves it. */
#include "unit.h"

#include "base/buf.h"
#include "base/result.h"
#include "moonfork.h"
#include "os/fd.h"
#include "os/proc.h"
#include "os/share.h"
#include "os/sock.h"
#include "wire/build.h"
#include "wire/frame.h"
#include "wire/slot_layout.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TIMEOUT_MS = 20000 };

/* ---- a blocking parent ---- */

struct template {
  pid_t pid;
  int fd, leash; /* our ends */
};

struct answer {
  struct frame f;
  unsigned char body[FRAME_BODY_MAX];
};

static void read_exactly(int fd, void *to, size_t n) {
  unsigned char *p = to;
  while (n > 0) {
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&poller, 1, TIMEOUT_MS), 1);
    ssize_t got = read(fd, p, n);
    assert_true(got > 0);
    p += got;
    n -= (size_t)got;
  }
}

/* The next answer, whatever it is. */
static void next(int fd, struct answer *ret) {
  unsigned char header[FRAME_HEADER_SIZE];
  read_exactly(fd, header, sizeof header);
  assert_int_equal(frame_decode(&ret->f, header, ANS_HELLO, ANS_LAST), 0);
  read_exactly(fd, ret->body, ret->f.length);
}

/* The next answer that is no DONE; it must have that type. */
static void expect(int fd, unsigned type, struct answer *ret) {
  do
    next(fd, ret);
  while (ret->f.type == ANS_DONE && type != ANS_DONE);
  if (ret->f.type != type && ret->f.type == ANS_FAILED)
    print_message("failed: %.*s\n", (int)ret->f.length - 12, ret->body + 12);
  assert_int_equal(ret->f.type, type);
}

static void expect_done(int fd, uint64_t n) {
  static struct answer a;
  do
    expect(fd, ANS_DONE, &a);
  while (a.f.id < n);
  assert_int_equal(a.f.id, n);
}

static void expect_eof(int fd) {
  static struct answer a;
  struct pollfd p = {.fd = fd, .events = POLLIN};
  unsigned char byte;
  for (;;) {
    assert_int_equal(poll(&p, 1, TIMEOUT_MS), 1);
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK);
    if (n == 0 || (n < 0 && errno == ECONNRESET))
      return;
    assert_int_equal(n, 1);
    next(fd, &a);
    assert_int_equal(a.f.type, ANS_DONE); /* nothing else may be left */
  }
}

static void send_flags(int fd, unsigned type, uint64_t id, unsigned flags,
                       const void *body, size_t n, const int *fds, int nfds) {
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f = {.length = (uint32_t)n,
                    .type = (uint8_t)type,
                    .nfds = (uint8_t)nfds,
                    .flags = (uint16_t)flags,
                    .id = id};
  frame_encode(header, &f);
  struct iovec iov[2] = {{header, sizeof header}, {(void *)(uintptr_t)body, n}};
  struct iovec *at = iov;
  while (at < iov + 2) {
    if (at->iov_len == 0) {
      at++;
      continue;
    }
    ssize_t sent = sock_send(fd, at, (int)(iov + 2 - at), fds, nfds);
    if (sent == 0) {
      struct pollfd p = {.fd = fd, .events = POLLOUT};
      poll(&p, 1, TIMEOUT_MS);
      continue;
    }
    if (sent < 0)
      return; /* it is gone: what it said last is what the test looks at */
    nfds = 0;
    while (sent > 0) {
      size_t part = (size_t)sent < at->iov_len ? (size_t)sent : at->iov_len;
      at->iov_base = (char *)at->iov_base + part;
      at->iov_len -= part;
      sent -= (ssize_t)part;
      if (at->iov_len == 0)
        at++;
    }
  }
}

static void put(int fd, unsigned type, uint64_t id, const void *body, size_t n) {
  send_flags(fd, type, id, 0, body, n, NULL, 0);
}

static void put_text(int fd, unsigned type, const char *text) {
  put(fd, type, 0, text, strlen(text));
}

static void put_eval(int fd, const char *code) {
  struct buf b;
  buf_init(&b, 1 << 20);
  buf_put_u32(&b, 0);
  buf_put_str(&b, code, strlen(code));
  put(fd, CMD_EVAL, 0, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
}

static void put_arg_in_parts(int fd, const char *data, size_t n) {
  do {
    size_t part = n < FRAME_BODY_MAX ? n : FRAME_BODY_MAX;
    send_flags(fd, CMD_ARG, 0, part < n ? FRAME_MORE : 0, data, part, NULL, 0);
    data += part;
    n -= part;
  } while (n > 0);
}

/* ---- options and forks ---- */

static void option(struct buf *b, unsigned tag, const void *value, size_t n) {
  buf_put_u8(b, tag);
  buf_put_u32(b, (uint32_t)n);
  buf_put(b, value, n);
}

static void option_byte(struct buf *b, unsigned tag, unsigned value) {
  unsigned char byte = (unsigned char)value;
  option(b, tag, &byte, 1);
}

static void inner(struct buf *b, unsigned type, unsigned nfds, uint64_t id,
                  const char *text) {
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f = {.length = (uint32_t)strlen(text),
                    .type = (uint8_t)type,
                    .nfds = (uint8_t)nfds,
                    .id = id};
  frame_encode(header, &f);
  buf_put(b, header, sizeof header);
  buf_put(b, text, strlen(text));
}

static void setup_with(int fd, int pipe_leash) {
  struct buf b;
  buf_init(&b, 4096);
  buf_put_u32(&b, PROTO_MAGIC);
  buf_put_u16(&b, PROTO_VERSION);
  buf_put_u16(&b, 0);
  build_put(&b);
  option(&b, OPT_NAME, "test", 4);
  if (pipe_leash)
    option_byte(&b, OPT_PIPE_LEASH, 1);
  put(fd, CMD_SETUP, (uint64_t)getpid(), buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
}

/* The memory that every template and its clones get: the slot of a clone is its id. */
enum { SLOTS = 1024 };
static struct {
  int births_fd, words_fd;
  volatile uint32_t *births;
  struct slot *words;
} shared;

static void share(void) {
  void *births, *words;
  assert_int_equal(share_new(slot_births_size(SLOTS), &shared.births_fd, &births), 0);
  assert_int_equal(share_new(slot_words_size(SLOTS), &shared.words_fd, &words), 0);
  shared.births = births;
  shared.words = words;
}

static void unshare_all(void) {
  share_unmap((void *)(uintptr_t)shared.births, slot_births_size(SLOTS));
  share_unmap(shared.words, slot_words_size(SLOTS));
  close(shared.births_fd);
  close(shared.words_fd);
}

/* Sends FORK with options, the socket and nfds more descriptors; gives the clone's
 * socket. The clone is to be our child. */
static int put_fork_with(int fd, uint64_t id, struct buf *options, const int *fds,
                         int nfds) {
  int pair[2], all[FRAME_FDS_MAX];
  unsigned char step[8] = {0, 0, 0, 0, SLOTS & 0xff, SLOTS >> 8};
  unsigned char slot[4] = {(unsigned char)id, (unsigned char)(id >> 8)};
  struct buf b;
  assert_int_equal(sock_pair(pair, 0), 0);
  all[0] = pair[1];
  all[1] = shared.births_fd;
  all[2] = shared.words_fd;
  for (int i = 0; i < nfds; i++)
    all[i + 3] = fds[i];
  buf_init(&b, 1 << 20);
  option(&b, OPT_SLOT_STEP, step, sizeof step);
  option(&b, OPT_SLOT, slot, sizeof slot);
  if (options)
    buf_put(&b, buf_peek(options), buf_size(options));
  shared.births[id] = 0;
  send_flags(fd, CMD_FORK, id, 0, buf_peek(&b), buf_size(&b), all, nfds + 3);
  buf_deinit(&b);
  close(pair[1]);
  return pair[0];
}

static int put_fork(int fd, uint64_t id) {
  return put_fork_with(fd, id, NULL, NULL, 0);
}

/* Its number stands in its slot, and it is our child. */
static pid_t expect_forked(int fd, uint64_t id) {
  (void)fd;
  for (int ms = 0; ms < TIMEOUT_MS && !shared.births[id]; ms++)
    poll(NULL, 0, 1);
  pid_t pid = (pid_t)shared.births[id];
  assert_true(pid > 0);
  int r = proc_peek(-1, pid);
  assert_true(r == MF_AGAIN || r == 0);
  return pid;
}

struct failed {
  uint64_t id;
  int code, phase, error;
  char message[FAILURE_TEXT_MAX + 1], traceback[FAILURE_TEXT_MAX + 1];
  size_t nvalue;
  char value[FAILURE_VALUE_MAX];
};

static void parse_failed(const struct answer *a, struct failed *ret) {
  struct reader r;
  size_t n;
  const char *text;
  reader_init(&r, a->body, a->f.length);
  ret->id = a->f.id;
  ret->code = (int)reader_u8(&r);
  ret->phase = (int)reader_u8(&r);
  reader_u16(&r);
  ret->error = (int)reader_u32(&r);
  text = reader_str(&r, &n);
  assert_true(n <= FAILURE_TEXT_MAX);
  memcpy(ret->message, text, n);
  ret->message[n] = 0;
  text = reader_str(&r, &n);
  assert_true(n <= FAILURE_TEXT_MAX);
  memcpy(ret->traceback, text ? text : "", n);
  ret->traceback[n] = 0;
  text = reader_left(&r) ? reader_str(&r, &n) : NULL;
  ret->nvalue = text ? n : 0;
  assert_true(ret->nvalue <= FAILURE_VALUE_MAX);
  memcpy(ret->value, text ? text : "", ret->nvalue);
  assert_true(r.ok);
  assert_int_equal(reader_left(&r), 0);
}

static const struct failed *expect_failed(int fd, unsigned type) {
  static struct answer a;
  static struct failed f;
  expect(fd, type, &a);
  parse_failed(&a, &f);
  return &f;
}

struct exited {
  uint64_t id;
  pid_t pid;
  int status;
  uint64_t maxrss;
  char words[9000];
};

static const struct exited *expect_exited(int fd, uint64_t id) {
  static struct exited e;
  struct proc_status st = {0};
  int r = MF_AGAIN;
  e = (struct exited){.id = id, .pid = expect_forked(fd, id)};
  for (int ms = 0; ms < TIMEOUT_MS && (r = proc_reap(-1, e.pid, &st)) == MF_AGAIN; ms++)
    poll(NULL, 0, 1);
  assert_int_equal(r, 0);
  e.status = st.status;
  e.maxrss = st.maxrss_bytes;
  size_t n = shared.words[id].text_size;
  assert_true(n < sizeof e.words);
  memcpy(e.words, (char *)shared.words + slot_heads_size(SLOTS) + id * SLOT_TEXT_MAX, n);
  e.words[n] = 0;
  return &e;
}

/* ---- the fixture ---- */

static void boot(struct template *t) {
  int pair[2], leash[2], nothing;
  const char *program = getenv("MOONFORK_TEMPLATE");
  assert_non_null(program);
  char *argv[] = {(char *)(uintptr_t)program, (char *)(uintptr_t)PROTO_BOOT_ARG "3,4",
                  NULL};
  extern char **environ;
  assert_int_equal(sock_pair(pair, 0), 0);
  assert_int_equal(pipe2(leash, O_CLOEXEC), 0);
  nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  struct proc_spawn s = {program, argv,     environ,
                         pair[1], leash[0], {nothing, -1, nothing}};
  if (getenv("TEMPLATE_STDERR"))
    s.stdio[2] = -1;
  assert_int_equal(proc_spawn(&s, &t->pid), 0);
  close(pair[1]);
  close(leash[0]);
  close(nothing);
  t->fd = pair[0];
  t->leash = leash[1];
}

static void start_with(struct template *t, int pipe_leash) {
  static struct answer a;
  share();
  boot(t);
  setup_with(t->fd, pipe_leash);
  expect(t->fd, ANS_HELLO, &a);
  assert_int_equal(a.f.id, t->pid);
  expect_done(t->fd, 1);
}

static void start(struct template *t) {
  start_with(t, 0);
}

static int wait_for(pid_t pid) {
  int status = -1;
  for (int ms = 0; ms < TIMEOUT_MS; ms++) {
    pid_t r = waitpid(pid, &status, WNOHANG);
    if (r == pid)
      return status;
    assert_int_equal(r, 0);
    poll(NULL, 0, 1);
  }
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  fail_msg("the template did not end");
  return status;
}

/* Closes our end and expects that exit code. */
static void finish(struct template *t, int code) {
  if (shared.births) {
    unshare_all();
    shared.births = NULL;
  }
  if (t->fd >= 0)
    close(t->fd);
  int status = wait_for(t->pid);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), code);
  close(t->leash);
}

static void read_text(int fd, char *to, size_t n) {
  size_t at = 0;
  for (;;) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, TIMEOUT_MS), 1);
    ssize_t got = read(fd, to + at, n - 1 - at);
    assert_true(got >= 0);
    if (got == 0)
      break;
    at += (size_t)got;
  }
  to[at] = 0;
}

static void assert_text(int fd, const char *expected) {
  static char text[65536];
  read_text(fd, text, sizeof text);
  assert_string_equal(text, expected);
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

/* ---- forks ---- */

static void test_forks_a_clone_that_serves(void **state) {
  static struct answer a;
  struct template t;
  start(&t);
  put_eval(t.fd, "function f(s, a) s:write(a, x) end x = 'template'");
  int clone = put_fork(t.fd, 5);
  pid_t pid = expect_forked(t.fd, 5);
  put_eval(clone, "x = 'clone'");
  put_text(clone, CMD_ARG, "in ");
  put_text(clone, CMD_RUN, "f");
  expect(clone, ANS_RUNNING, &a);
  assert_int_equal(a.f.id, pid);
  assert_text(clone, "in clone");
  const struct exited *e = expect_exited(t.fd, 5);
  assert_int_equal(e->pid, pid);
  assert_int_equal(e->status, 0);
  assert_true(e->maxrss > 100000);
  assert_string_equal(e->words, "");
  close(clone);
  finish(&t, 0);
}

static void test_fused_fork_runs_at_once(void **state) {
  static struct answer a;
  struct template t;
  struct buf commands, options;
  int pair[2];
  buf_init(&commands, 4096);
  buf_init(&options, 4096);
  start(&t);
  put_eval(t.fd,
           "function f(s, a, h, b) h:write(a, b) s:write 'done' error('last words') end");
  assert_int_equal(sock_pair(pair, 0), 0);
  inner(&commands, CMD_ARG, 0, 0, "a");
  inner(&commands, CMD_FD, 1, 0, "");
  inner(&commands, CMD_ARG, 0, 0, "b");
  inner(&commands, CMD_RUN, 0, 0, "f");
  option(&options, OPT_NAME, "fused", 5);
  option(&options, OPT_COMMANDS, buf_peek(&commands), buf_size(&commands));
  int clone = put_fork_with(t.fd, 9, &options, &pair[1], 1);
  close(pair[1]);
  expect_forked(t.fd, 9);
  next(clone, &a); /* not even a DONE before it */
  assert_int_equal(a.f.type, ANS_RUNNING);
  assert_text(pair[0], "ab");
  assert_text(clone, "done");
  const struct exited *e = expect_exited(t.fd, 9);
  assert_int_equal(WEXITSTATUS(e->status), 1);
  assert_non_null(strstr(e->words, "last words"));
  assert_non_null(strstr(e->words, "stack traceback"));
  close(clone);
  close(pair[0]);
  buf_deinit(&commands);
  buf_deinit(&options);
  finish(&t, 0);
}

static void test_exit_kinds_are_told(void **state) {
  static const struct {
    const char *code;
    int status;
  } rows[] = {
      {"return", 0},
      {"os.exit(7)", 7 << 8},
      {"os.exit(true)", 0},
      {"os.exit(false)", 1 << 8},
      {"error()", 1 << 8},
      {"require 'moonfork.clone'.kill(require 'moonfork.clone'.pid(), 9)", SIGKILL},
      {"coroutine.wrap(function() os.exit(5) end)()", 5 << 8},
  };
  struct template t;
  start(&t);
  put_eval(t.fd, "function f(s, code) assert(load(code))() end");
  for (size_t i = 0; i < COUNT(rows); i++) {
    int clone = put_fork(t.fd, 100 + i);
    put_text(clone, CMD_ARG, rows[i].code);
    put_text(clone, CMD_RUN, "f");
    const struct exited *e = expect_exited((expect_forked(t.fd, 100 + i), t.fd), 100 + i);
    assert_int_equal(e->status, rows[i].status);
    close(clone);
  }
  finish(&t, 0);
}

static void test_hooks_run_and_refuse(void **state) {
  static struct answer a;
  struct template t;
  start(&t);
  put_eval(
      t.fd,
      "local clone = require 'moonfork.clone' order = '' "
      "clone.on_fork(function() order = order .. '1' "
      "assert(select('#', clone.run_args()) == 0) end) "
      "clone.on_fork(function() order = order .. '2' if fails then error 'hook' end "
      "end) clone.before_fork(function() if refuse then return false, refuse end end)"
      "function f(s, a) s:write(order, a) end");
  put_text(t.fd, CMD_ARG, "x");
  int clone = put_fork(t.fd, 1);
  expect_forked(t.fd, 1);
  put_text(clone, CMD_RUN, "f");
  expect(clone, ANS_RUNNING, &a);
  assert_text(clone, "12x");
  close(clone);
  expect_exited(t.fd, 1);
  put_eval(t.fd, "refuse = 'not today'");
  clone = put_fork(t.fd, 2);
  const struct failed *f = expect_failed(t.fd, ANS_FORK_FAILED);
  assert_int_equal(f->id, 2);
  assert_int_equal(f->code, FAILURE_FORK);
  assert_string_equal(f->message, "not today");
  expect_eof(clone);
  close(clone);
  put_eval(t.fd, "refuse = nil fails = true");
  clone = put_fork(t.fd, 3);
  expect_forked(t.fd, 3);
  f = expect_failed(clone, ANS_FAILED);
  assert_int_equal(f->phase, PHASE_HOOK);
  close(clone);
  assert_int_equal(expect_exited(t.fd, 3)->status, 1 << 8);
  finish(&t, 0);
}

static void test_options_of_a_fork(void **state) {
  static struct answer a;
  struct template t;
  struct buf o;
  int out[2];
  assert_int_equal(pipe2(out, O_CLOEXEC), 0);
  buf_init(&o, 4096);
  start(&t);
  put_eval(t.fd, "kept = io.open '/dev/zero' function f(s) "
                 "io.write(os.getenv 'MF_A', tostring(os.getenv 'CONTEXT'), ' ') "
                 "io.stderr:write('on socket ') "
                 "s:write(io.open 'null' and 'there ' or 'else ', #(kept:read(1) or ''))"
                 " end");
  option(&o, OPT_ENV, "MF_A=1=2", 8);
  option(&o, OPT_UNENV, "CONTEXT", 4);
  option(&o, OPT_CWD, "/dev", 4);
  option(&o, OPT_STDIO, "\1\3\2", 3);
  option_byte(&o, OPT_SESSION, 1);
  option_byte(&o, OPT_HANDLES, MF_HANDLES_CLOSE);
  int clone = put_fork_with(t.fd, 1, &o, &out[1], 1);
  close(out[1]);
  pid_t pid = expect_forked(t.fd, 1);
  put(clone, CMD_WHO, 0, NULL, 0);
  expect(clone, ANS_HELLO, &a);
  assert_int_equal(getsid(pid), pid);
  put_text(clone, CMD_RUN, "f");
  expect(clone, ANS_RUNNING, &a);
  assert_text(out[0], "1=2nil ");
  assert_text(clone, "on socket there 0");
  close(clone);
  close(out[0]);
  expect_exited(t.fd, 1);
  buf_consume(&o, buf_size(&o));
  option(&o, OPT_CWD, "/no/such", 8);
  clone = put_fork_with(t.fd, 2, &o, NULL, 0);
  expect_forked(t.fd, 2);
  const struct failed *f = expect_failed(clone, ANS_FAILED);
  assert_int_equal(f->phase, PHASE_OPTION);
  assert_non_null(strstr(f->message, "cwd"));
  close(clone);
  assert_int_equal(expect_exited(t.fd, 2)->status, 1 << 8);
  buf_deinit(&o);
  finish(&t, 0);
}

/* Its descriptor comes first, and there is none in SETUP; no other number of them will
 * do.
 */
static void test_a_tree_leads_its_group(void **state) {
  struct template t;
  struct answer a;
  struct buf o;
  start(&t);
  put_eval(t.fd, "function f() io.write 'on the pipe' end");
  buf_init(&o, 1 << 16);
  int leash[2], out[2];
  assert_int_equal(pipe2(leash, O_CLOEXEC), 0);
  assert_int_equal(pipe2(out, O_CLOEXEC), 0);
  option_byte(&o, OPT_TREE, MF_TREE_YES);
  option(&o, OPT_STDIO, "\0\3\0", 3);
  const int fds[] = {leash[0], out[1]};
  int clone = put_fork_with(t.fd, 1, &o, fds, 2);
  pid_t pid = expect_forked(t.fd, 1);
  put(clone, CMD_WHO, 0, NULL, 0);
  expect(clone, ANS_HELLO, &a);
  assert_int_equal(a.body[6], HELLO_TREE);
  assert_int_equal(getpgid(pid), pid);
  fd_close(&out[1]);
  put_text(clone, CMD_RUN, "f");
  expect(clone, ANS_RUNNING, &a);
  assert_text(out[0], "on the pipe");
  close(clone);
  expect_exited(t.fd, 1);
  close(out[0]);
  buf_consume(&o, buf_size(&o));
  option_byte(&o, OPT_TREE, MF_TREE_NO);
  clone = put_fork_with(t.fd, 2, &o, NULL, 0);
  pid = expect_forked(t.fd, 2);
  put(clone, CMD_WHO, 0, NULL, 0);
  expect(clone, ANS_HELLO, &a);
  assert_int_equal(a.body[6], 0);
  assert_int_equal(getpgid(pid), getpgid(t.pid));
  close(clone);
  expect_exited(t.fd, 2);
  close(leash[0]);
  close(leash[1]);
  buf_deinit(&o);
  finish(&t, 0);
}

static void test_lost_descriptors_refuse_one_fork(void **state) {
  struct template t;
  char path[64];
  struct rlimit old, tight;
  start(&t);
  snprintf(path, sizeof path, "/proc/%d", (int)t.pid);
  assert_int_equal(prlimit(t.pid, RLIMIT_NOFILE, NULL, &old), 0);
  tight = old;
  tight.rlim_cur = 5; /* 0 to 4 are taken */
  assert_int_equal(prlimit(t.pid, RLIMIT_NOFILE, &tight, NULL), 0);
  int clone = put_fork(t.fd, 1);
  const struct failed *f = expect_failed(t.fd, ANS_FORK_FAILED);
  assert_int_equal(f->code, FAILURE_LIMIT);
  assert_int_equal(f->id, 1);
  expect_eof(clone);
  close(clone);
  assert_int_equal(prlimit(t.pid, RLIMIT_NOFILE, &old, NULL), 0);
  clone = put_fork(t.fd, 2);
  expect_forked(t.fd, 2);
  close(clone);
  assert_int_equal(expect_exited(t.fd, 2)->status, 0);
  finish(&t, 0);
}

static void test_clones_of_clones(void **state) {
  static struct answer a;
  struct template t;
  start(&t);
  put_eval(t.fd, "x = '0'");
  int one = put_fork(t.fd, 1);
  expect_forked(t.fd, 1);
  put_eval(one, "x = x .. '1'");
  int two = put_fork(one, 2);
  pid_t pid = expect_forked(one, 2);
  put_eval(two, "x = x .. '2' function f(s) s:write(x) end");
  put_text(two, CMD_RUN, "f");
  expect(two, ANS_RUNNING, &a);
  assert_int_equal(a.f.id, pid);
  assert_text(two, "012");
  assert_int_equal(expect_exited(one, 2)->status, 0);
  close(one);
  close(two);
  assert_int_equal(expect_exited(t.fd, 1)->status, 0);
  finish(&t, 0);
}

/* ---- ends ---- */

static const char sleeper[] = "function f(s) s:read(1) end "
                              "function spin() while true do end end";

/* Its clones are ours: whatever becomes of it, they live on, and their ends are told. */
static void test_nobody_stays_behind(void **state) {
  enum { CLOSED, HUNG_UP, FAILED, KILLED, RAN, WAYS };
  for (int way = 0; way < WAYS; way++) {
    static struct answer a;
    struct template t;
    start(&t);
    put_eval(t.fd, sleeper);
    int clone = put_fork(t.fd, 1);
    pid_t pid = expect_forked(t.fd, 1);
    put_text(clone, CMD_RUN, "f");
    expect(clone, ANS_RUNNING, &a);
    int late = -1;
    switch (way) {
    case CLOSED:
      put(t.fd, CMD_CLOSE, 0, NULL, 0);
      for (unsigned type = CMD_SETUP; type <= CMD_LAST; type++)
        put(t.fd, type, 0, "junk", 4); /* nothing is executed any more */
      expect_eof(t.fd);
      break;
    case HUNG_UP:
      close(t.fd);
      t.fd = -1;
      break;
    case FAILED:
      put_eval(t.fd, "error 'x'");
      late = put_fork(t.fd, 2);
      assert_int_equal(expect_failed(t.fd, ANS_FAILED)->id, 4);
      expect_eof(late);
      close(late);
      expect_eof(t.fd);
      assert_int_equal(shared.births[2], 0);
      break;
    case KILLED:
      kill(t.pid, SIGKILL);
      break;
    case RAN: /* the very process, whatever lives that it has forked */
      put_text(t.fd, CMD_RUN, "f");
      expect(t.fd, ANS_RUNNING, &a);
      assert_int_equal(a.f.id, t.pid);
      assert_int_equal(write(t.fd, "x", 1), 1);
      break;
    }
    int status = wait_for(t.pid);
    assert_int_equal(status, way == KILLED ? SIGKILL : way == FAILED ? 1 << 8 : 0);
    assert_int_equal(proc_peek(-1, pid), MF_AGAIN);
    close(clone);
    assert_int_equal(expect_exited(t.fd, 1)->status, 0);
    if (t.fd >= 0)
      close(t.fd);
    close(t.leash);
    unshare_all();
    shared.births = NULL;
  }
}

/* Slots begin anew with each owner, at 0: the number of a clone once went to where the
 * former owner had told, and the new one never learned it. */
static void test_a_new_owner_brings_its_own_slots(void **state) {
  static struct answer a;
  struct template t;
  start(&t);
  int first = put_fork(t.fd, 1);
  pid_t old = expect_forked(t.fd, 1);
  close(first);
  expect_exited(t.fd, 1);
  volatile uint32_t *former = shared.births;
  void *words = shared.words;
  close(shared.births_fd);
  close(shared.words_fd);
  share();
  put(t.fd, CMD_WHO, (uint64_t)getpid(), NULL, 0);
  expect(t.fd, ANS_HELLO, &a);
  int second = put_fork(t.fd, 1);
  pid_t pid = expect_forked(t.fd, 1);
  assert_int_not_equal(pid, old);
  assert_int_equal(former[1], old);
  close(second);
  expect_exited(t.fd, 1);
  share_unmap((void *)(uintptr_t)former, slot_births_size(SLOTS));
  share_unmap(words, slot_words_size(SLOTS));
  finish(&t, 0);
}

/* Its owner is not its parent: then its clones can't be the owner's children. They are
 * its own, introduce themselves, and are reaped by nobody but the kernel. */
static void test_clones_for_an_owner_that_is_not_the_parent(void **state) {
  static struct answer a;
  struct template t;
  int leash[2];
  start(&t);
  assert_int_equal(pipe2(leash, O_CLOEXEC), 0);
  send_flags(t.fd, CMD_WHO, 1, 0, NULL, 0, leash, 1);
  close(leash[0]);
  expect(t.fd, ANS_HELLO, &a);
  put_eval(t.fd, sleeper);
  int clone = put_fork(t.fd, 1);
  next(clone, &a);
  assert_int_equal(a.f.type, ANS_HELLO);
  pid_t pid = (pid_t)a.f.id;
  assert_int_equal(shared.births[1], 0);
  assert_int_equal(proc_peek(-1, pid), -ECHILD);
  int spinner = put_fork(t.fd, 2);
  next(spinner, &a);
  pid_t busy = (pid_t)a.f.id;
  put_text(clone, CMD_RUN, "f");
  put_text(spinner, CMD_RUN, "spin");
  expect(clone, ANS_RUNNING, &a);
  expect(spinner, ANS_RUNNING, &a);
  close(clone);
  for (int ms = 0; ms < TIMEOUT_MS && kill(pid, 0) == 0; ms++)
    poll(NULL, 0, 1);
  assert_int_equal(kill(pid, 0), -1); /* no zombie */
  /* What user code starts is reaped by user code, all the same. */
  put_eval(t.fd, "local p = io.popen('exit 3') assert(select(3, p:close()) == 3)");
  put(t.fd, CMD_WHO, 1, NULL, 0);
  expect(t.fd, ANS_HELLO, &a);
  close(leash[1]); /* the new owner is gone, and not the parent */
  for (int ms = 0; ms < TIMEOUT_MS && kill(busy, 0) == 0; ms++)
    poll(NULL, 0, 1);
  assert_int_equal(kill(busy, 0), -1);
  assert_int_equal(wait_for(t.pid),
                   SIGKILL); /* it has run user code, and is on the same leash */
  close(spinner);
  close(t.fd);
  close(t.leash);
  unshare_all();
  shared.births = NULL;
}

static void test_parts_of_a_command_that_are_none(void **state) {
  static const struct {
    unsigned type;
    uint64_t id;
    int nfds;
  } cases[] = {
      {CMD_REQUIRE, 0, 0}, {CMD_ARG, 1, 0}, {CMD_ARG, 0, 1}, {CMD_TAKE_ARGS, 0, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct template t;
    start(&t);
    send_flags(t.fd, CMD_ARG, 0, FRAME_MORE, "x", 1, NULL, 0);
    int fd = STDIN_FILENO;
    send_flags(t.fd, cases[i].type, cases[i].id, 0, "y", 1, &fd, cases[i].nfds);
    const struct failed *f = expect_failed(t.fd, ANS_FAILED);
    assert_int_equal(f->code, FAILURE_PROTOCOL);
    assert_non_null(strstr(f->message, "message"));
    expect_eof(t.fd);
    finish(&t, 1);
  }
}

static void test_commands_after_run_are_refused(void **state) {
  struct template t;
  start(&t);
  unsigned char both[2 * FRAME_HEADER_SIZE + 5];
  struct frame f = {.length = 5, .type = CMD_RUN};
  frame_encode(both, &f);
  memcpy(both + FRAME_HEADER_SIZE, "print", 5);
  f = (struct frame){.type = CMD_WHO};
  frame_encode(both + FRAME_HEADER_SIZE + 5, &f);
  struct iovec iov = {both, sizeof both};
  sock_send(t.fd, &iov, 1, NULL, 0);
  assert_int_equal(expect_failed(t.fd, ANS_FAILED)->code, FAILURE_PROTOCOL);
  finish(&t, 1);
}

static void test_no_ghost_starts_for_a_parent_that_is_gone(void **state) {
  struct template t;
  int pair[2];
  char text[8];
  assert_int_equal(sock_pair(pair, 0), 0);
  start(&t);
  put_eval(t.fd, "function f(s, h) h:write 'ghost' end");
  int clone = put_fork(t.fd, 1);
  expect_forked(t.fd, 1);
  send_flags(clone, CMD_FD, 0, 0, NULL, 0, &pair[1], 1);
  close(pair[1]);
  put_text(clone, CMD_RUN, "f");
  /* Stopped before it can read, so that it finds the end of file behind the command. */
  close(clone);
  read_text(pair[0], text, sizeof text);
  int status = expect_exited(t.fd, 1)->status;
  assert_int_equal(status, 0);
  close(pair[0]);
  finish(&t, 0);
}

/* Clones on each leash, busy; and the template busy itself. */
static void start_spinners(struct template *t, int pipe_leash, pid_t pids[4]) {
  static struct answer a;
  start_with(t, pipe_leash);
  put_eval(t->fd, sleeper);
  for (int mode = MF_LEASH_KILL; mode <= MF_LEASH_KEEP; mode++) {
    struct buf o;
    buf_init(&o, 64);
    option_byte(&o, OPT_LEASH, (unsigned)mode);
    int clone = put_fork_with(t->fd, (uint64_t)mode, &o, NULL, 0);
    pids[mode] = expect_forked(t->fd, (uint64_t)mode);
    put_text(clone, CMD_RUN, "spin");
    expect(clone, ANS_RUNNING, &a);
    close(clone);
    buf_deinit(&o);
  }
  put_eval(t->fd, "while true do end");
  poll(NULL, 0, 100);
  pids[3] = t->pid;
}

static void check_spinners(pid_t pids[4]) {
  assert_int_equal(wait_for(pids[MF_LEASH_KILL]) & 0x7f, SIGKILL);
  assert_int_equal(wait_for(pids[MF_LEASH_TERM]) & 0x7f, SIGTERM);
  assert_int_equal(wait_for(pids[3]) & 0x7f, SIGKILL);
  poll(NULL, 0, 50);
  assert_int_equal(waitpid(pids[MF_LEASH_KEEP], NULL, WNOHANG), 0);
  kill(pids[MF_LEASH_KEEP], SIGKILL);
  assert_int_equal(wait_for(pids[MF_LEASH_KEEP]) & 0x7f, SIGKILL);
}

static void test_a_pipe_as_leash_ends_what_runs(void **state) {
  if (access("/proc/self/fd", F_OK) < 0)
    skip(); /* the leash is armed through it */
  struct template t;
  pid_t pids[4];
  start_spinners(&t, 1, pids);
  close(t.leash);
  check_spinners(pids);
  close(t.fd);
  unshare_all();
  shared.births = NULL;
}

/* The parent is a process of its own here, whose children fall to the test. */
static void test_the_end_of_the_parent_ends_what_runs(void **state) {
  struct template t;
  pid_t pids[4];
  int told[2];
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  assert_int_equal(pipe2(told, O_CLOEXEC), 0);
  pid_t parent = fork();
  if (parent == 0) {
    start_spinners(&t, 0, pids);
    if (write(told[1], pids, sizeof pids) != sizeof pids)
      _exit(1);
    raise(SIGKILL);
  }
  close(told[1]);
  read_exactly(told[0], pids, sizeof pids);
  assert_int_equal(wait_for(parent), SIGKILL);
  check_spinners(pids);
  close(told[0]);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

static void test_finalisers_of_ones_own_only(void **state) {
  static struct answer a;
  struct template t;
  start(&t);
  put_eval(
      t.fd,
      "local function object(n) return setmetatable({}, {__gc = function() "
      "out:write(n) end}) end "
      "inherited = object 'T' shared = {__gc = function(o) out:write(o[1]) end} "
      "old = setmetatable({'O'}, shared) "
      "function f(s, finalise) out = s a = object 'a' b = setmetatable({'b'}, shared) "
      "require 'moonfork.clone'.exit(4, finalise == 'yes') end");
  static const char *const expected[] = {"ba", ""};
  for (int i = 0; i < 2; i++) {
    int clone = put_fork(t.fd, 1);
    expect_forked(t.fd, 1);
    put_text(clone, CMD_ARG, i == 0 ? "yes" : "no");
    put_text(clone, CMD_RUN, "f");
    expect(clone, ANS_RUNNING, &a);
    assert_text(clone, expected[i]);
    assert_int_equal(expect_exited(t.fd, 1)->status, 4 << 8);
    close(clone);
  }
  /* The same in a clone of a clone, whose parent's own objects are inherited ones. */
  int one = put_fork(t.fd, 2);
  expect_forked(t.fd, 2);
  put_eval(one, "middle = setmetatable({'M'}, shared)");
  int two = put_fork(one, 3);
  expect_forked(one, 3);
  put_text(two, CMD_ARG, "yes");
  put_text(two, CMD_RUN, "f");
  expect(two, ANS_RUNNING, &a);
  assert_text(two, "ba");
  close(one);
  close(two);
  expect_exited(one, 3);
  expect_exited(t.fd, 2);
  finish(&t, 0);
}

static void test_random_numbers_differ_in_clones(void **state) {
  static struct answer a;
  static char texts[4][128];
  struct template t;
  start(&t);
  put_eval(t.fd, "math.randomseed(42) local clone = require 'moonfork.clone' "
                 "function f(s) s:write(math.random(0), ' ', clone.id()) end");
  for (int i = 0; i < 4; i++) {
    int clone = put_fork(t.fd, (uint64_t)i);
    expect_forked(t.fd, (uint64_t)i);
    put_text(clone, CMD_RUN, "f");
    expect(clone, ANS_RUNNING, &a);
    read_text(clone, texts[i], sizeof texts[i]);
    for (int k = 0; k < i; k++)
      assert_string_not_equal(texts[i], texts[k]);
    expect_exited(t.fd, (uint64_t)i);
    close(clone);
  }
  finish(&t, 0);
}

static void test_clone_has_clean_signals_and_descriptors(void **state) {
  if (access("/proc/self/fd", F_OK) < 0)
    skip();
  static struct answer a;
  static char text[4096];
  struct template t;
  start(&t);
  put_eval(t.fd,
           "function f(s) local out = {} for l in io.lines '/proc/self/status' do "
           "if l:match '^Sig[BCI]' then out[#out + 1] = l end end "
           "local p = io.popen('ls /proc/' .. require 'moonfork.clone'.pid() .. '/fd') "
           "for l in p:lines() do out[#out + 1] = 'fd' .. l end p:close() "
           "s:write(table.concat(out, ' '), ' ') end");
  close(put_fork(t.fd, 1));
  expect_forked(t.fd, 1);
  expect_exited(t.fd, 1);
  int clone = put_fork(t.fd, 2);
  expect_forked(t.fd, 2);
  put_text(clone, CMD_RUN, "f");
  expect(clone, ANS_RUNNING, &a);
  read_text(clone, text, sizeof text);
  assert_non_null(strstr(text, "SigBlk:\t0000000000000000"));
  assert_non_null(strstr(text, "SigIgn:\t0000000000000000"));
  assert_non_null(strstr(text, "SigCgt:\t0000000000000000"));
  /* 0 to 2, the socket, popen's pipe (whose far end may not be closed yet). */
  int nfds = 0;
  for (const char *p = text; (p = strstr(p, "fd")); p++)
    nfds++;
  if (nfds > 6)
    fail_msg("too many descriptors: %s", text);
  close(clone);
  expect_exited(t.fd, 2);
  finish(&t, 0);
}

/* Of 100,000 empty tables in a list. */
enum { PLENTY = sizeof(void *) > 4 ? 5000000 : 3000000 };

static void test_measures_memory(void **state) {
  if (access("/proc/self/fd", F_OK) < 0)
    skip();
  static struct answer a;
  struct template t;
  start(&t);
  put_eval(t.fd, "t = {} for i = 1, 100000 do t[i] = {} end "
                 "function f(s) s:read(1) end");
  put(t.fd, CMD_MEMORY, 0, NULL, 0);
  expect(t.fd, ANS_MEMORY, &a);
  struct reader r;
  reader_init(&r, a.body, a.f.length);
  assert_int_equal(reader_u32(&r), 0);
  reader_u32(&r);
  assert_true(reader_u64(&r) > PLENTY);
  reader_take(&r, 24);
  assert_true(reader_u64(&r) > PLENTY);
  int clone = put_fork(t.fd, 3);
  expect_forked(t.fd, 3);
  put_text(clone, CMD_RUN, "f");
  expect(clone, ANS_RUNNING, &a);
  unsigned char who[8] = {0};
  for (int i = 0; i < 4; i++)
    who[i] = (unsigned char)(shared.births[3] >> (8 * i));
  who[4] = 3;
  put(t.fd, CMD_MEMORY, 3, who, sizeof who);
  expect(t.fd, ANS_MEMORY, &a);
  assert_int_equal(a.f.id, 3);
  reader_init(&r, a.body, a.f.length);
  assert_int_equal(reader_u32(&r), 0);
  reader_u32(&r);
  assert_true(reader_u64(&r) > 10000);
  put(t.fd, CMD_MEMORY, 4, NULL, 0); /* of whom it does not say */
  expect(t.fd, ANS_MEMORY, &a);
  reader_init(&r, a.body, a.f.length);
  assert_int_equal(reader_u32(&r), EINVAL);
  close(clone);
  expect_exited(t.fd, 3);
  finish(&t, 0);
}

static void test_an_interval_timer_is_invisible(void **state) {
  static struct answer a;
  struct template t;
  start(&t);
  /* The handler is Lua's own idea of a signal here: a spinning child sends SIGCONT, which
   * interrupts system calls of the template without ending it. */
  put_eval(t.fd, "function f(s) s:write 'ok' end");
  pid_t nuisance = fork();
  if (nuisance == 0) {
    for (;;) {
      kill(t.pid, SIGCONT);
      poll(NULL, 0, 1);
    }
  }
  for (uint64_t i = 0; i < 200; i++) {
    int clone = put_fork(t.fd, i);
    expect_forked(t.fd, i);
    put_text(clone, CMD_RUN, "f");
    expect(clone, ANS_RUNNING, &a);
    assert_text(clone, "ok");
    expect_exited(t.fd, i);
    close(clone);
  }
  kill(nuisance, SIGKILL);
  waitpid(nuisance, NULL, 0);
  finish(&t, 0);
}

static int remember(void **state) {
  signal(SIGPIPE, SIG_IGN);
  return 0;
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
      census_test(test_forks_a_clone_that_serves),
      census_test(test_fused_fork_runs_at_once),
      census_test(test_exit_kinds_are_told),
      census_test(test_hooks_run_and_refuse),
      census_test(test_options_of_a_fork),
      census_test(test_a_tree_leads_its_group),
      census_test(test_lost_descriptors_refuse_one_fork),
      census_test(test_clones_of_clones),
      census_test(test_nobody_stays_behind),
      census_test(test_a_new_owner_brings_its_own_slots),
      census_test(test_clones_for_an_owner_that_is_not_the_parent),
      census_test(test_commands_after_run_are_refused),
      census_test(test_no_ghost_starts_for_a_parent_that_is_gone),
      census_test(test_a_pipe_as_leash_ends_what_runs),
      census_test(test_the_end_of_the_parent_ends_what_runs),
      census_test(test_finalisers_of_ones_own_only),
      census_test(test_random_numbers_differ_in_clones),
      census_test(test_clone_has_clean_signals_and_descriptors),
      census_test(test_measures_memory),
      census_test(test_an_interval_timer_is_invisible),
  };
  return cmocka_run_group_tests(tests, remember, NULL);
}
